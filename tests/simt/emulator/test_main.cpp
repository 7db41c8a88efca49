// main of every emulator test: a fault that nobody took fails the test that left it, and device
// memory that nobody freed fails the program.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/simt/emulator/runtime.hpp"

namespace {

class NoPendingFault : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo&) override {
    const std::string fault = kvcodec::simt::take_fault();
    if (!fault.empty()) ADD_FAILURE() << "a launch failed and nobody asked why: " << fault;
  }
};

}  // namespace

#if defined(KVCODEC_SIMT_TSAN)
// The first race ends the process, so that the report stands under the name of its test.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() {
  return "halt_on_error=1:exitcode=66:atexit_sleep_ms=0";
}
// NOLINTEND(bugprone-reserved-identifier)
#endif

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new NoPendingFault);
  const int result = RUN_ALL_TESTS();
  const std::size_t leaked = kvcodec::simt::device_bytes_in_use();
  if (leaked != 0) {
    std::printf("%zu bytes of device memory were not freed\n", leaked);
    return 1;
  }
  return result;
}
