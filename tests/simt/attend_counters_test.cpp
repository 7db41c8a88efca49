// What the loads of the attention kernel cost: codes in whole sectors, tables and queries without bank
// conflicts. A model of the hardware (emulator/counters.hpp), kept as a gate where there is no card.
#include <gtest/gtest.h>

#include <cstdio>

#include "cuda/attend/launch.cuh"
#include "kvcodec/cuda/memory.hpp"
#include "tests/simt/emulator/counters.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec::cuda {
namespace {

constexpr std::int64_t kRows = 512;

/// One decode step over kRows encoded rows of one KV head, as attend() would launch it.
template <class C>
void launch_counted(const std::string& plan, std::int32_t group) {
  const HeadShape shape{group, 1, C::kHeadDim};
  Cache cache(make_cache_config(plan + ",recent=0", shape, 1, kRows));
  const SeqId seq = cache.open();
  const test::Tokens tokens(shape, kRows, 1);
  ASSERT_EQ(test::append(cache, seq, 0, tokens, 0, kRows), Status::ok);
  ViewBuffers buffers;
  const DeviceView view(cache.view(0, {&seq, 1}, buffers));
  const DeviceBuffer<float> q{std::span<const float>(test::gauss_rows(group, C::kHeadDim, 2))};
  const DeviceBuffer<std::int64_t> indptr{
      std::span<const std::int64_t>(std::vector<std::int64_t>{0, 1})};
  const DeviceBuffer<std::int32_t> pos{
      std::span<const std::int32_t>(std::vector<std::int32_t>{static_cast<std::int32_t>(kRows)})};
  AttendParams p{};
  p.view = view.view();
  ASSERT_TRUE(p.view.k_codec.tile_format(Side::key, C::kHeadDim, p.k));
  ASSERT_TRUE(p.view.v_codec.tile_format(Side::value, C::kHeadDim, p.v));
  p.one_table = std::equal(p.k.table, p.k.table + 16, p.v.table);
  p.q = q.data();
  p.q_indptr = indptr.data();
  p.q_pos = pos.data();
  p.sm_scale = 0.1f;
  p.split_rows = kRows;
  p.n_page_splits = 1;
  p.unit_rows = group;
  p.n_units = 1;
  DeviceBuffer<float> states(static_cast<std::size_t>(p.state_floats()));
  p.states = states.data();
  ASSERT_EQ(launch_config<C>(p, nullptr), cudaSuccess);
}

/// Sites of the loop over tiles: the prologue and the merge run once per split.
bool in_loop(const simt::AccessSite& site) {
  for (const char* file : {"tiles_warp.cuh", "codes.cuh", "device.cuh"}) {
    if (site.where.find(file) != std::string::npos) return true;
  }
  return false;
}

template <class C>
void expect_lean(const std::string& plan, std::int32_t group) {
  SCOPED_TRACE(plan);
  const simt::Counters counters;
  launch_counted<C>(plan, group);
  std::uint64_t cost = 0;
  std::uint64_t best = 0;
  std::uint64_t wide = 0;
  double conflict = 1.0;
  for (const simt::AccessSite& site : counters.sites()) {
    if (!in_loop(site)) continue;
    if (site.shared) {
      // fill_table writes once per split.
      if (!site.write) conflict = std::max(conflict, 1.0 / site.efficiency());
      continue;
    }
    cost += site.cost;
    best += site.best;
    wide += site.bytes == 16 ? site.lanes * 16 : 0;
  }
  ASSERT_GT(cost, 0u) << counters.report();
  const double sectors = static_cast<double>(best) / static_cast<double>(cost);
  const double bytes = kRows * (C::K::words + C::kHeadDim * C::V::words / 64.0) * 4.0;
  const AnyCodec k = make_cache_config(plan, {group, 1, C::kHeadDim}, 1, 1).layers[0].k.codec;
  const AnyCodec v = make_cache_config(plan, {group, 1, C::kHeadDim}, 1, 1).layers[0].v.codec;
  const std::size_t ideal = k.tile_bytes(C::kHeadDim) + v.tile_bytes(C::kHeadDim);
  AttendParams p{};
  ASSERT_TRUE(k.tile_format(Side::key, C::kHeadDim, p.k));
  ASSERT_TRUE(v.tile_format(Side::value, C::kHeadDim, p.v));
  const bool one_table = std::equal(p.k.table, p.k.table + 16, p.v.table);
  // scripts/kernel-table.sh reads this line.
  std::printf(
      "kernel %d %d %d %d %d %d: plan %s sectors %.3f conflict %.2f shared %d bytes %.2f "
      "ideal %.2f\n",
      static_cast<int>(C::kKey), p.k.width, static_cast<int>(C::kValue), C::kHeadDim, C::kOctets,
      C::kZeros ? 1 : 0, plan.c_str(), sectors, conflict, TilesMemory<C>::bytes(one_table),
      32.0 * static_cast<double>(cost) / kRows, static_cast<double>(ideal) / kTileRows);
  EXPECT_GE(sectors, 0.9) << counters.report();
  EXPECT_LE(conflict, 2.0) << counters.report();
  EXPECT_GE(static_cast<double>(wide), bytes) << counters.report();
}

TEST(AttendCounters, LoadsAreWholeSectorsWithoutConflicts) {
  using enum CodeKind;
  expect_lean<TilesConfig<table4, 128, table4, 128, 1, false>>("kv=nqkv", 4);
  expect_lean<TilesConfig<table2, 128, table2, 128, 1, false>>("kv=lm:b2", 4);
  expect_lean<TilesConfig<byte, 128, byte, 128, 1, false>>("kv=int8", 8);
  expect_lean<TilesConfig<byte, 128, table4, 128, 1, false>>("k=int8,v=nqfit", 8);
  expect_lean<TilesConfig<e4m3, 128, e4m3, 128, 1, false>>("kv=fp8", 4);
  expect_lean<TilesConfig<f16, 128, f16, 128, 1, false>>("kv=f16", 4);
  expect_lean<TilesConfig<table1, 128, table4, 128, 1, false>>("k=rabitq:b1,v=lm:b4", 4);
}

}  // namespace
}  // namespace kvcodec::cuda
