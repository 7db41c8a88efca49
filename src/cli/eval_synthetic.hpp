// kvcodec eval --synthetic: plans on contexts made by a formula, with facts planted in them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "src/eval/synthetic.hpp"

namespace kvcodec::cli {

/// What `kvcodec eval` says about synthetic contexts.
struct SyntheticCommand {
  bool on = false;
  std::string lengths = "4096,16384,65536,131072";
  eval::SyntheticOptions options;
};

/// Declares --synthetic and the options that only it uses.
std::shared_ptr<SyntheticCommand> add_synthetic(CLI::App& eval);

/// Runs it; no plans: a list of the main methods. Writes `json` unless that is empty.
int eval_synthetic(const SyntheticCommand& command, const std::vector<std::string>& plans,
                   int threads, const std::string& json);

}  // namespace kvcodec::cli
