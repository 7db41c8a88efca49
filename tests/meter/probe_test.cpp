// What the probe samples and measures: against float64, in every kind of step, with bad input.
#include "kvcodec/meter/probe.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "tests/meter/probe_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::busy_probe;
using test::contains;
using test::Engine;
using test::message_of;
using test::Tokens;

constexpr HeadShape kShape{4, 2, 64};

double relative_error(const float* out, const std::vector<double>& ref) {
  double power = 0.0;
  double difference = 0.0;
  for (std::size_t i = 0; i < ref.size(); ++i) {
    power += ref[i] * ref[i];
    difference += (static_cast<double>(out[i]) - ref[i]) * (static_cast<double>(out[i]) - ref[i]);
  }
  return std::sqrt(difference / power);
}

/// Attention of the group of `head` over the first n rows of `tokens`, those in `kept` only.
std::vector<double> dense(const Tokens& tokens, std::int64_t n, std::int32_t head, const float* q,
                          const AttendOptions& options, const std::set<std::int32_t>* kept) {
  test::HeadRows rows;
  const std::int32_t d = tokens.shape.head_dim;
  for (std::int64_t t = 0; t < n; ++t) {
    if (kept != nullptr && !kept->contains(static_cast<std::int32_t>(t))) continue;
    const std::int64_t at = t * tokens.width() + head * d;
    rows.add(tokens.k.data() + at, tokens.v.data() + at, d, static_cast<std::int32_t>(t));
  }
  const std::int32_t group = tokens.shape.gqa_group();
  std::vector<double> out(static_cast<std::size_t>(group * d));
  for (std::int32_t g = 0; g < group; ++g) {
    const double sink = options.sink_logits == nullptr
                            ? -std::numeric_limits<double>::infinity()
                            : static_cast<double>(options.sink_logits[head * group + g]);
    reference_attend(d, static_cast<std::int64_t>(rows.pos.size()), q + (head * group + g) * d,
                     rows.k.data(), rows.v.data(), d, rows.pos.data(),
                     static_cast<std::int32_t>(n - 1), options, sink, out.data() + g * d);
  }
  return out;
}

// Both errors against the float64 reference, for caches with and without policy, all attend options.
TEST(Probe, ErrorsAreThoseOfTheDefinition) {
  const Tokens tokens(kShape, 500, 1);
  const float sinks[] = {0.5f, -1.0f, 2.0f, -std::numeric_limits<float>::infinity()};
  for (const std::string plan :
       {"kv=int8", "k=hadamard+nqkv,v=nqsym,sink=4", "kv=nqkv,policy=lagkv:l64:r0.25,sink=4",
        "kv=nqkv,policy=window:n150,sink=4", "kv=f16,policy=keydiff:r0.4"}) {
    SCOPED_TRACE(plan);
    Cache cache(make_cache_config(plan, kShape, 1, 500));
    ProbeOptions o = busy_probe();
    o.every = 1;
    o.dtype = DType::f32;
    QualityProbe probe(cache, o);
    const SeqId seq = cache.open();
    for (std::int64_t t = 0; t < 500; t += 125) {
      cache.append(seq, 0, tokens.k_rows(t, 125), tokens.v_rows(t, 125));
      probe.append(cache, seq, 0, tokens.k_rows(t, 125), tokens.v_rows(t, 125));
      if (t == 250) cache.end_prompt(seq);
    }
    AttendOptions options = test::default_options(64);
    options.logits_soft_cap = 20.0f;
    options.sink_logits = sinks;
    options.window = 480;
    const std::vector<float> q = test::gauss_rows(1, 256, 9);
    std::vector<float> out(256);
    AttendWorkspace workspace;
    Step step;
    step.seqs = {&seq, 1};
    step.q = dense_rows(q.data(), 1, 4, 64);
    attend(cache, 0, step, out.data(), nullptr, options, workspace);
    std::set<std::int32_t> heads;
    for (int i = 0; i < 2; ++i) {
      const auto got = probe.observe(cache, 0, step, out.data(), options);
      ASSERT_TRUE(got.has_value());
      heads.insert(got->kv_head);
      ViewBuffers buffers;
      const test::HeadRows held =
          test::decoded_rows(cache.view(0, {&seq, 1}, buffers), 0, got->kv_head);
      const std::set<std::int32_t> kept(held.pos.begin(), held.pos.end());
      const float* own = out.data() + got->kv_head * 128;
      const double all =
          relative_error(own, dense(tokens, 500, got->kv_head, q.data(), options, nullptr));
      const double some =
          relative_error(own, dense(tokens, 500, got->kv_head, q.data(), options, &kept));
      EXPECT_NEAR(got->error, all, 2e-5 * (1.0 + all));
      EXPECT_NEAR(got->error_kept, some, 2e-5 * (1.0 + some));
      EXPECT_EQ(got->n_rows, 500);
      EXPECT_EQ(got->seq, seq);
      if (plan.find("policy") != std::string::npos) {
        EXPECT_GT(got->error, 2 * got->error_kept);
      }
    }
    EXPECT_EQ(heads.size(), 2u) << "heads take turns";
    const ProbeStats s = probe.stats();
    EXPECT_EQ(s.observations, 2);
    EXPECT_EQ(s.steps, 2);
    EXPECT_EQ(s.streams, 2);
    EXPECT_EQ(s.shadow_bytes, 2 * 500 * 2 * 64 * 4);
    EXPECT_EQ(s.check.calls, 2);
    EXPECT_GT(s.check.nanoseconds, 0);
    EXPECT_EQ(s.shadow.calls, 2 * 4);
  }
}

