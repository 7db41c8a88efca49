// Policies on the device keep the rows that the CPU keeps.
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "tests/cuda/policy_scores.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::cut_margin, test::device_masks, test::device_scores, test::host_masks;
using test::host_scores, test::Layout, test::Lengths, test::PolicyStreams;

class DevicePolicy : public test::OnDevice<> {};

/// Lengths of sequences that a policy judges: streaming ones whole chunks.
std::vector<Lengths> lengths_for(const AnyPolicy& policy) {
  const std::int64_t ahead = policy.lookahead_rows();
  if (policy.chunk_rows() == 0) return {{301, ahead}, {0, ahead}, {66, ahead}, {1, ahead}};
  const std::int64_t chunk = policy.chunk_rows();
  return {{3 * chunk, ahead + 3}, {0, 0}, {chunk, 2 * ahead}, {chunk, ahead}};
}

/// Scores within 1e-6 of the CPU's, and by how much they do differ.
double compare_scores(const AnyPolicy& policy, const PolicyStreams& streams) {
  const std::vector<double> got = device_scores(policy, streams);
  double worst = 0.0;
  std::size_t row = 0;
  for (std::size_t i = 0; i < streams.n_streams(); ++i) {
    for (const std::vector<double>& want : host_scores(policy, streams, i)) {
      for (std::size_t t = 0; t < want.size(); ++t) {
        const double error = std::abs(got[row + t] - want[t]) / std::max(std::abs(want[t]), 1e-300);
        if (got[row + t] != want[t]) worst = std::max(worst, error);
        EXPECT_TRUE(got[row + t] == want[t] || error < 1e-6)
            << policy.name() << " stream " << i << " row " << t << ": " << got[row + t]
            << ", expected " << want[t];
      }
      row += static_cast<std::size_t>(streams.max_rows);
    }
  }
  return worst;
}

/// Scores and masks of one policy; the rows must be such that rounding decides nothing.
void compare_policy(const AnyPolicy& policy, PolicyStreams& streams) {
  SCOPED_TRACE(policy.name());
  if (policy.observed_rows() > 0 && streams.observed.empty()) streams.observe_noise(5);
  if (cuda::score_heads(policy, streams.shape) > 0) {
    const double worst = compare_scores(policy, streams);
    ASSERT_GT(cut_margin(policy, streams), 100 * worst) << "rounding may decide here";
  }
  EXPECT_EQ(device_masks(policy, streams), host_masks(policy, streams));
}

const std::vector<std::string>& policy_specs() {
  static const std::vector<std::string> specs = {
      "window:n64",
      "lagkv:l8:r0.125",
      "lagkv:l32:r0.3:w0.5",
      "lagkv:l100:r0.57:w0",
      "kvpress-lagkv:l32:r0.4",
      "kvpress-lagkv:l16:r0.6:s0",
      "kvpress-lagkv:l32:r0.3:cross",
      "kvpress-lagkv:l130:r0.7",
      "snapkv:r0.5",
      "snapkv:r0.4:w16:p1",
      "snapkv:r0.3:w8:p63",
      "keydiff:r0.1",
      "keydiff:r1",
      "knorm:r0.3",
      "spindle",
      "spindle:r0.9:beta0.2:w8",
      "spindle:r0.3:paper",
      "spindle:r0.5:shared",
      "spindle:cap100",
  };
  return specs;
}

class EveryPolicy : public test::OnDevice<::testing::TestWithParam<std::string>> {};

TEST_P(EveryPolicy, KeepsWhatTheCpuKeeps) {
  const AnyPolicy policy = make_policy(GetParam());
  ASSERT_TRUE(cuda::can_select(policy));
  PolicyStreams streams({6, 2, 80}, lengths_for(policy), 17, test::Input::gauss, float{});
  streams.layer = 2;
  streams.n_layers = 8;
  compare_policy(policy, streams);
}

