// Injected faults are caught within a stated number of steps, stationary data rings nothing, alarms ring
// once and end, and what a callback throws stays inside.
#include <gtest/gtest.h>

#include <cmath>

#include "kvcodec/transform/channel_affine.hpp"
#include "tests/meter/probe_tools.hpp"

namespace kvcodec {
namespace {

using test::busy_probe;
using test::Engine;
using test::Fault;

constexpr HeadShape kShape{4, 2, 64};
constexpr std::int64_t kBefore = 700;  ///< tokens before the fault

/// Steps until a fault in what all rows go through must be seen: three checks of each of two streams,
/// one check every 4 steps.
constexpr std::int64_t kCaughtAtOnce = 3 * 2 * 4;
/// The same from the first faulty token on: until two flushes have brought faulty rows into pages (8
/// newest rows stay raw, 64 leave at a time), and then the checks.
constexpr std::int64_t kCaughtWithin = 8 + 2 * 64 + kCaughtAtOnce;

struct Ring {
  std::vector<Alarm> alarms;
  AlarmFn fn() {
    return [this](const Alarm& a) { alarms.push_back(a); };
  }
  std::int64_t raised() const {
    return std::count_if(alarms.begin(), alarms.end(),
                         [](const Alarm& a) { return a.event == Alarm::Event::raised; });
  }
};

/// Some K channels from a token on, in every head, times a factor plus an offset.
Fault shifted_keys(std::int64_t from, int every_channel, float factor, float offset) {
  return [=](std::int64_t token, std::int32_t, float* k, float*) {
    if (token < from) return;
    for (int i = 0; i < kShape.n_kv_heads * kShape.head_dim; i += every_channel) {
      k[i] = k[i] * factor + offset;
    }
  };
}

const char* const kPlans[] = {"kv=nqkv:g64,sink=4,recent=8",
                              "k=hadamard+nqkv,v=nqsym,sink=4,recent=8",
                              "kv=int8,policy=lagkv:l64:r0.5,sink=4,recent=8"};

TEST(Alarms, NoneOnStationaryData) {
  std::int64_t observations = 0;
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    for (const std::string plan : kPlans) {
      SCOPED_TRACE(plan + ", seed " + std::to_string(seed));
      Ring ring;
      Engine engine(plan, kShape, 1, 1000, seed);
      ProbeOptions o = busy_probe();
      o.seed = seed;
      o.drift.threshold = 5.0;  // drift is what is asked about
      QualityProbe probe(engine.cache, o, ring.fn());
      const SeqId seq = engine.cache.open();
      for (int i = 0; i < 1000; ++i) engine.step(probe, seq);
      observations += probe.stats().observations;
      ASSERT_TRUE(ring.alarms.empty())
          << to_string(ring.alarms[0].kind) << " at step " << ring.alarms[0].step << ", error "
          << ring.alarms[0].error << ", baseline " << ring.alarms[0].baseline;
    }
  }
  EXPECT_GE(observations, 25 * 3 * 200);
}

struct Case {
  const char* name;
  const char* plan;
  Fault fault;
};

std::vector<Case> faults() {
  return {
      {"a few channels times 50", "kv=nqkv:g64,sink=4,recent=8", shifted_keys(kBefore, 16, 50, 0)},
      {"an offset of 30", "kv=nqkv:g64,sink=4,recent=8", shifted_keys(kBefore, 8, 1, 30)},
      {"a value channel that a static scale does not cover", "k=f16,v=fp8,sink=4,recent=8",
       [](std::int64_t token, std::int32_t, float*, float* v) {
         if (token < kBefore) return;
         for (int i = 0; i < 128; ++i) v[i] = i % 64 == 3 ? 60000.0f : v[i];
       }},
  };
}

TEST(Alarms, InjectedShiftsAreCaughtInTime) {
  for (const Case& c : faults()) {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(std::string(c.name) + ", seed " + std::to_string(seed));
      Ring ring;
      Engine engine(c.plan, kShape, 1, 1200, seed);
      engine.fault = c.fault;
      ProbeOptions o = busy_probe();
      o.seed = seed;
      QualityProbe probe(engine.cache, o, ring.fn());
      const SeqId seq = engine.cache.open();
      for (std::int64_t i = 0; i < kBefore; ++i) engine.step(probe, seq);
      ASSERT_EQ(ring.raised(), 0);
      std::int64_t steps = 0;
      while (ring.raised() == 0 && steps < 500) {
        engine.step(probe, seq);
        ++steps;
      }
      EXPECT_LE(steps, kCaughtWithin) << "running error " << probe.stats().worst_error;
      if (ring.alarms.empty()) continue;
      const Alarm& a = ring.alarms[0];
      EXPECT_EQ(a.seq, seq);
      EXPECT_EQ(a.layer, 0);
      EXPECT_GT(a.baseline, 0.0);
      EXPECT_GT(a.error, 2 * a.baseline);
      EXPECT_EQ(a.step, probe.stats().steps);
    }
  }
}

