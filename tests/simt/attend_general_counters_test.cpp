// What memory costs the general path's kernels: whole sectors from global memory, lanes that do not
// collide in shared memory. A model of the hardware (emulator/counters.hpp).
#include <gtest/gtest.h>

#include <cstdio>

#include "cuda/attend/general/launch.cuh"
#include "kvcodec/cuda/memory.hpp"
#include "tests/simt/emulator/counters.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec::cuda {
namespace {

constexpr std::int64_t kRows = 256;

/// One decode step over kRows encoded rows of one KV head, as attend() would launch it.
class OneStep {
 public:
  OneStep(const std::string& plan, const HeadShape& shape)
      : cache_(make_cache_config(plan + ",recent=0", shape, 1, kRows)) {
    const SeqId seq = cache_.open();
    const test::Tokens tokens(shape, kRows, 1);
    EXPECT_EQ(test::append(cache_, seq, 0, tokens, 0, kRows), Status::ok);
    ViewBuffers buffers;
    view_ = DeviceView(cache_.view(0, {&seq, 1}, buffers));
    q_ = upload(test::gauss_rows(shape.n_q_heads, shape.head_dim, 2));
    indptr_ = upload(std::vector<std::int64_t>{0, 1});
    pos_ = upload(std::vector<std::int32_t>{static_cast<std::int32_t>(kRows)});
    logits_ = DeviceBuffer<float>(static_cast<std::size_t>(shape.n_q_heads * kRows));
    AttendParams& p = g_.p;
    p.view = view_.view();
    p.k.width = shape.head_dim;
    p.v.width = shape.head_dim;
    p.q = q_.data();
    p.q_indptr = indptr_.data();
    p.q_pos = pos_.data();
    p.sm_scale = 0.1f;
    p.split_rows = kRows;
    p.n_page_splits = 1;
    p.unit_rows = shape.n_q_heads;
    p.n_units = 1;
    sketch_ = upload(test::gauss_rows(shape.n_q_heads, kMaxSketchDim, 3));
    g_.sketch = sketch_.data();
    states_ = DeviceBuffer<float>(static_cast<std::size_t>(p.state_floats()));
    p.states = states_.data();
    g_.logits = logits_.data();
    g_.wave_splits = 1;
    g_.tiles_per_split = kRows / kTileRows;
  }

  template <class C>
  void run_codec(Side side) const {
    const AnyCodec& codec = side == Side::key ? g_.p.view.k_codec : g_.p.view.v_codec;
    run(side, CodecTiles<C>{*codec.as<C>()});
  }
  void run_formatted(Side side) const {
    const PageFormat& f = g_.p.view.format;
    const bool is_key = side == Side::key;
    TileFormat format;
    ASSERT_TRUE(
        (is_key ? g_.p.view.k_codec : g_.p.view.v_codec).tile_format(side, f.head_dim, format));
    run(side,
        FormatTiles::make(format, side, f.head_dim, 1, is_key ? f.k_tile_bytes : f.v_tile_bytes));
  }

 private:
  template <class T>
  static DeviceBuffer<T> upload(const std::vector<T>& x) {
    return DeviceBuffer<T>(std::span<const T>(x));
  }
  template <class Tiles>
  void run(Side side, const Tiles& tiles) const {
    ASSERT_EQ(
        side == Side::key ? launch_scores(g_, tiles, nullptr) : launch_sums(g_, tiles, nullptr),
        cudaSuccess);
  }

  Cache cache_;
  DeviceView view_;
  DeviceBuffer<float> q_, sketch_, logits_, states_;
  DeviceBuffer<std::int64_t> indptr_;
  DeviceBuffer<std::int32_t> pos_;
  GeneralParams g_{};
};

/// Reading the words of a tile costs lanes one collision each, once per word; nothing else does.
template <class F>
void expect_lean(const std::string& what, F&& run) {
  SCOPED_TRACE(what);
  const simt::Counters counters;
  run();
  std::uint64_t cost = 0;
  std::uint64_t best = 0;
  double word_conflict = 1.0;
  double conflict = 1.0;
  for (const simt::AccessSite& site : counters.sites()) {
    if (!site.shared) {
      cost += site.cost;
      best += site.best;
      continue;
    }
    const bool words = !site.write && (site.where.find("words.cuh") != std::string::npos ||
                                       site.where.find("qjl_keys.cuh") != std::string::npos);
    double& worst = words ? word_conflict : conflict;
    worst = std::max(worst, 1.0 / site.efficiency());
  }
  ASSERT_GT(cost, 0u) << counters.report();
  const double sectors = static_cast<double>(best) / static_cast<double>(cost);
  std::printf("%-16s sector efficiency %.3f, bank conflicts %.2f, of words %.2f\n", what.c_str(),
              sectors, conflict, word_conflict);
  EXPECT_GE(sectors, 0.94) << counters.report();
  EXPECT_LE(conflict, 1.01) << counters.report();
  EXPECT_LE(word_conflict, 2.01) << counters.report();
}

TEST(AttendGeneralCounters, SectorsAreWholeAndLanesDoNotCollide) {
  const OneStep step("k=kivi,v=nvfp4", {4, 1, 128});
  expect_lean("k kivi", [&] { step.run_codec<Kivi>(Side::key); });
  expect_lean("v nvfp4", [&] { step.run_codec<NvFp4>(Side::value); });
  const OneStep other("k=nqkv,v=int8", {4, 1, 128});
  expect_lean("k nqkv", [&] { other.run_formatted(Side::key); });
  expect_lean("v int8", [&] { other.run_formatted(Side::value); });
  const OneStep sketched("k=qjl:m256:o8,v=f32", {4, 1, 128});
  expect_lean("k qjl:o8", [&] { sketched.run_codec<Qjl>(Side::key); });
  expect_lean("v f32", [&] { sketched.run_codec<RawF32>(Side::value); });
}

}  // namespace
}  // namespace kvcodec::cuda
