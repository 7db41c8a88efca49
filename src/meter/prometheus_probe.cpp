// The metrics of a probe.
#include "src/meter/exposition.hpp"

namespace kvcodec {
namespace {

using S = ProbeStats;

std::vector<Metric<S>> gauges() {
  return {
      {"kvcodec_probe_streams",
       "gauge",
       "Streams watched: a KV head of a layer of a sequence each.",
       {{[](const S& s) { return std::to_string(s.streams); }}}},
      {"kvcodec_probe_shadow_bytes",
       "gauge",
       "Bytes of the uncompressed rows beside the cache.",
       {{[](const S& s) { return std::to_string(s.shadow_bytes); }}}},
      {"kvcodec_probe_alarms_active", "gauge", "Streams in alarm.", {{[](const S& s) {
         return std::to_string(s.alarms_active);
       }}}},
      {"kvcodec_probe_error",
       "gauge",
       "Relative error of attention, running mean: against all rows, and against those kept.",
       {{[](const S& s) { return decimal(s.error); }, "kind", "all"},
        {[](const S& s) { return decimal(s.error_kept); }, "kind", "kept"}}},
      {"kvcodec_probe_max_error", "gauge", "The largest single error so far.", {{[](const S& s) {
         return decimal(s.max_error);
       }}}},
      {"kvcodec_probe_worst_error",
       "gauge",
       "The largest running error of a layer and KV head.",
       {{[](const S& s) { return decimal(s.worst_error); }}}},
      {"kvcodec_probe_worst_layer",
       "gauge",
       "The layer of it; -1 without observations.",
       {{[](const S& s) { return std::to_string(s.worst_layer); }}}},
      {"kvcodec_probe_worst_kv_head",
       "gauge",
       "The KV head of it; -1 without observations.",
       {{[](const S& s) { return std::to_string(s.worst_kv_head); }}}},
  };
}

std::vector<Metric<S>> counters() {
  return {
      {"kvcodec_probe_steps_total", "counter", "Steps seen.", {{[](const S& s) {
         return std::to_string(s.steps);
       }}}},
      {"kvcodec_probe_observations_total", "counter", "Outputs compared.", {{[](const S& s) {
         return std::to_string(s.observations);
       }}}},
      {"kvcodec_probe_streams_started_total", "counter", "Streams taken.", {{[](const S& s) {
         return std::to_string(s.streams_started);
       }}}},
      {"kvcodec_probe_streams_given_up_total",
       "counter",
       "Streams given up: too long for the shadow, or not all handed over.",
       {{[](const S& s) { return std::to_string(s.streams_outgrown); }, "kind", "outgrown"},
        {[](const S& s) { return std::to_string(s.streams_lost); }, "kind", "lost"}}},
      {"kvcodec_probe_alarms_total", "counter", "Alarms raised.", {{[](const S& s) {
         return std::to_string(s.alarms);
       }}}},
      {"kvcodec_probe_callback_failures_total",
       "counter",
       "Exceptions of the callback.",
       {{[](const S& s) { return std::to_string(s.callback_failures); }}}},
      {"kvcodec_probe_calls_total",
       "counter",
       "Checks, and appends to a shadow.",
       {{[](const S& s) { return std::to_string(s.check.calls); }, "call", "check"},
        {[](const S& s) { return std::to_string(s.shadow.calls); }, "call", "shadow"}}},
      {"kvcodec_probe_call_seconds_total",
       "counter",
       "Time in them.",
       {{[](const S& s) { return seconds(s.check.nanoseconds); }, "call", "check"},
        {[](const S& s) { return seconds(s.shadow.nanoseconds); }, "call", "shadow"}}},
  };
}

}  // namespace

std::string to_prometheus(std::span<const LabelledProbeStats> probes) {
  std::vector<Metric<S>> metrics = gauges();
  const std::vector<Metric<S>> more = counters();
  metrics.insert(metrics.end(), more.begin(), more.end());
  return exposition(metrics, probes);
}

std::string to_prometheus(const ProbeStats& stats, const std::vector<Label>& labels) {
  const LabelledProbeStats one{stats, labels};
  return to_prometheus(std::span(&one, 1));
}

}  // namespace kvcodec
