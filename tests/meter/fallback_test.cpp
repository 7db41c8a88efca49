// The fallback does what its options say, at both ends of an alarm, and the error falls for it.
#include "kvcodec/meter/fallback.hpp"

#include <gtest/gtest.h>

#include <cmath>

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
using Action = FallbackOptions::Action;
using Scope = FallbackOptions::Scope;

constexpr HeadShape kShape{4, 2, 64};

Alarm alarm(Alarm::Event event, SeqId seq, std::int32_t layer, std::int32_t head = 0,
            double error = 0.6, double error_kept = 0.6) {
  Alarm a;
  a.event = event;
  a.seq = seq;
  a.layer = layer;
  a.kv_head = head;
  a.error = error;
  a.error_kept = error_kept;
  return a;
}

constexpr auto kRaised = Alarm::Event::raised;
constexpr auto kRecovered = Alarm::Event::recovered;
constexpr auto kEnded = Alarm::Event::ended;

Cache make_cache(std::int32_t max_sequences = 3) {
  return Cache(make_cache_config("kv=int8,policy=lagkv:l64:r0.5", kShape, 2, 4000, max_sequences));
}

TEST(Fallback, HoldsTheSequenceAndLayerOfTheAlarm) {
  Cache cache = make_cache();
  for (int i = 0; i < 2; ++i) cache.open();
  FallbackPolicy fallback(cache, {.hold_rows = 300});
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  fallback.on_alarm(alarm(kRaised, 1, 0));
  EXPECT_EQ(cache.held_rows(1, 0), 0) << "nothing before apply()";
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(1, 0), 300);
  EXPECT_EQ(cache.held_rows(1, 1) + cache.held_rows(0, 0) + cache.held_rows(0, 1), 0);
  EXPECT_TRUE(cache.evicts(1, 0));
  EXPECT_EQ(fallback.n_held(), 1);
  fallback.on_alarm(alarm(kRaised, 1, 0, 1));  // another head: both must recover
  fallback.on_alarm(alarm(kRecovered, 1, 0, 0));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(1, 0), 300);
  fallback.on_alarm(alarm(kRecovered, 1, 0, 1));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(1, 0), 0);
  EXPECT_EQ(fallback.n_held(), 0);
}

TEST(Fallback, AutomaticAsksWhoseErrorItIs) {
  Cache cache = make_cache();
  for (int i = 0; i < 3; ++i) cache.open();
  FallbackPolicy fallback(cache);
  fallback.on_alarm(alarm(kRaised, 0, 0, 0, 0.6, 0.31));
  fallback.on_alarm(alarm(kRaised, 1, 0, 0, 0.6, 0.29));
  Alarm masked = alarm(kRaised, 2, 0, 0, 0.6, 0.2);
  masked.kind = Alarm::Kind::kept_drift;
  fallback.on_alarm(masked);
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(0, 0), 1024);
  EXPECT_TRUE(cache.evicts(0, 0));
  EXPECT_EQ(cache.held_rows(1, 0), 0);
  EXPECT_FALSE(cache.evicts(1, 0));
  EXPECT_EQ(cache.held_rows(2, 0), 1024);
  EXPECT_EQ(fallback.n_held(), 2);
  EXPECT_EQ(fallback.n_not_evicting(), 1);
  // What is taken back is what was asked for, whatever the error says then.
  fallback.on_alarm(alarm(kRecovered, 1, 0, 0, 0.1, 0.1));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_TRUE(cache.evicts(1, 0));
}

TEST(Fallback, ActionsAndDurations) {
  for (const Action action : {Action::hold_raw, Action::stop_evicting, Action::both}) {
    for (const bool until_recovered : {true, false}) {
      Cache cache = make_cache();
      cache.open();
      FallbackPolicy fallback(cache, {.action = action, .until_recovered = until_recovered});
      fallback.on_alarm(alarm(kRaised, 0, 1));
      EXPECT_EQ(fallback.apply(cache), Status::ok);
      EXPECT_EQ(cache.held_rows(0, 1) > 0, action != Action::stop_evicting);
      EXPECT_EQ(!cache.evicts(0, 1), action != Action::hold_raw);
      fallback.on_alarm(alarm(kRecovered, 0, 1));
      EXPECT_EQ(fallback.apply(cache), Status::ok);
      EXPECT_EQ(cache.held_rows(0, 1) > 0, !until_recovered && action != Action::stop_evicting);
      EXPECT_EQ(!cache.evicts(0, 1), !until_recovered && action != Action::hold_raw);
    }
  }
}

TEST(Fallback, OfAWholeLayerReachesNewSequences) {
  Cache cache = make_cache();
  cache.open();
  FallbackPolicy fallback(cache, {.scope = Scope::layer});
  fallback.on_alarm(alarm(kRaised, 0, 1));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(0, 1), 1024);
  const SeqId later = cache.open();
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(later, 1), 1024);
  EXPECT_EQ(cache.held_rows(later, 0), 0);
  EXPECT_EQ(fallback.n_held(), 2);
  cache.close(0);
  fallback.close(0);
  fallback.on_alarm(alarm(kEnded, 0, 1));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(later, 1), 0) << "its stream is gone";
  EXPECT_EQ(fallback.n_held(), 0);
}

