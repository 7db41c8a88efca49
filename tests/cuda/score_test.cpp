// Scores on the device against q . k over decoded keys in float64; for QJL that product is its estimate.
#include "kvcodec/cuda/score.hpp"

#include <gtest/gtest.h>

#include "kvcodec/codec/make_codec.hpp"
#include "tests/cuda/attend_tools.hpp"

namespace kvcodec {
namespace {

using test::Cached;

constexpr float kUntouched = -12345.0f;

/// [n_tokens * n_q_heads, stride] with guarded memory of exactly the size that was asked for.
std::vector<float> score_on_device(const KvView& host, const test::QueryBatch& batch,
                                   const AttendOptions& options, cuda::AttendLimits limits,
                                   std::int64_t stride) {
  const cuda::DeviceView device(host);
  const auto q = test::on_device(batch.q);
  const auto indptr = test::on_device(batch.indptr);
  const auto pos = test::on_device(batch.pos);
  const auto n = static_cast<std::size_t>(batch.n_tokens() * host.shape.n_q_heads * stride);
  test::GuardedBuffer<float> scores(n);
  scores.upload(std::vector<float>(n, kUntouched));
  const std::size_t bytes = cuda::score_workspace_bytes(device.view(), limits);
  test::GuardedBuffer<std::byte> workspace(bytes + 256);
  auto* aligned = reinterpret_cast<std::byte*>(
      (reinterpret_cast<std::uintptr_t>(workspace.data()) + 255) / 256 * 256);
  cuda::score(device.view(), {q.data(), DType::f32, indptr.data(), pos.data()}, options, limits,
              scores.data(), stride, aligned, bytes);
  cuda::synchronize(nullptr);
  static_cast<void>(workspace.to_host());
  return scores.to_host();
}

/// The logit of one query row for one key; minus infinity where it does not see it.
double logit(const AttendOptions& o, const float* q, const test::HeadRows& rows, std::size_t row,
             int in_group, std::int32_t q_pos, std::int32_t d) {
  const std::int32_t pos = rows.pos[row];
  const bool seen =
      pos <= q_pos && (o.window <= 0 || pos > q_pos - o.window || pos < o.window_sinks);
  if (!seen || ((rows.mask[row] >> in_group) & 1) == 0) return -INFINITY;
  double sum = 0.0;
  for (std::int32_t c = 0; c < d; ++c) {
    sum += static_cast<double>(q[c]) *
           static_cast<double>(
               rows.k[row * static_cast<std::size_t>(d) + static_cast<std::size_t>(c)]);
  }
  sum *= static_cast<double>(o.sm_scale);
  const auto cap = static_cast<double>(o.logits_soft_cap);
  return cap > 0.0 ? cap * std::tanh(sum / cap) : sum;
}

void expect_scores(const KvView& view, const test::QueryBatch& batch, const AttendOptions& options,
                   std::size_t logits_bytes, const std::string& what) {
  cuda::AttendLimits limits = test::limits_of(view, batch);
  limits.split_rows = 256;
  limits.logits_bytes = logits_bytes;
  const std::int64_t stride = limits.max_encoded_rows + 3;
  const std::vector<float> got = score_on_device(view, batch, options, limits, stride);
  const std::int32_t d = view.shape.head_dim;
  for (std::int64_t s = 0; s < view.n_seq; ++s) {
    for (std::int32_t h = 0; h < view.shape.n_q_heads; ++h) {
      const std::int32_t head = h / view.shape.gqa_group();
      const test::HeadRows rows = test::decoded_rows(view, s, head);
      const std::int64_t n =
          view.encoded_rows(s * view.n_streams_per_seq() + head / view.format.span);
      for (auto t = static_cast<std::size_t>(batch.indptr[static_cast<std::size_t>(s)]);
           t < static_cast<std::size_t>(batch.indptr[static_cast<std::size_t>(s) + 1]); ++t) {
        const std::int64_t q_row = static_cast<std::int64_t>(t) * view.shape.n_q_heads + h;
        const float* q = batch.q.data() + q_row * d;
        for (std::int64_t r = 0; r < stride; ++r) {
          const float value = got[static_cast<std::size_t>(q_row * stride + r)];
          const std::string at = what + ", token " + std::to_string(t) + ", head " +
                                 std::to_string(h) + ", row " + std::to_string(r);
          if (r >= n) {
            ASSERT_EQ(value, kUntouched) << at;
            continue;
          }
          const double want = logit(options, q, rows, static_cast<std::size_t>(r),
                                    h % view.shape.gqa_group(), batch.pos[t], d);
          if (std::isinf(want)) ASSERT_EQ(static_cast<double>(value), want) << at;
          else ASSERT_NEAR(static_cast<double>(value), want, 2e-5 * (1.0 + std::abs(want))) << at;
        }
      }
    }
  }
}

class DeviceScore : public test::OnDevice<::testing::TestWithParam<std::string>> {};

TEST_P(DeviceScore, IsTheProductWithDecodedKeys) {
  const AnyCodec codec = make_codec(GetParam());
  for (const std::int32_t head_dim : {64, 128}) {
    if (!codec.supports(head_dim)) continue;
    const std::int32_t heads = codec.head_span(head_dim);
    const Cached cached("k=" + GetParam() + ",v=f16,recent=5,sink=2", {4 * heads, heads, head_dim},
                        {210});
    expect_scores(cached.view, cached.queries({1}), test::default_options(head_dim), 0,
                  GetParam() + ", " + std::to_string(head_dim));
  }
}

INSTANTIATE_TEST_SUITE_P(Builtin, DeviceScore, ::testing::ValuesIn(test::codec_specs()),
                         test::name_of_param);

class DeviceScoreOptions : public test::OnDevice<> {};

// Ragged batches, several tokens, one wave of splits at a time, windows, caps, centers, codebooks.
TEST_F(DeviceScoreOptions, FollowTheReference) {
  AttendOptions options = test::default_options(64);
  options.logits_soft_cap = 3.0f;
  options.window = 150;
  options.window_sinks = 4;
  for (const char* plan : {"k=nqkv,v=f16,recent=1", "k=qjl:m128:o5,v=nqsym,recent=1",
                           "k=mean:n100+int8,v=f16,recent=8", "kv=codebook:t0.9:norope,recent=1"}) {
    const Cached cached(plan, {14, 2, 64}, {600, 1, 330});
    const test::QueryBatch batch = cached.queries({2, 1, 5});
    expect_scores(cached.view, batch, options, 0, plan);
    expect_scores(cached.view, batch, test::default_options(64), 1, plan);
  }
}

TEST_F(DeviceScoreOptions, BadArgumentsAreNamed) {
  const Cached cached("kv=nqsym", {4, 2, 64}, {100});
  cuda::AttendLimits limits;
  limits.max_encoded_rows = 64;
  float x = 0.0f;
  std::int64_t i = 0;
  std::int32_t j = 0;
  const auto message = [&](float* scores, std::int64_t stride, std::size_t bytes) {
    return test::message_of<invalid_argument>([&] {
      cuda::score(cached.view, {&x, DType::f32, &i, &j}, test::default_options(64), limits, scores,
                  stride, &x, bytes);
    });
  };
  EXPECT_TRUE(test::contains(message(nullptr, 64, 1 << 20), {"score", "scores = \"null\""}));
  EXPECT_TRUE(test::contains(message(&x, 63, 1 << 20), {"stride = 63", "max_encoded_rows = 64"}));
  EXPECT_TRUE(test::contains(message(&x, 64, 16), {"workspace_bytes = 16"}));
  EXPECT_EQ(cuda::why_no_scores(cached.view), "");
  KvView none = cached.view;
  none.k_codec = AnyCodec();
  EXPECT_TRUE(test::contains(cuda::why_no_scores(none), {"no codec"}));
  EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                               static_cast<void>(cuda::score_workspace_bytes(none, limits));
                             }),
                             {"no codec"}));
}

}  // namespace
}  // namespace kvcodec