TEST_F(DevicePolicy, EveryTypeLayoutAndHeadSize) {
  const std::vector<std::string> specs = {"lagkv:l16:r0.25", "kvpress-lagkv:l16:r0.6",
                                          "keydiff:r0.2", "knorm"};
  for (const std::string& spec : specs) {
    const AnyPolicy policy = make_policy(spec);
    const std::vector<Lengths> lengths = {{64, 21, 3}, {32, 16, 0}};
    const auto run = [&](int head_dim, auto type, Layout layout) {
      SCOPED_TRACE(head_dim);
      PolicyStreams streams({2, 2, head_dim}, lengths, 23, test::Input::outlier, type, layout);
      compare_policy(policy, streams);
    };
    for (const int head_dim : {64, 96, 128, 144, 256}) run(head_dim, f16{}, Layout::tokens_first);
    run(128, bf16{}, Layout::heads_first);
    run(64, float{}, Layout::odd_gaps);
    run(112, f16{}, Layout::odd_gaps);
    run(256, float{}, Layout::heads_first);
  }
}

// Rows that all tie, ramps, zeros: the lower rows stay, whatever the launch.
TEST_P(EveryPolicy, DegenerateRows) {
  const AnyPolicy policy = make_policy(GetParam());
  for (const test::Input kind : {test::Input::zero, test::Input::constant, test::Input::ramp}) {
    PolicyStreams streams({2, 1, 64}, lengths_for(policy), 1, kind, float{});
    streams.observed.assign(streams.lengths.size() * static_cast<std::size_t>(2 * streams.max_rows),
                            1.0f);
    streams.device_observed = test::on_device(streams.observed);
    // Rows are equal, but a cosine of equal rows is 1 up to rounding on either side.
    EXPECT_EQ(device_masks(policy, streams), host_masks(policy, streams));
  }
}

INSTANTIATE_TEST_SUITE_P(Builtin, EveryPolicy, ::testing::ValuesIn(policy_specs()),
                         test::name_of_param);

TEST_F(DevicePolicy, NonFiniteScoresCountAsTheSmallest) {
  PolicyStreams streams({4, 1, 64}, {{268, 32}}, 3, test::Input::gauss, float{});
  streams.n_layers = 8;
  for (const char* spec : {"spindle:r0.45:paper", "spindle:r0.3", "snapkv:w32"}) {
    streams.observe_noise(7);
    for (const std::size_t at : {0u, 9u, 300u, 301u, 700u}) {
      streams.observed[at] = std::numeric_limits<float>::quiet_NaN();
    }
    streams.observed[20] = std::numeric_limits<float>::infinity();
    streams.device_observed = test::on_device(streams.observed);
    const AnyPolicy policy = make_policy(spec);
    EXPECT_EQ(device_masks(policy, streams), host_masks(policy, streams)) << spec;
  }
}

// "lagkv": what the CPU refuses is kept here, as the header says.
TEST_F(DevicePolicy, RowsWithoutASuccessorStay) {
  const AnyPolicy policy = make_policy("lagkv:l16:r0.25");
  const PolicyStreams all({1, 1, 64}, {{48, 0}, {48, 16}, {45, 19}}, 31, test::Input::gauss,
                          float{});
  const auto width = static_cast<std::size_t>(all.max_rows);
  const std::vector<KeepMask> masks = device_masks(policy, all);
  const std::vector<double> score = device_scores(policy, all);
  const std::size_t judged[] = {32, 48, 32};
  const std::size_t n_rows[] = {48, 48, 45};
  for (std::size_t seq = 0; seq < 3; ++seq) {
    const auto begin = masks.begin() + static_cast<std::ptrdiff_t>(seq * width);
    const auto n = static_cast<std::ptrdiff_t>(judged[seq]);
    EXPECT_EQ(std::count(begin, begin + n, kKeptByAll), n / 4) << seq;
    for (std::size_t t = judged[seq]; t < n_rows[seq]; ++t) {
      EXPECT_EQ(begin[static_cast<std::ptrdiff_t>(t)], kKeptByAll) << seq << " " << t;
      EXPECT_TRUE(std::isinf(score[seq * width + t]));
    }
    EXPECT_EQ(begin[static_cast<std::ptrdiff_t>(n_rows[seq])], test::kUnwritten);
  }
}

