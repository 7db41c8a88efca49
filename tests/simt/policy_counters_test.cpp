// What the loads of LagKV's scores cost: rows in whole sectors, 16 bytes a lane. A model of the hardware
// (emulator/counters.hpp), kept as a gate where there is no card.
#include <gtest/gtest.h>

#include <cstdio>

#include "cuda/policy/lag_scores.cu"
#include "kvcodec/cuda/memory.hpp"
#include "tests/simt/emulator/counters.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::cuda {
namespace {

/// Scores two partitions of one stream.
template <class T>
void expect_lean(int head_dim) {
  SCOPED_TRACE(head_dim);
  constexpr std::int64_t kLag = 64;
  std::vector<T> x;
  for (const float value : test::gauss_rows(3 * kLag, head_dim, 3)) x.push_back(from_f32<T>(value));
  const DeviceBuffer<T> values{std::span<const T>(x)};
  const DeviceBuffer<std::int64_t> lengths{
      std::span<const std::int64_t>(std::vector<std::int64_t>{0, 2 * kLag, kLag})};
  DeviceBuffer<double> score(2 * kLag);
  DeviceBuffer<double> work(2 * kLag);
  JudgedRows rows;
  rows.shape = {1, 1, head_dim};
  rows.n_seq = 1;
  rows.max_rows = 2 * kLag;
  rows.k = rows.v = dense_rows(values.data(), 3 * kLag, 1, head_dim);
  rows.first = lengths.data();
  rows.n_rows = lengths.data() + 1;
  rows.n_ahead = lengths.data() + 2;
  const simt::Counters counters;
  ASSERT_EQ(launch_lag_scores(Streams(rows), LagForm(LagKv{kLag, 0.5, 1.0}), 1, score.data(),
                              work.data(), nullptr),
            cudaSuccess);
  std::uint64_t cost = 0;
  std::uint64_t best = 0;
  std::uint64_t narrow = 0;
  for (const simt::AccessSite& site : counters.sites()) {
    const bool row = site.where.find("row_source.cuh") != std::string::npos ||
                     site.where.find("device.cuh") != std::string::npos;
    if (site.shared || !row) continue;
    cost += site.cost;
    best += site.best;
    narrow += site.bytes < 16 ? site.requests : 0;
  }
  ASSERT_GT(cost, 0u) << counters.report();
  const double sectors = static_cast<double>(best) / static_cast<double>(cost);
  std::printf("head_dim %d, %zu bytes a value: sector efficiency %.3f\n", head_dim, sizeof(T),
              sectors);
  // f32 takes a row's channels in two loads that share sectors, which the model counts twice.
  EXPECT_GE(sectors, sizeof(T) == 4 ? 0.5 : 1.0) << counters.report();
  EXPECT_EQ(narrow, 0u) << counters.report();
}

TEST(PolicyCounters, RowsAreReadInWholeSectors) {
  expect_lean<f16>(64);
  expect_lean<f16>(128);
  expect_lean<bf16>(256);
  expect_lean<float>(128);
}

}  // namespace
}  // namespace kvcodec::cuda
