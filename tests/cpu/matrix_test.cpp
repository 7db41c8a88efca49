// Matrices that Linux refuses to a process: everything works as without them. A program of its own,
// because whoever was allowed once stays so.
#include "src/cpu/matrix.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "src/cpu/tile_kernels.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/isa_guard.hpp"

#if defined(__linux__)
#include <csignal>
#endif

namespace kvcodec {
namespace {

constexpr int kDim = 128;
constexpr int kQueries = 8;

/// Sums of a tile of V for kQueries queries on one instruction set.
std::vector<float> sums(const std::string& isa) {
  const test::IsaGuard guard(isa);
  const AnyCodec codec = make_codec("int8").with_tables(kDim);
  const std::vector<float> rows = test::gauss_rows(kTileRows, kDim, 3);
  std::vector<std::byte> tile(codec.tile_bytes(kDim));
  codec.encode_tile(Side::value, kDim, rows.data(), tile.data());
  const std::vector<float> w = test::gauss_rows(kQueries, kTileRows, 5);
  std::vector<float> acc(static_cast<std::size_t>(kQueries * kDim));
  const cpu::ValueKernel kernel(cpu::kernels(), codec, kDim, false, true);
  const cpu::KernelUnit unit(cpu::kernels(), kQueries);
  cpu::Ahead ahead;
  kernel(codec, tile.data(), 0, w.data(), kQueries, ahead, acc.data());
  return acc;
}

TEST(Matrices, RefusedOnesAreNotUsed) {
#if defined(__linux__)
  if (!cpu::processor_has_matrices()) GTEST_SKIP() << "no AMX";
  // A signal stack that could not hold matrices is why Linux refuses.
  static std::byte memory[8192];
  stack_t small = {};
  small.ss_sp = memory;
  small.ss_size = sizeof(memory);
  stack_t before = {};
  ASSERT_EQ(sigaltstack(&small, &before), 0);
  const std::vector<float> vectors = sums("avx512");
  const std::vector<float> refused = sums("amx");
  EXPECT_FALSE(cpu::matrix_usable());
  EXPECT_EQ(refused, vectors);
  const AnyCodec codec = make_codec("int8");
  EXPECT_STREQ(cpu::table_for(codec, codec, kDim, true).isa, "avx512");
  EXPECT_EQ(sigaltstack(&before, nullptr), 0);
#else
  GTEST_SKIP() << "Linux only";
#endif
}

}  // namespace
}  // namespace kvcodec
