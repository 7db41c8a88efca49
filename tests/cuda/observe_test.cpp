// Observed attention on the device beside observe_attention(), and what policies make of it.
#include <gtest/gtest.h>

#include <limits>

#include "kvcodec/policy/observe.hpp"
#include "src/verify/npy.hpp"
#include "tests/cuda/policy_scores.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Layout, test::Lengths, test::PolicyStreams, test::SideRows;

class DeviceObserve : public test::OnDevice<> {};

/// Queries for the streams of a layer.
struct Queries {
  template <class T>
  Queries(const PolicyStreams& in, std::vector<std::int64_t> counts, std::uint64_t seed, T type,
          Layout layout = Layout::tokens_first)
      : n(std::move(counts)) {
    const HeadShape per_q_head{in.shape.n_q_heads, in.shape.n_q_heads, in.shape.head_dim};
    std::vector<std::vector<float>> rows;
    std::int64_t room = 0;
    for (const std::int64_t count : n) {
      room = std::max(room, count);
      for (int h = 0; h < in.shape.n_q_heads; ++h) {
        rows.push_back(test::gauss_rows(count, in.shape.head_dim, ++seed));
      }
    }
    max = static_cast<std::int32_t>(room) + 2;
    side = SideRows::make(per_q_head, rows, room, layout, type);
    std::vector<std::int64_t> at;
    for (std::size_t s = 0; s < n.size(); ++s) {
      at.push_back(static_cast<std::int64_t>(s) * side.seq_tokens);
    }
    first = test::on_device(at);
    device_n = test::on_device(n);
  }
  cuda::ObservedQueries of(const PolicyStreams& in, float scale) const {
    cuda::ObservedQueries q;
    q.q = side.rows();
    q.first = first.data();
    q.n_queries = device_n.data();
    q.n_before = in.n_before.data();
    q.max_queries = max;
    for (const Lengths& l : in.lengths) {
      q.max_seen = std::max(q.max_seen, l.n_before + l.n_rows + l.n_ahead);
    }
    q.max_seen = std::max(q.max_seen, in.max_rows) + 9;
    q.sm_scale = scale;
    return q;
  }

  std::vector<std::int64_t> n;
  std::int32_t max = 0;
  SideRows side;
  cuda::DeviceBuffer<std::int64_t> first, device_n;
};

std::vector<float> device_observed(const PolicyStreams& in, const cuda::ObservedQueries& queries) {
  const cuda::JudgedRows rows = in.judged();
  test::WorkMemory work(cuda::observe_workspace_bytes(rows, queries));
  test::GuardedBuffer<float> observed(
      static_cast<std::size_t>(rows.n_seq * rows.shape.n_q_heads * rows.max_rows));
  cuda::observe_rows(rows, queries, observed.data(), work.data(), work.bytes());
  return observed.to_host();
}

/// The CPU's, [n_seq, n_q_heads, max_rows].
std::vector<float> host_observed(const PolicyStreams& in, const Queries& queries, float scale) {
  std::vector<float> all;
  for (std::size_t seq = 0; seq < in.lengths.size(); ++seq) {
    const Lengths& l = in.lengths[seq];
    const std::int64_t n_keys = l.n_before + l.n_rows + l.n_ahead;
    for (int h = 0; h < in.shape.n_q_heads; ++h) {
      const auto q_heads = static_cast<std::size_t>(in.shape.n_q_heads);
      const std::size_t stream =
          seq * in.heads() + static_cast<std::size_t>(h / in.shape.gqa_group());
      std::vector<float> sums(static_cast<std::size_t>(n_keys));
      observe_attention(in.shape.head_dim, queries.n[seq],
                        queries.side.host[seq * q_heads + static_cast<std::size_t>(h)].data(),
                        n_keys, in.k.host[stream].data(), scale, sums.data());
      sums.erase(sums.begin(), sums.begin() + l.n_before);
      sums.resize(static_cast<std::size_t>(in.max_rows));
      all.insert(all.end(), sums.begin(), sums.end());
    }
  }
  return all;
}

