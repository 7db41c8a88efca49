// The text of CacheStats, read back by a strict parser.
#include "kvcodec/meter/prometheus.hpp"

#include <gtest/gtest.h>

#include "kvcodec/core/error.hpp"
#include "tests/meter/exposition_parser.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;
using test::parse_exposition;

CacheStats numbered() {
  CacheStats s;
  s.bytes = {101, 102, 103, 104};
  s.sequences_open = 5;
  s.sequences_max = 6;
  s.tokens = 7;
  s.rows_encoded = 8;
  s.rows_raw = 9;
  s.rows_evicted = 10;
  s.pages_total = 40;
  s.pages_free = 12;
  s.layers_held = 13;
  s.layers_not_evicting = 14;
  s.sequences_opened = 15;
  s.sequences_forked = 16;
  s.sequences_closed = 17;
  s.tokens_appended = 9007199254740993;  // no double
  s.tokens_truncated = 19;
  s.rows_dropped = 20;
  s.tiles_encoded = 21;
  s.appends_refused = 22;
  s.append = {23, 1500000001};
  s.flush = {24, 7};
  s.attend = {25, 3000000000000};
  return s;
}

TEST(Prometheus, HasEveryNumberOnce) {
  const std::string text = to_prometheus(numbered());
  const auto m = parse_exposition(text);
  const std::map<std::string, std::map<std::string, double>> want = {
      {"kvcodec_cache_bytes",
       {{"kind=payload|", 101}, {"kind=window|", 102}, {"kind=tables|", 103}}},
      {"kvcodec_cache_values", {{"", 104}}},
      {"kvcodec_cache_pages", {{"kind=free|", 12}, {"kind=used|", 28}}},
      {"kvcodec_cache_sequences", {{"", 5}}},
      {"kvcodec_cache_sequences_max", {{"", 6}}},
      {"kvcodec_cache_tokens", {{"", 7}}},
      {"kvcodec_cache_rows", {{"kind=encoded|", 8}, {"kind=raw|", 9}, {"kind=evicted|", 10}}},
      {"kvcodec_cache_layers_in_fallback", {{"kind=held_raw|", 13}, {"kind=not_evicting|", 14}}},
      {"kvcodec_cache_sequences_opened_total", {{"", 15}}},
      {"kvcodec_cache_sequences_forked_total", {{"", 16}}},
      {"kvcodec_cache_sequences_closed_total", {{"", 17}}},
      {"kvcodec_cache_tokens_appended_total", {{"", 9007199254740993.0}}},
      {"kvcodec_cache_tokens_truncated_total", {{"", 19}}},
      {"kvcodec_cache_rows_evicted_total", {{"", 20}}},
      {"kvcodec_cache_tiles_encoded_total", {{"", 21}}},
      {"kvcodec_cache_appends_refused_total", {{"", 22}}},
      {"kvcodec_cache_calls_total",
       {{"call=append|", 23}, {"call=flush|", 24}, {"call=attend|", 25}}},
      {"kvcodec_cache_call_seconds_total",
       {{"call=append|", 1.500000001}, {"call=flush|", 7e-9}, {"call=attend|", 3000.0}}},
  };
  ASSERT_EQ(m.size(), want.size());
  for (const auto& [name, series] : want) {
    ASSERT_TRUE(m.contains(name)) << name;
    EXPECT_EQ(m.at(name).series, series) << name;
    EXPECT_FALSE(m.at(name).help.empty()) << name;
  }
  EXPECT_NE(text.find("kvcodec_cache_tokens_appended_total 9007199254740993\n"), std::string::npos)
      << "integers are written exactly";
}

TEST(Prometheus, OneMetricToTheLetter) {
  const std::string text = to_prometheus(numbered(), {{"model", "a\"b\\c\nd"}, {"rank", "0"}});
  EXPECT_NE(
      text.find("# HELP kvcodec_cache_pages Pages of all pools.\n"
                "# TYPE kvcodec_cache_pages gauge\n"
                "kvcodec_cache_pages{model=\"a\\\"b\\\\c\\nd\",rank=\"0\",kind=\"free\"} 12\n"
                "kvcodec_cache_pages{model=\"a\\\"b\\\\c\\nd\",rank=\"0\",kind=\"used\"} 28\n"),
      std::string::npos)
      << text;
  EXPECT_EQ(parse_exposition(text).at("kvcodec_cache_tokens").series.begin()->first,
            "model=a\"b\\c\nd|rank=0|");
}

TEST(Prometheus, SeveralCachesShareTheirHeaders) {
  CacheStats other = numbered();
  other.tokens = 1000;
  const LabelledCacheStats both[] = {{numbered(), {{"rank", "0"}}}, {other, {{"rank", "1"}}}};
  const auto m = parse_exposition(to_prometheus(both));
  EXPECT_EQ(m.at("kvcodec_cache_tokens").series.at("rank=0|"), 7);
  EXPECT_EQ(m.at("kvcodec_cache_tokens").series.at("rank=1|"), 1000);
  EXPECT_EQ(m.at("kvcodec_cache_rows").series.size(), 6u);
  EXPECT_EQ(to_prometheus(std::span<const LabelledCacheStats>()), "");
}