TEST(Probe, AnUncompressedCacheHasNoError) {
  for (const bool past_only : {false, true}) {
    Engine engine("kv=f32", kShape, 3, 600, 1);
    engine.past_only = past_only;
    ProbeOptions o = busy_probe();
    o.dtype = DType::f32;
    QualityProbe probe(engine.cache, o);
    const SeqId seq = engine.cache.open();
    std::size_t n = 0;
    for (int i = 0; i < 600; ++i) {
      for (const Observation& got : engine.step(probe, seq)) {
        ++n;
        EXPECT_LT(got.error, 1e-5);
        EXPECT_EQ(got.n_rows, i + 1) << "the newest token takes part";
      }
    }
    EXPECT_EQ(n, 101u) << "every fourth step from 200 rows on";
    EXPECT_EQ(probe.stats().observations, 101);
    EXPECT_EQ(probe.stats().steps, 600);
    EXPECT_EQ(probe.stats().alarms, 0);
  }
}

// The newest query token of a chunk, at the right place of a ragged batch.
TEST(Probe, SeveralQueryTokensAndSequences) {
  const Tokens tokens(kShape, 400, 1);
  Cache cache(make_cache_config("kv=f32", kShape, 1, 1200, 3));
  ProbeOptions o = busy_probe();
  o.every = 1;
  o.dtype = DType::f32;
  QualityProbe probe(cache, o);
  const SeqId watched = cache.open();
  const SeqId other = cache.open();
  cache.append(watched, 0, tokens.k_rows(0, 300), tokens.v_rows(0, 300));
  probe.append(cache, watched, 0, tokens.k_rows(0, 300), tokens.v_rows(0, 300));
  cache.append(other, 0, tokens.k_rows(50, 300), tokens.v_rows(50, 300));
  probe.append(cache, other, 0, tokens.k_rows(50, 300), tokens.v_rows(50, 300));
  const std::vector<float> q = test::gauss_rows(8, 256, 3);
  const SeqId seqs[] = {other, watched};
  const std::int64_t indptr[] = {0, 3, 8};
  Step step;
  step.seqs = seqs;
  step.indptr = indptr;
  step.q = dense_rows(q.data(), 8, 4, 64);
  std::vector<float> out(8 * 256);
  AttendWorkspace workspace;
  for (const bool fresh : {false, true}) {
    if (fresh) {
      step.k_new = tokens.k_rows(300, 8);
      step.v_new = tokens.v_rows(300, 8);
    }
    attend(cache, 0, step, out.data(), nullptr, test::default_options(64), workspace);
    const auto got = probe.observe(cache, 0, step, out.data(), test::default_options(64));
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->seq, watched);
    EXPECT_LT(got->error, 1e-5);
    EXPECT_EQ(got->n_rows, fresh ? 305 : 300);
  }
}

