// The command `kvcodec`.
//
// Exit codes: 0 ok, 1 a check failed, 2 bad use or unreadable input.
#include <cstdio>
#include <exception>
#include <string>

#include "kvcodec/attend/cpu_isa.hpp"
#include "src/cli/commands.hpp"

namespace {

/// "demo, eval, ..."
std::string subcommand_names(const CLI::App& app) {
  std::string text;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    text += (text.empty() ? "" : ", ") + sub->get_name();
  }
  return text;
}

int explain(const CLI::App& app, const CLI::ParseError& e, const std::string& first_argument) {
  if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
  const auto used = app.get_subcommands();
  if (used.empty()) {
    std::fprintf(stderr, "kvcodec: subcommand = \"%s\", allowed: %s\n", first_argument.c_str(),
                 subcommand_names(app).c_str());
  } else {
    std::fprintf(stderr, "kvcodec: %s\nkvcodec %s --help lists what is allowed\n", e.what(),
                 used[0]->get_name().c_str());
  }
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Keeps an LLM's KV cache compressed and attends over it.", "kvcodec");
  kvcodec::cli::Run run;
  kvcodec::cli::add_bench(app, run);
  kvcodec::cli::add_calibrate(app, run);
  kvcodec::cli::add_demo(app, run);
  kvcodec::cli::add_eval(app, run);
  kvcodec::cli::add_list(app, run);
  kvcodec::cli::add_plan(app, run);
  kvcodec::cli::add_reproduce(app, run);
  kvcodec::cli::add_verify(app, run);
  app.require_subcommand(1);
  app.set_version_flag("--version", KVCODEC_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return explain(app, e, argc > 1 ? argv[1] : "");
  }
  const std::string problem = kvcodec::cpu_isa_problem();
  if (!problem.empty()) {
    std::fprintf(stderr, "kvcodec: %s\n", problem.c_str());
    return 2;
  }
  try {
    return run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvcodec: %s\n", e.what());
    return 2;
  }
}