TEST(Prometheus, CountersOfALiveCacheNeverFall) {
  const HeadShape shape{2, 2, 64};
  const test::Tokens tokens(shape, 300, 1);
  Cache cache(make_cache_config("kv=int8,policy=lagkv:l64:r0.25,sink=4", shape, 1, 2000, 2));
  auto before = parse_exposition(to_prometheus(cache.stats()));
  const auto step = [&] {
    const auto now = parse_exposition(to_prometheus(cache.stats()));
    for (const auto& [name, metric] : before) {
      if (metric.type != "counter") continue;
      for (const auto& [labels, value] : metric.series) {
        EXPECT_GE(now.at(name).series.at(labels), value) << name << labels;
      }
    }
    before = now;
  };
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 300), Status::ok);
  step();
  const SeqId b = cache.fork(a);
  step();
  ASSERT_EQ(cache.truncate(b, 290), Status::ok);
  step();
  cache.close(a);
  step();
  cache.close(b);
  step();
}

TEST(Prometheus, RefusesBadLabels) {
  for (const std::string name : {"", "1a", "a-b", "__a", "a b", "\xc3\xa4"}) {
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] {
                           to_prometheus(CacheStats{}, {{name, "x"}});
                         }),
                         {"to_prometheus", "label name", "\"" + name + "\""}));
  }
  for (const std::string name : {"kind", "call"}) {
    EXPECT_THROW(to_prometheus(CacheStats{}, {{name, "x"}}), invalid_argument);
  }
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] {
                         to_prometheus(CacheStats{}, {{"a", "x"}, {"b", ""}, {"a", "y"}});
                       }),
                       {"\"a\"", "once"}));
  const LabelledCacheStats same[] = {{{}, {{"a", "1"}, {"b", "2"}}},
                                     {{}, {{"b", "2"}, {"a", "1"}}}};
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { to_prometheus(same); }),
                       {"readings 1", "same labels"}));
}

TEST(Prometheus, OfAProbeHasEveryNumberOnce) {
  ProbeStats s;
  s.streams = 1;
  s.shadow_bytes = 2;
  s.alarms_active = 3;
  s.error = 0.125;
  s.error_kept = 1e-7;
  s.worst_error = 0.5;
  s.worst_layer = 6;
  s.worst_kv_head = 7;
  s.max_error = 1e6;
  s.steps = 9;
  s.observations = 10;
  s.streams_started = 11;
  s.streams_outgrown = 12;
  s.streams_lost = 13;
  s.alarms = 14;
  s.callback_failures = 15;
  s.check = {16, 17};
  s.shadow = {18, 19};
  const std::map<std::string, std::map<std::string, double>> want = {
      {"kvcodec_probe_streams", {{"", 1}}},
      {"kvcodec_probe_shadow_bytes", {{"", 2}}},
      {"kvcodec_probe_alarms_active", {{"", 3}}},
      {"kvcodec_probe_error", {{"kind=all|", 0.125}, {"kind=kept|", 1e-7}}},
      {"kvcodec_probe_worst_error", {{"", 0.5}}},
      {"kvcodec_probe_worst_layer", {{"", 6}}},
      {"kvcodec_probe_worst_kv_head", {{"", 7}}},
      {"kvcodec_probe_max_error", {{"", 1e6}}},
      {"kvcodec_probe_steps_total", {{"", 9}}},
      {"kvcodec_probe_observations_total", {{"", 10}}},
      {"kvcodec_probe_streams_started_total", {{"", 11}}},
      {"kvcodec_probe_streams_given_up_total", {{"kind=outgrown|", 12}, {"kind=lost|", 13}}},
      {"kvcodec_probe_alarms_total", {{"", 14}}},
      {"kvcodec_probe_callback_failures_total", {{"", 15}}},
      {"kvcodec_probe_calls_total", {{"call=check|", 16}, {"call=shadow|", 18}}},
      {"kvcodec_probe_call_seconds_total", {{"call=check|", 17e-9}, {"call=shadow|", 19e-9}}},
  };
  // Behind a cache's, as an endpoint would serve them.
  const auto m = parse_exposition(to_prometheus(CacheStats{}) + to_prometheus(s));
  EXPECT_EQ(m.size(), 18u + want.size());
  for (const auto& [name, series] : want) {
    ASSERT_TRUE(m.contains(name)) << name;
    EXPECT_EQ(m.at(name).series, series) << name;
  }
  const LabelledProbeStats same[] = {{s, {}}, {s, {}}};
  EXPECT_THROW(to_prometheus(same), invalid_argument);
}

// The parser is the judge: it must refuse what the format does not allow.
TEST(Prometheus, TheParserIsStrict) {
  const std::string head = "# HELP a_total x\n# TYPE a_total counter\n";
  EXPECT_EQ(parse_exposition(head + "a_total{b=\"c\"} 1\n").at("a_total").series.size(), 1u);
  for (const std::string& bad :
       {head + "a_total 1", head + head, head + "a_total{b=\"c} 1\n",
        head + "a_total{b=\"\\x\"} 1\n", head + "a_total 1\na_total 2\n",
        head + "a_total{b=\"c\",b=\"d\"} 1\n", std::string("b 1\n"), head + "a_total{} 1\n",
        head + "a_total x\n", head + "a_total{1b=\"c\"} 1\n",
        std::string("# HELP a x\n# TYPE a counter\n")}) {
    EXPECT_THROW(parse_exposition(bad), std::runtime_error) << bad;
  }
}

}  // namespace
}  // namespace kvcodec
