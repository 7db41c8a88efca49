// Every golden case with the device in the CPU's place: its tiles are encoded and decoded, its views
// attended over, by kernels. Policies have their own (policy_golden_test.cpp).
#if !defined(KVCODEC_NO_JSON)  // cases are JSON

#include <gtest/gtest.h>

#include <filesystem>

#include "kvcodec/cuda/codec.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/golden.hpp"
#include "tests/cuda/attend_tools.hpp"

namespace kvcodec {
namespace {

/// Counts what it was asked for, so that a test can see that it was.
class DeviceBackend : public golden::Backend {
 public:
  bool encode_tile(const AnyCodec& codec, Side side, int head_dim, const float* x,
                   std::byte* tile) override {
    ++n_tiles;
    const cuda::DeviceCodec device(codec, head_dim);
    const auto n = static_cast<std::size_t>(kTileRows * codec.head_span(head_dim) * head_dim);
    const cuda::DeviceBuffer<float> values(std::span(x, n));
    cuda::DeviceBuffer<std::byte> bytes(codec.tile_bytes(head_dim));
    cuda::DeviceBuffer<std::uint32_t> not_finite(1);
    not_finite.fill(0);
    cuda::encode_tiles(device.codec(), side, head_dim, 1, {values.data(), DType::f32}, bytes.data(),
                       not_finite.data());
    bytes.download(std::span(tile, bytes.size()));
    return not_finite.to_host()[0] == 0;
  }
  void decode_tile(const AnyCodec& codec, Side side, int head_dim, const std::byte* tile,
                   float* x) override {
    if (!codec.supports(head_dim)) {  // spindle/tiny-exact has four channels
      return Backend::decode_tile(codec, side, head_dim, tile, x);
    }
    ++n_tiles;
    const cuda::DeviceCodec device(codec, head_dim);
    const cuda::DeviceBuffer<std::byte> bytes(std::span(tile, codec.tile_bytes(head_dim)));
    cuda::DeviceBuffer<float> values(
        static_cast<std::size_t>(kTileRows * codec.head_span(head_dim) * head_dim));
    cuda::decode_tiles(device.codec(), side, head_dim, 1, bytes.data(),
                       {values.data(), DType::f32});
    values.download(std::span(x, values.size()));
    cuda::synchronize(nullptr);
  }
  Status attend(const KvView& view, const Queries& queries, float* out, float* lse,
                const AttendOptions& options) override {
    ++n_attended;
    const auto n = static_cast<std::size_t>(queries.indptr[view.n_seq]);
    const auto d = static_cast<std::size_t>(view.shape.head_dim);
    const auto copy = [&](const float* x, std::int32_t heads) {
      const std::size_t size = x == nullptr ? 0 : n * static_cast<std::size_t>(heads) * d;
      return std::vector<float>(x, x + size);
    };
    test::QueryBatch batch;
    batch.q = copy(queries.q, view.shape.n_q_heads);
    batch.k_new = copy(queries.k_new, view.shape.n_kv_heads);
    batch.v_new = copy(queries.v_new, view.shape.n_kv_heads);
    batch.indptr.assign(queries.indptr, queries.indptr + view.n_seq + 1);
    batch.pos.assign(queries.pos, queries.pos + n);
    const test::Result got = test::attend_on_device(view, batch, options);
    std::copy(got.out.begin(), got.out.end(), out);
    if (lse != nullptr) std::copy(got.lse.begin(), got.lse.end(), lse);
    return Status::ok;
  }
  double out_error() const override { return 2e-3; }
  double lse_error() const override { return test::kFused.lse; }

  int n_tiles = 0;
  int n_attended = 0;
};

class DeviceGolden : public test::OnDevice<::testing::TestWithParam<std::string>> {};

TEST_P(DeviceGolden, EveryCasePasses) {
  DeviceBackend device;
  const golden::ScopedBackend used(device);
  const auto folder = std::filesystem::path("tests/data/golden") / GetParam();
  const golden::Totals totals = golden::run_cases(folder, [](const golden::Result& result) {
    EXPECT_EQ(result.outcome, golden::Outcome::passed) << golden::to_text(result);
  });
  EXPECT_GT(totals.passed, 0);
  EXPECT_GT(device.n_tiles, 0);
  const bool attends = GetParam() == "attention" || GetParam() == "wkvquant";
  EXPECT_GT(device.n_attended, attends ? 0 : -1);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceGolden,
                         ::testing::Values("attention", "kivi", "nf4", "qjl", "rabitq",
                                           "realistic-kv", "spindle", "turboquant", "wkvquant"),
                         test::name_of_param);

}  // namespace
}  // namespace kvcodec

#endif  // KVCODEC_NO_JSON
