// kvcodec eval --synthetic: plans on contexts made by a formula, with facts planted in them.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

#include "src/cli/commands.hpp"
#include "src/eval/synthetic.hpp"

namespace kvcodec::cli {

/// What `kvcodec eval` says about synthetic contexts.
struct SyntheticCommand {
  bool on = false;
  eval::SyntheticOptions options;
  std::vector<eval::NamedPlan> plans;  ///< empty: the main methods
};

/// Declares --synthetic and the options that only it uses; `command` must outlive the parsing.
void add_synthetic(CLI::App& eval, SyntheticCommand& command);

/// Runs it, prints the tables and returns what belongs into report.json beside the envelope.
Json run(const SyntheticCommand& command, const Executor& executor);

}  // namespace kvcodec::cli