// Alone or among others, and whatever the launch is made for: the same bits.
TEST_F(DevicePolicy, ResultsDoNotDependOnTheBatch) {
  const std::vector<std::string> specs = {"lagkv:l32:r0.3", "kvpress-lagkv:l32", "keydiff"};
  for (const std::string& spec : specs) {
    const AnyPolicy policy = make_policy(spec);
    const PolicyStreams many({2, 2, 64}, {{32, 32}, {640, 32}, {96, 40}}, 11, test::Input::gauss,
                             f16{});
    const std::vector<double> together = device_scores(policy, many);
    const auto width = static_cast<std::size_t>(many.max_rows);
    for (std::size_t seq = 0; seq < 3; ++seq) {
      PolicyStreams one({2, 2, 64}, {many.lengths[seq]},
                        {many.k.host[2 * seq], many.k.host[2 * seq + 1]},
                        {many.v.host[2 * seq], many.v.host[2 * seq + 1]}, f16{});
      one.max_rows += 300;
      const std::vector<double> alone = device_scores(policy, one);
      for (std::size_t head = 0; head < 2; ++head) {
        for (std::size_t t = 0; t < static_cast<std::size_t>(many.lengths[seq].n_rows); ++t) {
          ASSERT_EQ(together[(2 * seq + head) * width + t],
                    alone[head * static_cast<std::size_t>(one.max_rows) + t])
              << spec;
        }
      }
    }
  }
}

/// keep_largest() of the device beside the CPU's.
void compare_keep_largest(const std::vector<double>& score, std::int64_t n_kept) {
  const auto n = static_cast<std::int64_t>(score.size());
  std::vector<KeepMask> want(score.size());
  keep_largest(score, n_kept, want);
  const auto device_score = test::on_device(score);
  const auto length = test::on_device(std::vector<std::int64_t>{n});
  const auto counts = test::on_device(std::vector<std::int64_t>{n_kept});
  test::GuardedBuffer<KeepMask> keep(score.size());
  cuda::keep_largest(1, n, device_score.data(), length.data(), counts.data(), keep.data());
  ASSERT_EQ(keep.to_host(), want) << n << " rows, " << n_kept << " kept";
}

TEST_F(DevicePolicy, KeepLargestIsTheCpus) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<double> odd{kNan,   1.0,     2.0,     1.0,     kNan,       2.0,
                                -1.0,   -0.0,    0.0,     -0.0,    -kInfinity, kInfinity,
                                5e-324, -5e-324, 1.7e308, -1.7e308};
  for (std::int64_t k = -1; k <= 18; ++k) compare_keep_largest(odd, k);
  test::Random random(3);
  std::vector<double> close;  // differ in the lowest bits alone, with many ties
  std::vector<double> wide;
  std::vector<double> ties;
  for (int i = 0; i < 2500; ++i) {
    close.push_back(1.0 + 0x1p-52 * static_cast<double>(random.below(700)));
    wide.push_back(std::ldexp(random.gauss(), static_cast<int>(random.below(600)) - 300));
    ties.push_back(static_cast<double>(random.below(3)));
  }
  for (const std::int64_t k : {1, 7, 1024, 1249, 2499, 2500}) {
    compare_keep_largest(close, k);
    compare_keep_largest(wide, k);
    compare_keep_largest(ties, k);
  }
}

TEST_F(DevicePolicy, KeepLargestOfManySegments) {
  constexpr std::int64_t kStride = 40;
  const std::vector<std::int64_t> length = {40, 0, 1, 33};
  const std::vector<std::int64_t> n_kept = {13, 5, 1, 40};
  std::vector<double> score;
  test::Random random(9);
  for (int i = 0; i < 4 * kStride; ++i) score.push_back(random.gauss());
  std::vector<KeepMask> want(score.size(), test::kUnwritten);
  for (std::size_t s = 0; s < 4; ++s) {
    const auto n = static_cast<std::size_t>(length[s]);
    keep_largest(std::span(score).subspan(s * kStride, n), n_kept[s],
                 std::span(want).subspan(s * kStride, n));
  }
  const auto device_score = test::on_device(score);
  const auto device_length = test::on_device(length);
  const auto device_kept = test::on_device(n_kept);
  test::GuardedBuffer<KeepMask> keep(score.size());
  cuda::keep_largest(4, kStride, device_score.data(), device_length.data(), device_kept.data(),
                     keep.data());
  EXPECT_EQ(keep.to_host(), want);
}

}  // namespace
}  // namespace kvcodec
