// Runs the registered tests of the stand-in for GoogleTest.
#include <gtest/gtest.h>

#include <exception>

namespace testing {
namespace {

/// Whether `text` matches a pattern with * and ?.
bool matches(const char* pattern, const char* text) {
  if (*pattern == '\0') return *text == '\0';
  if (*pattern == '*') {
    return matches(pattern + 1, text) || (*text != '\0' && matches(pattern, text + 1));
  }
  return *text != '\0' && (*pattern == '?' || *pattern == *text) && matches(pattern + 1, text + 1);
}

bool matches_one(const std::string& patterns, const std::string& name) {
  std::istringstream in(patterns);
  for (std::string one; std::getline(in, one, ':');) {
    if (matches(one.c_str(), name.c_str())) return true;
  }
  return false;
}

/// "a*:b-c*": a or b and not c.
bool chosen(const std::string& filter, const std::string& name) {
  const std::size_t minus = filter.find('-');
  const std::string wanted = filter.substr(0, minus);
  if (!wanted.empty() && !matches_one(wanted, name)) return false;
  return minus == std::string::npos || !matches_one(filter.substr(minus + 1), name);
}

void run_one(const internal::Entry& entry) {
  internal::state() = {};
  try {
    entry.run();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "an exception nobody caught: " << e.what();
  } catch (...) {
    ADD_FAILURE() << "an exception nobody caught";
  }
}

}  // namespace

int run_all(int argc, char** argv) {
  std::string filter = "*";
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg.starts_with("--gtest_filter=")) filter = arg.substr(std::strlen("--gtest_filter="));
    else if (arg == "--gtest_list_tests") list = true;
    else if (!arg.starts_with("--gtest_")) {
      std::fprintf(stderr, "unknown argument %s\n", argv[i]);
      return 2;
    }
  }
  for (const auto& expand : internal::expansions()) expand();
  int n_run = 0;
  int n_skipped = 0;
  std::vector<std::string> failed;
  for (const internal::Entry& entry : internal::entries()) {
    if (!chosen(filter, entry.name)) continue;
    if (list) {
      std::printf("%s\n", entry.name.c_str());
      continue;
    }
    std::printf("[ RUN      ] %s\n", entry.name.c_str());
    std::fflush(stdout);
    run_one(entry);
    ++n_run;
    const internal::State& s = internal::state();
    n_skipped += s.skipped ? 1 : 0;
    if (s.failed) failed.push_back(entry.name);
    std::printf("%s %s\n",
                s.failed    ? "[  FAILED  ]"
                : s.skipped ? "[  SKIPPED ]"
                            : "[       OK ]",
                entry.name.c_str());
  }
  if (list) return 0;
  std::printf("[==========] %d tests ran.\n", n_run);
  std::printf("[  PASSED  ] %d tests.\n", n_run - n_skipped - static_cast<int>(failed.size()));
  if (n_skipped > 0) std::printf("[  SKIPPED ] %d tests.\n", n_skipped);
  if (!failed.empty()) std::printf("[  FAILED  ] %zu tests, listed below:\n", failed.size());
  for (const std::string& name : failed) std::printf("[  FAILED  ] %s\n", name.c_str());
  return failed.empty() ? 0 : 1;
}

}  // namespace testing

int main(int argc, char** argv) { return testing::run_all(argc, argv); }