// Factors that cached rows were divided by are not those that outputs are multiplied by.
TEST(Alarms, ABrokenCalibrationIsCaughtAtOnce) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::vector<float> factors(128, 2.0f);
    CacheConfig config = make_cache_config("kv=nqkv:g64,sink=4,recent=8", kShape, 1, 1200);
    config.layers[0].v.transform = ChannelAffine{{factors.data(), 2, 64}};
    Ring ring;
    Engine engine(std::move(config), seed);
    ProbeOptions o = busy_probe();
    o.seed = seed;
    QualityProbe probe(engine.cache, o, ring.fn());
    const SeqId seq = engine.cache.open();
    for (std::int64_t i = 0; i < kBefore; ++i) engine.step(probe, seq);
    ASSERT_EQ(ring.raised(), 0);
    for (std::size_t c = 0; c < factors.size(); c += 2) factors[c] = 3.5f;  // error 0.53
    std::int64_t steps = 0;
    while (ring.raised() == 0 && steps < 500) {
      engine.step(probe, seq);
      ++steps;
    }
    EXPECT_LE(steps, kCaughtAtOnce);
  }
}

// Only layer 1, head 0 breaks: it is named, and the others stay silent.
TEST(Alarms, NameTheLayerAndHead) {
  Ring ring;
  Engine engine("kv=nqkv:g64,sink=4,recent=8", kShape, 3, 1400, 3);
  engine.fault = [](std::int64_t token, std::int32_t layer, float* k, float*) {
    if (token < kBefore || layer != 1) return;
    for (int i = 0; i < 64; i += 16) k[i] *= 50.0f;
  };
  ProbeOptions o = busy_probe();
  o.every = 1;
  o.n_streams = 6;
  o.drift.recover = 0.1;  // single observations of this fault vary
  QualityProbe probe(engine.cache, o, ring.fn());
  const SeqId seq = engine.cache.open();
  for (int i = 0; i < 900; ++i) engine.step(probe, seq);
  ASSERT_EQ(ring.alarms.size(), 1u);
  EXPECT_EQ(ring.alarms[0].layer, 1);
  EXPECT_EQ(ring.alarms[0].kv_head, 0);
  const ProbeStats s = probe.stats();
  EXPECT_EQ(s.worst_layer, 1);
  EXPECT_EQ(s.worst_kv_head, 0);
  EXPECT_GT(s.worst_error, probe.running_error(1, 1).mean);
  EXPECT_EQ(s.worst_error, probe.running_error(1, 0).mean);
  EXPECT_EQ(s.alarms, 1);
  EXPECT_EQ(s.alarms_active, 1);
  engine.cache.close(seq);
  probe.close(seq);
  ASSERT_EQ(ring.alarms.size(), 2u);
  EXPECT_EQ(ring.alarms[1].event, Alarm::Event::ended);
  EXPECT_EQ(ring.alarms[1].seq, seq);
  EXPECT_EQ(probe.stats().alarms_active, 0);
}

/// Observes outputs that are off by a given relative error of the exact ones.
class Scripted {
 public:
  explicit Scripted(const ProbeOptions& o, AlarmFn fn)
      : engine_("kv=f32", {2, 1, 64}, 1, 300, 1), probe_(engine_.cache, o, std::move(fn)) {
    seq_ = engine_.cache.open();
    for (int i = 0; i < 250; ++i) engine_.step(probe_, seq_);
    q_ = engine_.gauss(2);
    step_.seqs = {&seq_, 1};
    step_.q = dense_rows(q_.data(), 1, 2, 64);
    exact_.resize(128);
    attend(engine_.cache, 0, step_, exact_.data(), nullptr, engine_.options, engine_.workspace);
  }
  void see(double error) {
    std::vector<float> out = exact_;
    for (float& x : out) x *= 1.0f + static_cast<float>(error);
    const auto o = probe_.observe(engine_.cache, 0, step_, out.data(), engine_.options);
    ASSERT_TRUE(o.has_value());
    ASSERT_NEAR(o->error, error, 1e-5);
  }
  QualityProbe& probe() { return probe_; }

 private:
  Engine engine_;
  QualityProbe probe_;
  SeqId seq_ = 0;
  std::vector<float> q_;
  Step step_;
  std::vector<float> exact_;
};