void compare(const PolicyStreams& in, const Queries& queries, float scale) {
  const std::vector<float> got = device_observed(in, queries.of(in, scale));
  const std::vector<float> want = host_observed(in, queries, scale);
  std::size_t row = 0;
  for (const Lengths& l : in.lengths) {
    for (int h = 0; h < in.shape.n_q_heads; ++h) {
      for (std::int64_t t = 0; t < in.max_rows; ++t, ++row) {
        const double w = static_cast<double>(want[row]);
        if (t < l.n_rows) {
          ASSERT_NEAR(static_cast<double>(got[row]), w, 1e-6 * w) << h << " " << t;
        } else {
          ASSERT_EQ(bit_cast<std::uint32_t>(got[row]), 0xa5a5a5a5u) << "written beyond n_rows";
        }
      }
    }
  }
}

TEST_F(DeviceObserve, AddsUpTheWeightsOfTheCpu) {
  // Several splits; a window shorter than rows ahead, longer, none; sinks before the judged rows.
  const std::vector<Lengths> lengths = {{1100, 32, 5}, {0, 40, 0}, {70, 3, 0}, {100, 33, 4}};
  const PolicyStreams in({4, 2, 64}, lengths, 3, test::Input::gauss, float{});
  compare(in, Queries(in, {32, 7, 0, 65}, 5, float{}), 0.125f);
}

TEST_F(DeviceObserve, EveryTypeLayoutAndHeadSize) {
  const std::vector<Lengths> lengths = {{70, 16, 3}, {64, 16, 0}};
  const auto run = [&](int head_dim, auto type, auto q_type, Layout layout) {
    SCOPED_TRACE(head_dim);
    const PolicyStreams in({3, 1, head_dim}, lengths, 9, test::Input::gauss, type, layout);
    compare(in, Queries(in, {16, 16}, 11, q_type, layout), 0.1f);
  };
  run(80, f16{}, float{}, Layout::heads_first);
  run(128, bf16{}, bf16{}, Layout::odd_gaps);
  run(256, float{}, f16{}, Layout::tokens_first);
}

TEST_F(DeviceObserve, AQuerySeesNoLaterRow) {
  PolicyStreams in({1, 1, 64}, {{20, 0}}, 13, test::Input::gauss, float{});
  const Queries queries(in, {20}, 17, float{});
  compare(in, queries, 0.125f);
  // Huge rows that the first queries must not see.
  std::vector<float> keys = in.k.host[0];
  for (std::size_t i = 10 * 64; i < keys.size(); ++i) keys[i] *= 3e3f;
  const PolicyStreams huge({1, 1, 64}, {{20, 0}}, {keys}, {keys}, float{});
  const std::vector<float> got = device_observed(huge, queries.of(huge, 0.125f));
  const std::vector<float> want = host_observed(huge, queries, 0.125f);
  for (std::size_t t = 0; t < 20; ++t) {
    EXPECT_TRUE(std::isfinite(got[t]));
    // Logits of thousands carry their f32 rounding, 1e-4, into the weights.
    EXPECT_NEAR(got[t], want[t], 2e-3f * (1e-3f + want[t])) << t;
  }
}

// One call: queries in, masks out; and the same in two.
TEST_F(DeviceObserve, JudgesFromQueries) {
  const std::vector<Lengths> lengths = {{150, 16, 4}, {90, 16, 4}};
  for (const char* spec : {"snapkv:r0.4:w16", "spindle:r0.4:w16", "spindle:r0.5:w16:paper"}) {
    const AnyPolicy policy = make_policy(spec);
    PolicyStreams in({4, 2, 64}, lengths, 19, test::Input::gauss, f16{});
    in.n_layers = 4;
    const Queries queries(in, {16, 16}, 29, f16{});
    cuda::ObservedQueries q = queries.of(in, 0.2f);
    q.max_queries = 16;
    const std::vector<KeepMask> masks = test::device_masks(policy, in, &q);
    in.observed = host_observed(in, queries, 0.2f);
    ASSERT_GT(test::cut_margin(policy, in), 1e-5) << "rounding may decide here";
    EXPECT_EQ(masks, test::host_masks(policy, in)) << spec;
    in.device_observed = test::on_device(in.observed);
    EXPECT_EQ(test::device_masks(policy, in), masks) << spec;
  }
}

