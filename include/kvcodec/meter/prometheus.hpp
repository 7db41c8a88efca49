// Readings as Prometheus text (exposition format 0.0.4). Who serves the text is the caller's business.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvcodec/cache/cache_stats.hpp"
#include "kvcodec/meter/probe.hpp"

namespace kvcodec {

/// A label that tells series apart, such as {"model", "llama-3-8b"}.
struct Label {
  std::string name;   ///< letters, digits and _, no digit first, no __ first
  std::string value;  ///< any UTF-8 text; escaped when it is written
};

/// A reading and the labels of its series.
struct LabelledCacheStats {
  CacheStats stats;
  std::vector<Label> labels;
};

struct LabelledProbeStats {
  ProbeStats stats;
  std::vector<Label> labels;
};

/// All metrics of several caches, each metric with one header: HELP, TYPE, then a line per series, every
/// line ended by a line feed. Names begin with kvcodec_, counters end in _total, times are seconds.
///
/// Throws invalid_argument for a label name outside the above, one that stands twice or that a metric
/// uses itself ("kind", "call"), and for two readings with the same labels, whose series would be one.
std::string to_prometheus(std::span<const LabelledCacheStats> caches);

/// Of one cache.
std::string to_prometheus(const CacheStats& stats, const std::vector<Label>& labels = {});

/// The same of probes. No metric has the name of one of caches: the texts may follow each other.
std::string to_prometheus(std::span<const LabelledProbeStats> probes);
std::string to_prometheus(const ProbeStats& stats, const std::vector<Label>& labels = {});

}  // namespace kvcodec
