// The authors' code and independent references (tests/data/golden/README.md) against the device's policies.
#include <gtest/gtest.h>

#include "src/verify/npy.hpp"
#include "tests/cuda/policy_scores.hpp"

namespace kvcodec {
namespace {

using test::device_masks, test::device_scores, test::PolicyStreams;

class DevicePolicyGolden : public test::OnDevice<> {};

golden::Array golden_array(const std::string& file) {
  return golden::read_npy("tests/data/golden/" + file);
}

/// Streams [n_heads] of arrays [n_heads, n_tokens, head_dim].
std::vector<std::vector<float>> golden_streams(const golden::Array& array) {
  const std::vector<float> all = array.floats();
  const auto n_heads = static_cast<std::size_t>(array.shape.at(0));
  const std::size_t size = all.size() / n_heads;
  std::vector<std::vector<float>> streams;
  for (std::size_t head = 0; head < n_heads; ++head) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(head * size);
    streams.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  return streams;
}

// drift400-L64-S16-r025: lag size 64, 16 sinks, r = 0.25, 400 tokens of one head of 64 channels.
TEST_F(DevicePolicyGolden, LagKvIsTheAuthorsCode) {
  const auto k = golden_streams(golden_array("lagkv-inputs/drift_k.npy"));
  const auto v = golden_streams(golden_array("lagkv-inputs/drift_v.npy"));
  const PolicyStreams streams({1, 1, 64}, {{5 * 64, 64, 16}}, k, v, f16{});
  const std::string folder = "lagkv-oneshot/drift400-L64-S16-r025/";
  const std::vector<KeepMask> masks = device_masks(make_policy("lagkv:l64:r0.25"), streams);
  std::vector<std::int64_t> kept;
  for (std::int64_t t = 0; t < 400; ++t) {
    const bool judged = t >= 16 && t < 16 + 5 * 64;
    if (!judged || masks[static_cast<std::size_t>(t - 16)] != 0) kept.push_back(t);
  }
  EXPECT_EQ(kept, golden_array(folder + "kept_sorted.npy").integers());
  const std::vector<float> k_scores = golden_array(folder + "k_scores.npy").floats();
  const std::vector<float> v_scores = golden_array(folder + "v_scores.npy").floats();
  const std::vector<double> score = device_scores(make_policy("lagkv:l64:r0.25"), streams);
  for (std::size_t t = 0; t < k_scores.size(); ++t) {
    const double want = static_cast<double>(k_scores[t]) + static_cast<double>(v_scores[t]);
    EXPECT_NEAR(score[t], want, 4e-6 * want) << t;
  }
}

// constant-channel: channels without a scale, where the published code divides by zero; the CPU's rule.
TEST_F(DevicePolicyGolden, ConstantChannelsAreLeftOut) {
  const std::string folder = "lagkv-oneshot/constant-channel-do-not-imitate/";
  const auto k = golden_streams(golden_array(folder + "k.npy"));
  const auto v = golden_streams(golden_array(folder + "v.npy"));
  const AnyPolicy policy = make_policy("lagkv:l32:r0.5");
  const auto n_heads = static_cast<std::int32_t>(k.size());
  const auto n_tokens = static_cast<std::int64_t>(k[0].size()) / 64;
  const LagPartitions parts = lag_partitions(n_tokens, 4, 32);
  const std::int64_t n_judged = parts.count * 32;
  const PolicyStreams streams({n_heads, n_heads, 64}, {{n_judged, parts.n_tail, parts.first}}, k, v,
                              float{});
  const double margin = test::cut_margin(policy, streams);
  ASSERT_GT(margin, 1e-10) << "rounding may decide here";
  EXPECT_EQ(device_masks(policy, streams), test::host_masks(policy, streams));
  const std::vector<double> got = device_scores(policy, streams);
  for (std::size_t head = 0; head < k.size(); ++head) {
    const std::vector<double> want = test::host_scores(policy, streams, head)[0];
    for (std::size_t t = 0; t < want.size(); ++t) {
      EXPECT_NEAR(got[head * static_cast<std::size_t>(streams.max_rows) + t], want[t],
                  1e-12 * want[t]);
    }
  }
}

// short-prompt: lag size 32, 4 sinks, 67 tokens of two heads; a zero key.
TEST_F(DevicePolicyGolden, ScoresAreKvpress) {
  const std::string folder = "kvpress-scores/short-prompt/";
  const PolicyStreams streams({2, 2, 64}, {{67, 0}}, golden_streams(golden_array(folder + "k.npy")),
                              golden_streams(golden_array(folder + "v.npy")), f16{});
  const auto compare = [&](const char* spec, const char* file, double absolute, double relative) {
    const std::vector<double> got = device_scores(make_policy(spec), streams);
    const std::vector<float> want = golden_array(folder + file).floats();
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto w = static_cast<double>(want[i]);
      EXPECT_NEAR(got[i / 67 * static_cast<std::size_t>(streams.max_rows) + i % 67], w,
                  absolute + relative * std::abs(w))
          << spec << " " << i;
    }
  };
  compare("kvpress-lagkv:l32", "lagkv_rank_score.npy", 1e-7, 0.0);
  compare("keydiff", "keydiff_score.npy", 2e-6, 0.0);
  compare("knorm", "knorm_score.npy", 0.0, 1e-6);
}

}  // namespace
}  // namespace kvcodec