// mha-layer3: 112 tokens, window 32, two heads, r = 0.6, layer 3 of 8; its scores are float64's.
TEST_F(DeviceObserve, SpindleIsTheReference) {
  const auto array = [](const std::string& name) {
    return golden::read_npy("tests/data/golden/spindle/mha-layer3/" + name + ".npy");
  };
  const auto halves = [](const std::vector<float>& all) {
    const auto half = static_cast<std::ptrdiff_t>(all.size() / 2);
    return std::vector<std::vector<float>>{{all.begin(), all.begin() + half},
                                           {all.begin() + half, all.end()}};
  };
  PolicyStreams in({2, 2, 64}, {{80, 32}}, halves(array("k_rot").floats()),
                   halves(array("v").floats()), float{});
  in.layer = 3;
  in.n_layers = 8;
  Queries queries(in, {32}, 1, float{});
  queries.side =
      SideRows::make(in.shape, halves(array("q_window").floats()), 32, Layout::tokens_first, 0.0f);
  cuda::ObservedQueries q = queries.of(in, 0.125f);
  q.max_queries = 32;
  in.observed = device_observed(in, q);
  in.device_observed = test::on_device(in.observed);
  const auto compare_scores = [&](const std::string& spec, const char* file) {
    const std::vector<double> got = test::device_scores(make_policy(spec), in);
    const std::vector<float> want = array(file).floats();
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto w = static_cast<double>(want[i]);
      EXPECT_NEAR(got[i / 80 * static_cast<std::size_t>(in.max_rows) + i % 80], w, 2e-5 * w);
    }
  };
  compare_scores("spindle:r0.6", "score_sk");
  compare_scores("spindle:r0.6:paper", "score_paper");
  for (const auto& [spec, file] :
       {std::pair{"spindle:r0.6", "kept_sk"}, std::pair{"spindle:r0.6:paper", "kept_paper"}}) {
    const std::vector<KeepMask> masks = test::device_masks(make_policy(spec), in, &q);
    std::vector<std::int64_t> kept;
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t a = 0; a < 80; ++a) {
        if (masks[h * static_cast<std::size_t>(in.max_rows) + a] != 0) {
          kept.push_back(static_cast<std::int64_t>(a));
        }
      }
    }
    EXPECT_EQ(kept, array(file).integers());
  }
}

TEST(DeviceObserveArguments, AreRefusedByName) {
  alignas(256) static std::byte here[256] = {};
  cuda::JudgedRows rows;
  rows.shape = {2, 1, 64};
  rows.n_seq = 1;
  rows.max_rows = 128;
  rows.k.data = here;
  rows.first = rows.n_rows = reinterpret_cast<const std::int64_t*>(here);
  cuda::ObservedQueries good;
  good.q.data = here;
  good.first = good.n_queries = rows.first;
  good.max_queries = 32;
  good.max_seen = 160;
  auto* observed = reinterpret_cast<float*>(here);
  const auto refused = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::ObservedQueries queries = good;
    spoil(queries);
    parts.emplace_back("observe_rows");
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                                 cuda::observe_rows(rows, queries, observed, here, 1 << 30);
                               }),
                               parts));
  };
  refused([](auto& q) { q.max_queries = -1; }, {"queries.max_queries = -1"});
  refused([](auto& q) { q.max_queries = 65537; }, {"queries.max_queries = 65537"});
  refused([](auto& q) { q.max_queries = 65536, q.max_seen = (std::int64_t{1} << 31) - 1; },
          {"(max_queries / 32) * (max_seen / 1024) = "});
  refused([](auto& q) { q.max_seen = 127; }, {"queries.max_seen = 127", "max_rows = 128"});
  refused([](auto& q) { q.sm_scale = std::numeric_limits<float>::infinity(); }, {"sm_scale"});
  refused([](auto& q) { q.q.data = nullptr; }, {"queries.q.data = null"});
  refused([](auto& q) { q.first = nullptr; }, {"queries.first = null"});
  refused([](auto& q) { q.n_queries = nullptr; }, {"queries.n_queries = null"});
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>(
                                 [&] { cuda::observe_rows(rows, good, observed, here, 256); }),
                             {"workspace_bytes = 256", "at least"}));
  good.max_queries = 33;
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                               static_cast<void>(cuda::select_workspace_bytes(
                                   make_policy("snapkv:w32"), rows, &good));
                             }),
                             {"select_rows", "queries.max_queries = 33", "0..32"}));
}

}  // namespace
}  // namespace kvcodec