TEST(Probe, StreamsBeginEndAndAreLost) {
  const Tokens tokens(kShape, 900, 1);
  Cache cache(make_cache_config("kv=int8", kShape, 3, 6000, 4));
  ProbeOptions o = busy_probe();
  o.n_streams = 6;
  o.max_bytes = std::int64_t{6} * 500 * 2 * 64 * 2;
  QualityProbe probe(cache, o);
  const auto add = [&](SeqId seq, std::int64_t first, std::int64_t n, bool tell = true) {
    for (std::int32_t l = 0; l < 3; ++l) {
      cache.append(seq, l, tokens.k_rows(first, n), tokens.v_rows(first, n));
      if (tell) probe.append(cache, seq, l, tokens.k_rows(first, n), tokens.v_rows(first, n));
    }
  };
  const SeqId a = cache.open();
  add(a, 0, 300);
  EXPECT_EQ(probe.stats().streams, 6) << "all three layers, both heads";
  const SeqId fork = cache.fork(a);
  add(fork, 300, 10);
  EXPECT_EQ(probe.stats().shadow_bytes, 6 * 300 * 2 * 64 * 2) << "forks are not watched";
  ASSERT_EQ(cache.truncate(a, 280), Status::ok);
  probe.truncate(a, 280);
  add(a, 280, 10);
  EXPECT_EQ(probe.stats().shadow_bytes, 6 * 290 * 2 * 64 * 2);
  EXPECT_EQ(probe.stats().streams_lost, 0);
  add(a, 290, 5, false);  // not handed over: the next call notices
  add(a, 295, 5);
  EXPECT_EQ(probe.stats().streams_lost, 6);
  EXPECT_EQ(probe.stats().streams, 0);
  const SeqId b = cache.open();
  add(b, 0, 490);
  EXPECT_EQ(probe.stats().streams, 6);
  add(b, 490, 20);  // 500 rows fit
  EXPECT_EQ(probe.stats().streams_outgrown, 6);
  EXPECT_EQ(probe.stats().streams, 0);
  cache.close(b);
  const SeqId c = cache.open();  // the same number
  ASSERT_EQ(c, b);
  add(c, 0, 100);
  EXPECT_EQ(probe.stats().streams, 6);
  cache.close(c);
  probe.close(c);
  EXPECT_EQ(probe.stats().streams, 0);
  EXPECT_EQ(probe.stats().shadow_bytes, 0);
  EXPECT_EQ(probe.stats().streams_started, 18);
}

TEST(Probe, StreamsAreSpreadOverSequencesLayersAndHeads) {
  const HeadShape shape{8, 8, 64};
  const Tokens tokens(shape, 1, 1);
  std::set<std::pair<std::int32_t, std::int32_t>> seen;
  Cache cache(make_cache_config("kv=int8", shape, 8, 100000, 64));
  ProbeOptions o;
  o.streams_per_sequence = 1;
  o.min_rows = 1;
  o.every = 1;
  QualityProbe probe(cache, o);
  std::vector<float> out(4 * 512);
  for (int round = 0; round < 100; ++round) {
    for (int s = 0; s < 4; ++s) {
      const SeqId seq = cache.open();
      for (std::int32_t l = 0; l < 8; ++l) {
        cache.append(seq, l, tokens.k_rows(0, 1), tokens.v_rows(0, 1));
        probe.append(cache, seq, l, tokens.k_rows(0, 1), tokens.v_rows(0, 1));
      }
      EXPECT_EQ(probe.stats().streams, s + 1) << "one stream of each sequence";
    }
    const SeqId seqs[] = {0, 1, 2, 3};
    const std::vector<float> q = test::gauss_rows(4, 512, 7);
    for (int i = 0; i < 4; ++i) {
      for (std::int32_t l = 0; l < 8; ++l) {
        Step step;
        step.seqs = seqs;
        step.q = dense_rows(q.data(), 4, 8, 64);
        const auto got = probe.observe(cache, l, step, out.data(), test::default_options(64));
        if (got) seen.insert({got->layer, got->kv_head});
      }
    }
    for (SeqId seq = 0; seq < 4; ++seq) {
      cache.close(seq);
      probe.close(seq);
    }
  }
  EXPECT_EQ(seen.size(), 64u) << "all of them in time";
}

TEST(Probe, OutputsThatAreNoNumbersAreTheLargestError) {
  Engine engine("kv=f32", kShape, 1, 600, 1);
  ProbeOptions o = busy_probe();
  o.every = 1;
  o.n_streams = 1;
  QualityProbe probe(engine.cache, o);
  const SeqId seq = engine.cache.open();
  for (int i = 0; i < 300; ++i) engine.step(probe, seq);
  const std::vector<float> q = engine.gauss(4);
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, 4, 64);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const std::vector<float> out(256, bad);
    const auto got = probe.observe(engine.cache, 0, step, out.data(), engine.options);
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->error, kLargestError);
  }
  EXPECT_EQ(probe.stats().max_error, kLargestError);
  EXPECT_EQ(probe.stats().alarms, 1);
}

