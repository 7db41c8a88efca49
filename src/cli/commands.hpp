// The subcommands. Each add_* declares one on `app` and sets `run` to what main() is to call; the
// returned number is the exit code: 0 ok, 1 a check failed. Bad use throws, which main() makes 2.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "src/output/output.hpp"

namespace kvcodec::cli {

using namespace output;

using Run = std::function<int()>;

void add_bench(CLI::App& app, Run& run);
void add_calibrate(CLI::App& app, Run& run);
void add_demo(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_list(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_reproduce(CLI::App& app, Run& run);
void add_verify(CLI::App& app, Run& run);

}  // namespace kvcodec::cli