TEST(Fallback, ForgetsClosedSequencesAndLeavesOthersMeasuresAlone) {
  Cache cache = make_cache();
  cache.open();
  cache.open();
  cache.hold_raw(1, 0, 77);
  FallbackPolicy fallback(cache);
  fallback.on_alarm(alarm(kRaised, 0, 0));
  fallback.on_alarm(alarm(kRaised, 1, 0));
  fallback.on_alarm(alarm(kEnded, 0, 0));  // outgrown: the measure stays
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(0, 0), 1024);
  EXPECT_EQ(cache.held_rows(1, 0), 77) << "the caller's own";
  fallback.on_alarm(alarm(kRecovered, 1, 0));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(1, 0), 77);
  cache.close(0);
  fallback.close(0);
  ASSERT_EQ(cache.open(), 0);
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(0, 0), 0);
  // A sequence that is closed before anything could be done.
  fallback.on_alarm(alarm(kRaised, 0, 0));
  cache.close(0);
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  ASSERT_EQ(cache.open(), 0);
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(0, 0), 0);
  for (const auto& [seq, layer] : {std::pair{-1, 0}, {3, 0}, {0, -1}, {0, 2}}) {
    fallback.on_alarm(alarm(kRaised, seq, layer));
  }
  fallback.on_alarm(alarm(kRecovered, 0, 0));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.stats().layers_held, 1);
}

TEST(Fallback, TriesAgainWhenPagesAreFree) {
  const Tokens tokens(kShape, 600, 1);
  Cache cache(make_cache_config("kv=nqkv,recent=1", kShape, 1, 512, 2));
  const SeqId a = cache.open();
  FallbackPolicy fallback(cache);
  fallback.on_alarm(alarm(kRaised, a, 0));
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 400), Status::ok);
  const SeqId b = cache.open();
  ASSERT_EQ(append(cache, b, 0, tokens, 0, 500), Status::ok);
  fallback.on_alarm(alarm(kRecovered, a, 0));
  const auto state = test::state_of(cache);
  EXPECT_EQ(fallback.apply(cache), Status::out_of_pages);
  EXPECT_EQ(fallback.apply(cache), Status::out_of_pages);
  EXPECT_EQ(test::state_of(cache), state);
  EXPECT_EQ(fallback.n_held(), 1);
  cache.close(b);
  EXPECT_EQ(fallback.apply(cache), Status::ok);
  EXPECT_EQ(cache.held_rows(a, 0), 0);
  EXPECT_EQ(fallback.n_held(), 0);
}

TEST(Fallback, RefusesByName) {
  const Cache cache = make_cache();
  for (const std::int32_t n : {0, -1, 65537}) {
    EXPECT_TRUE(contains(message_of<invalid_argument>(
                             [&] { const FallbackPolicy fallback(cache, {.hold_rows = n}); }),
                         {"FallbackOptions", "hold_rows = " + std::to_string(n), "1..65536"}));
  }
}

/// Mean error of the last observations of a run of 1,400 tokens that break at token 700.
double late_error(const std::string& plan, const FallbackOptions* options, const test::Fault& fault,
                  std::uint64_t seed, bool of_kept, std::int64_t* held) {
  Engine engine(plan, kShape, 1, 1400, seed);
  engine.fault = fault;
  FallbackPolicy fallback(engine.cache, options != nullptr ? *options : FallbackOptions());
  ProbeOptions o = busy_probe();
  o.drift.factor = 1.5;
  QualityProbe probe(engine.cache, o, [&](const Alarm& a) {
    if (options != nullptr) fallback.on_alarm(a);
  });
  const SeqId seq = engine.cache.open();
  RunningMean mean;
  for (int i = 0; i < 1400; ++i) {
    for (const Observation& seen : engine.step(probe, seq)) {
      if (i >= 1200) mean.add(of_kept ? seen.error_kept : seen.error, 1 << 30);
    }
    EXPECT_EQ(fallback.apply(engine.cache), Status::ok);
  }
  EXPECT_EQ(mean.n, 50);
  *held = fallback.n_held() + fallback.n_not_evicting();
  return mean.mean;
}

TEST(Fallback, HoldingRawLowersTheErrorOfAShift) {
  const test::Fault fault = [](std::int64_t token, std::int32_t, float* k, float*) {
    for (int i = 0; token >= 700 && i < 128; i += 8) k[i] += 30.0f;
  };
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const FallbackOptions hold{.action = Action::hold_raw, .until_recovered = false};
    std::int64_t held = 0;
    const std::string plan = "kv=nqkv:g64,sink=4,recent=8";
    const double without = late_error(plan, nullptr, fault, seed, false, &held);
    EXPECT_EQ(held, 0);
    const double with = late_error(plan, &hold, fault, seed, false, &held);
    EXPECT_EQ(held, 1);
    EXPECT_LT(with, 0.6 * without) << "seed " << seed;
  }
}

// From token 700 on all tokens matter alike, though the policy thinks that few do: keys that the next
// chunk predicts well are dropped.
TEST(Fallback, StoppingToEvictLowersTheErrorOfEviction) {
  const test::Fault fault = [](std::int64_t token, std::int32_t, float*, float* v) {
    for (int i = 0; token >= 700 && i < 128; ++i) v[i] += token % 2 == 0 ? 1.0f : 4.0f;
  };
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const FallbackOptions stop{.action = Action::stop_evicting, .until_recovered = false};
    std::int64_t held = 0;
    const std::string plan = "kv=int8,policy=lagkv:l64:r0.25,sink=4,recent=8";
    const double without = late_error(plan, nullptr, fault, seed, false, &held);
    const double with = late_error(plan, &stop, fault, seed, false, &held);
    EXPECT_EQ(held, 1);
    EXPECT_LT(with, 0.8 * without) << "seed " << seed;
  }
}

}  // namespace
}  // namespace kvcodec