TEST(Probe, WhatItCannotUseIsIgnored) {
  Engine engine("kv=int8", kShape, 2, 600, 1);
  ProbeOptions o = busy_probe();
  o.every = 1;
  QualityProbe probe(engine.cache, o);
  const SeqId seq = engine.cache.open();
  for (int i = 0; i < 199; ++i) EXPECT_TRUE(engine.step(probe, seq).empty()) << "too few rows";
  engine.step(probe, seq);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(engine.step(probe, seq).size(), 1u);
  const Tokens tokens(kShape, 2, 1);
  Step step;
  step.seqs = {&seq, 1};
  const AttendOptions options = engine.options;
  for (const std::int32_t layer : {-1, 0, 1, 2}) {
    EXPECT_FALSE(probe.observe(engine.cache, layer, step, nullptr, options).has_value());
  }
  const std::int64_t bytes = probe.stats().shadow_bytes;
  probe.append(engine.cache, 7, 0, tokens.k_rows(0, 1), tokens.v_rows(0, 1));
  probe.append(engine.cache, seq, 9, tokens.k_rows(0, 1), tokens.v_rows(0, 1));
  probe.append(engine.cache, seq, 0, tokens.k_rows(0, 1), tokens.v_rows(0, 2));
  probe.close(5);
  probe.truncate(5, 0);
  EXPECT_EQ(probe.stats().shadow_bytes, bytes);
  EXPECT_EQ(engine.step(probe, seq).size(), 1u);
  const Cache other(make_cache_config("kv=int8", {4, 4, 64}, 2, 600));
  probe.append(other, seq, 0, tokens.k_rows(0, 1), tokens.v_rows(0, 1));
  EXPECT_EQ(engine.step(probe, seq).size(), 1u);
}

TEST(Probe, RefusesByName) {
  const Cache cache(make_cache_config("kv=int8", kShape, 2, 6000));
  const auto refused = [&](auto change, const std::vector<std::string>& parts) {
    ProbeOptions o;
    change(o);
    EXPECT_TRUE(
        contains(message_of<invalid_argument>([&] { const QualityProbe probe(cache, o); }), parts));
  };
  refused([](ProbeOptions& o) { o.every = -1; }, {"ProbeOptions", "every = -1", "0..1048576"});
  refused([](ProbeOptions& o) { o.n_streams = 0; }, {"n_streams = 0"});
  refused([](ProbeOptions& o) { o.n_streams = 4097; }, {"n_streams = 4097", "1..4096"});
  refused([](ProbeOptions& o) { o.streams_per_sequence = 5; },
          {"streams_per_sequence = 5", "0..4"});
  refused([](ProbeOptions& o) { o.min_rows = 0; }, {"min_rows = 0"});
  refused([](ProbeOptions& o) { o.max_bytes = 1000; }, {"max_bytes = 1000", "524288.."});
  refused([](ProbeOptions& o) { o.drift.window = 0; }, {"DriftOptions", "window = 0"});
  refused([](ProbeOptions& o) { o.drift.baseline_window = 3; }, {"baseline_window = 3", "4.."});
  refused([](ProbeOptions& o) { o.drift.min_baseline = 1; }, {"min_baseline = 1"});
  refused([](ProbeOptions& o) { o.drift.threshold = 0.0; }, {"threshold = 0", "> 0"});
  refused([](ProbeOptions& o) { o.drift.threshold = NAN; }, {"threshold = nan"});
  refused([](ProbeOptions& o) { o.drift.factor = 1.0; }, {"factor = 1", "> 1"});
  refused([](ProbeOptions& o) { o.drift.floor = 0.5; }, {"floor = 0.5", "< threshold"});
  refused([](ProbeOptions& o) { o.drift.recover = 1.0; }, {"recover = 1"});
  const QualityProbe probe(cache);
  EXPECT_EQ(probe.options().every, 250);  // 1000 / (2 layers * 2 heads)
  EXPECT_EQ(QualityProbe(Cache(make_cache_config("kv=int8", {8, 8, 64}, 32, 100))).options().every,
            16);
  EXPECT_EQ(QualityProbe(Cache(make_cache_config("kv=int8,policy=window:n64", kShape, 2, 100)))
                .options()
                .every,
            2000);
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { probe.running_error(2, 0); }),
                       {"layer = 2", "0..1"}));
  EXPECT_THROW(probe.running_error(0, -1), invalid_argument);
  EXPECT_EQ(probe.running_error(1, 1).n, 0);
  EXPECT_EQ(probe.stats().worst_layer, -1);
}

}  // namespace
}  // namespace kvcodec
