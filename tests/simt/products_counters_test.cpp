// What the products of the codebook's graph cost: shared memory without bank conflicts. A model of the
// hardware (emulator/counters.hpp), kept as a gate where there is no card.
#include <gtest/gtest.h>

#include <cstdio>

#include "cuda/codec/codebook_link.cu"
#include "kvcodec/cuda/memory.hpp"
#include "tests/simt/emulator/counters.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::cuda {
namespace {

TEST(ProductsCounters, GraphReadsSharedMemoryWithoutConflicts) {
  constexpr std::int64_t kRows = 128;
  constexpr int kDim = 128;
  DeviceBuffer<float> units{std::span<const float>(test::gauss_rows(kRows, kDim, 3))};
  std::vector<std::uint32_t> all;
  for (std::uint32_t i = 0; i < kRows; ++i) all.push_back(i);
  DeviceBuffer<std::uint32_t> list{std::span<const std::uint32_t>(all)};
  DeviceBuffer<std::int64_t> n_list{
      std::span<const std::int64_t>(std::vector<std::int64_t>{kRows})};
  DeviceBuffer<std::uint32_t> full{std::span<const std::uint32_t>(std::vector<std::uint32_t>{0})};
  DeviceBuffer<std::uint64_t> graph(kRows * kRows / 64);
  CoverJob job{};
  AnyRows unit_rows;
  unit_rows.data = units.data();
  unit_rows.token_stride = kDim;
  job.unit_rows = RowSource(unit_rows);
  job.piece_rows = kRows;
  job.n_words = kRows / 64;
  job.head_dim = kDim;
  job.theta = 0.5f;
  job.list = list.data();
  job.n_list = n_list.data();
  job.full = full.data();
  job.graph = graph.data();
  const simt::Counters counters;
  ASSERT_EQ(launch(graph_kernel,
                   {dim3(kRows / kLeftRows * kRows / 64), dim3(kProductThreads),
                    static_cast<std::size_t>(product_floats(kDim)) * sizeof(float), nullptr},
                   job),
            cudaSuccess);
  double worst = 1.0;
  std::uint64_t wide = 0;
  for (const simt::AccessSite& site : counters.sites()) {
    if (!site.shared || site.where.find("products.cuh") == std::string::npos) continue;
    worst = std::max(worst, 1.0 / site.efficiency());
    wide += !site.write && site.bytes == 16 ? site.requests : 0;
  }
  std::printf("worst bank conflict %.2f\n", worst);
  EXPECT_GT(wide, 0u) << counters.report();
  EXPECT_LE(worst, 1.0) << counters.report();
}

}  // namespace
}  // namespace kvcodec::cuda
