// The command `kvcodec`.
//
// Exit codes: 0 ok, 1 a check failed, 2 bad use or unreadable input.
#include <cstdio>
#include <exception>
#include <string>

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

int explain(const CLI::App& app, const CLI::ParseError& e) {
  if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
  const auto used = app.get_subcommands();
  std::string hint =
      "allowed: kvcodec <subcommand> [options], subcommands: " + subcommand_names(app);
  if (!used.empty()) hint = "options: kvcodec " + used[0]->get_name() + " --help";
  std::fprintf(stderr, "kvcodec: %s\n%s\n", e.what(), hint.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Keeps an LLM's KV cache compressed and attends over it.", "kvcodec");
  kvcodec::cli::Run run;
  kvcodec::cli::add_demo(app, run);
  kvcodec::cli::add_eval(app, run);
  kvcodec::cli::add_list(app, run);
  kvcodec::cli::add_verify(app, run);
  app.require_subcommand(1);
  app.set_version_flag("--version", KVCODEC_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return explain(app, e);
  }
  try {
    return run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvcodec: %s\n", e.what());
    return 2;
  }
}
