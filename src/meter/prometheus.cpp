// The metrics of a cache.
#include "kvcodec/meter/prometheus.hpp"

#include "src/meter/exposition.hpp"

namespace kvcodec {
namespace {

using S = CacheStats;

std::vector<Metric<S>> memory_metrics() {
  return {
      {"kvcodec_cache_bytes",
       "gauge",
       "Bytes held: whole pages in use, raw windows, tables.",
       {{[](const S& s) { return std::to_string(s.bytes.payload); }, "kind", "payload"},
        {[](const S& s) { return std::to_string(s.bytes.window); }, "kind", "window"},
        {[](const S& s) { return std::to_string(s.bytes.tables); }, "kind", "tables"}}},
      {"kvcodec_cache_values",
       "gauge",
       "K and V values that open sequences were given, evicted ones included.",
       {{[](const S& s) { return std::to_string(s.bytes.n_values); }}}},
      {"kvcodec_cache_pages",
       "gauge",
       "Pages of all pools.",
       {{[](const S& s) { return std::to_string(s.pages_free); }, "kind", "free"},
        {[](const S& s) { return std::to_string(s.pages_total - s.pages_free); }, "kind", "used"}}},
      {"kvcodec_cache_sequences", "gauge", "Open sequences.", {{[](const S& s) {
         return std::to_string(s.sequences_open);
       }}}},
      {"kvcodec_cache_sequences_max",
       "gauge",
       "Sequences that can be open at one time.",
       {{[](const S& s) { return std::to_string(s.sequences_max); }}}},
      {"kvcodec_cache_tokens",
       "gauge",
       "Tokens of open sequences, once per layer.",
       {{[](const S& s) { return std::to_string(s.tokens); }}}},
      {"kvcodec_cache_rows",
       "gauge",
       "Rows of open sequences, one per token, layer and KV head.",
       {{[](const S& s) { return std::to_string(s.rows_encoded); }, "kind", "encoded"},
        {[](const S& s) { return std::to_string(s.rows_raw); }, "kind", "raw"},
        {[](const S& s) { return std::to_string(s.rows_evicted); }, "kind", "evicted"}}},
      {"kvcodec_cache_layers_in_fallback",
       "gauge",
       "Layers of open sequences that keep more than the configuration says.",
       {{[](const S& s) { return std::to_string(s.layers_held); }, "kind", "held_raw"},
        {[](const S& s) { return std::to_string(s.layers_not_evicting); }, "kind",
         "not_evicting"}}},
  };
}

std::vector<Metric<S>> event_metrics() {
  return {
      {"kvcodec_cache_sequences_opened_total",
       "counter",
       "Sequences opened, forks included.",
       {{[](const S& s) { return std::to_string(s.sequences_opened); }}}},
      {"kvcodec_cache_sequences_forked_total",
       "counter",
       "Sequences opened by a fork.",
       {{[](const S& s) { return std::to_string(s.sequences_forked); }}}},
      {"kvcodec_cache_sequences_closed_total", "counter", "Sequences closed.", {{[](const S& s) {
         return std::to_string(s.sequences_closed);
       }}}},
      {"kvcodec_cache_tokens_appended_total",
       "counter",
       "Tokens appended, once per layer.",
       {{[](const S& s) { return std::to_string(s.tokens_appended); }}}},
      {"kvcodec_cache_tokens_truncated_total",
       "counter",
       "Tokens taken back, once per layer.",
       {{[](const S& s) { return std::to_string(s.tokens_truncated); }}}},
      {"kvcodec_cache_rows_evicted_total",
       "counter",
       "Rows that a policy left out.",
       {{[](const S& s) { return std::to_string(s.rows_dropped); }}}},
      {"kvcodec_cache_tiles_encoded_total",
       "counter",
       "Tiles of 64 rows of a KV head, K and V, written to pages.",
       {{[](const S& s) { return std::to_string(s.tiles_encoded); }}}},
      {"kvcodec_cache_appends_refused_total",
       "counter",
       "Appends that failed and changed nothing.",
       {{[](const S& s) { return std::to_string(s.appends_refused); }}}},
      {"kvcodec_cache_calls_total",
       "counter",
       "Appends, flushes of a window, attention of a layer.",
       {{[](const S& s) { return std::to_string(s.append.calls); }, "call", "append"},
        {[](const S& s) { return std::to_string(s.flush.calls); }, "call", "flush"},
        {[](const S& s) { return std::to_string(s.attend.calls); }, "call", "attend"}}},
      {"kvcodec_cache_call_seconds_total",
       "counter",
       "Time in them; that of flushes is part of that of appends.",
       {{[](const S& s) { return seconds(s.append.nanoseconds); }, "call", "append"},
        {[](const S& s) { return seconds(s.flush.nanoseconds); }, "call", "flush"},
        {[](const S& s) { return seconds(s.attend.nanoseconds); }, "call", "attend"}}},
  };
}

}  // namespace

std::string to_prometheus(std::span<const LabelledCacheStats> caches) {
  std::vector<Metric<S>> metrics = memory_metrics();
  const std::vector<Metric<S>> events = event_metrics();
  metrics.insert(metrics.end(), events.begin(), events.end());
  return exposition(metrics, caches);
}

std::string to_prometheus(const CacheStats& stats, const std::vector<Label>& labels) {
  const LabelledCacheStats one{stats, labels};
  return to_prometheus(std::span(&one, 1));
}

}  // namespace kvcodec