ProbeOptions scripted_options() {
  ProbeOptions o = busy_probe();
  o.every = 1;
  o.n_streams = 1;
  o.min_rows = 250;  // the first check is the script's
  o.dtype = DType::f32;
  return o;
}

// threshold 0.5, recovery at 0.375; window 4.
TEST(Alarms, RingOnceAndRecoverWithHysteresis) {
  Ring ring;
  ProbeOptions o = scripted_options();
  o.drift.min_baseline = 65536;  // thresholds alone
  Scripted s(o, ring.fn());
  for (int i = 0; i < 20; ++i) s.see(0.49);
  EXPECT_EQ(ring.alarms.size(), 0u);
  for (int i = 0; i < 20; ++i) s.see(0.55);
  ASSERT_EQ(ring.alarms.size(), 1u);
  EXPECT_EQ(ring.alarms[0].kind, Alarm::Kind::threshold);
  EXPECT_EQ(ring.alarms[0].baseline, 0.0);
  for (int i = 0; i < 10; ++i) {  // to and fro above 0.375: neither ends nor rings
    for (const double e : {0.4, 0.55, 0.4, 0.6}) s.see(e);
  }
  EXPECT_EQ(ring.alarms.size(), 1u);
  for (int i = 0; i < 20; ++i) s.see(0.3);
  ASSERT_EQ(ring.alarms.size(), 2u);
  EXPECT_EQ(ring.alarms[1].event, Alarm::Event::recovered);
  EXPECT_LE(ring.alarms[1].error, 0.375);
  for (int i = 0; i < 20; ++i) s.see(0.6);
  ASSERT_EQ(ring.alarms.size(), 3u);
  EXPECT_EQ(ring.alarms[2].event, Alarm::Event::raised);
  EXPECT_EQ(s.probe().stats().alarms, 2);
}

// The running error after k checks at 3 times the old one: 1 + 2 (1 - 0.75^k) >= 2 for k = 3.
TEST(Alarms, DriftIsARiseAgainstTheBaseline) {
  Ring ring;
  Scripted s(scripted_options(), ring.fn());
  for (int i = 0; i < 40; ++i) s.see(0.1);
  s.see(0.3);
  s.see(0.3);
  EXPECT_EQ(ring.alarms.size(), 0u);
  s.see(0.3);
  ASSERT_EQ(ring.alarms.size(), 1u);
  EXPECT_EQ(ring.alarms[0].kind, Alarm::Kind::drift);
  EXPECT_NEAR(ring.alarms[0].error, 0.1 + 0.2 * (1 - std::pow(0.75, 3)), 1e-3);
  EXPECT_NEAR(ring.alarms[0].baseline, 0.1, 0.015);
  // The baseline stands still in alarm, however long it lasts.
  for (int i = 0; i < 300; ++i) s.see(0.3);
  EXPECT_EQ(ring.alarms.size(), 1u);
  for (int i = 0; i < 10; ++i) s.see(0.1);
  ASSERT_EQ(ring.alarms.size(), 2u);
  EXPECT_EQ(ring.alarms[1].event, Alarm::Event::recovered);
  EXPECT_EQ(ring.alarms[1].kind, Alarm::Kind::drift);
}

TEST(Alarms, SmallErrorsDoNotDriftAndSingleOnesDoNotRing) {
  Ring ring;
  Scripted s(scripted_options(), ring.fn());
  for (int i = 0; i < 40; ++i) s.see(0.001);
  for (int i = 0; i < 40; ++i) s.see(0.019);  // 19 times, but below the floor of 0.02
  EXPECT_EQ(ring.alarms.size(), 0u);
  Scripted t(scripted_options(), ring.fn());
  for (int i = 0; i < 40; ++i) {
    for (const double e : {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4}) t.see(e);
  }
  EXPECT_EQ(ring.alarms.size(), 0u) << "an outlier in ten";
}

TEST(Alarms, CallbacksMayThrow) {
  Scripted s(scripted_options(), [](const Alarm&) { throw std::runtime_error("no"); });
  for (int i = 0; i < 20; ++i) s.see(0.1);
  for (int i = 0; i < 20; ++i) s.see(0.9);
  EXPECT_EQ(s.probe().stats().callback_failures, 1);
  EXPECT_EQ(s.probe().stats().alarms, 1);
  for (int i = 0; i < 20; ++i) s.see(0.1);
  EXPECT_EQ(s.probe().stats().callback_failures, 2);
  EXPECT_EQ(s.probe().stats().alarms_active, 0);
}

TEST(Alarms, NoCallbackIsFine) {
  Scripted s(scripted_options(), {});
  for (int i = 0; i < 20; ++i) s.see(0.9);
  EXPECT_EQ(s.probe().stats().alarms_active, 1);
}

}  // namespace
}  // namespace kvcodec
