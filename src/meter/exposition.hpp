// Writes metrics of any kind of reading in the Prometheus text format.
#pragma once

#include <algorithm>
#include <cctype>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "kvcodec/meter/prometheus.hpp"

namespace kvcodec {

/// One line per reading: the value and, where a metric has several, what tells them apart.
template <class Stats>
struct Series {
  std::string (*value)(const Stats&);
  const char* label = nullptr;  ///< null: the metric has one series
  const char* label_value = nullptr;
};

template <class Stats>
struct Metric {
  const char* name;
  const char* type;  ///< "counter" or "gauge"
  const char* help;  ///< one line, no backslash
  std::vector<Series<Stats>> series;
};

inline std::string seconds(std::int64_t nanoseconds) {
  char text[40];
  std::snprintf(text, sizeof text, "%" PRId64 ".%09" PRId64, nanoseconds / 1000000000,
                nanoseconds % 1000000000);
  return text;
}

inline std::string decimal(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

/// Backslash, quote and line feed, as the format wants them.
inline std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == '\n') {
      text += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') text += '\\';
    text += c;
  }
  return text;
}

inline bool is_label_name(const std::string& name) {
  const auto letter = [](unsigned char c) {
    return c < 0x80 && (std::isalpha(c) != 0 || c == '_');
  };
  const auto inside = [&](unsigned char c) { return letter(c) || (c >= '0' && c <= '9'); };
  return !name.empty() && letter(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), inside) && !name.starts_with("__");
}

/// Throws invalid_argument; see to_prometheus. Returns the labels in the order of their names.
inline std::vector<std::pair<std::string, std::string>> checked(const std::vector<Label>& labels) {
  std::vector<std::pair<std::string, std::string>> sorted;
  for (const Label& label : labels) {
    if (!is_label_name(label.name)) {
      throw invalid_argument(bad_value("to_prometheus", "label name", label.name,
                                       "letters, digits and _, no digit and no __ first"));
    }
    if (label.name == "kind" || label.name == "call") {
      throw invalid_argument(
          bad_value("to_prometheus", "label name", label.name, "names that no metric uses itself"));
    }
    sorted.emplace_back(label.name, label.value);
  }
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].first != sorted[i - 1].first) continue;
    throw invalid_argument(
        bad_value("to_prometheus", "label name", sorted[i].first, "every name once"));
  }
  return sorted;
}

template <class Stats>
void write_series(const Metric<Stats>& metric, const Series<Stats>& series, const Stats& stats,
                  const std::vector<Label>& labels, std::string& text) {
  std::string list;
  const auto add = [&list](const std::string& name, const std::string& value) {
    list.append(list.empty() ? "" : ",").append(name).append("=\"").append(escaped(value)) += '"';
  };
  for (const Label& label : labels) add(label.name, label.value);
  if (series.label != nullptr) add(series.label, series.label_value);
  text += metric.name;
  if (!list.empty()) text.append("{").append(list).append("}");
  text.append(" ").append(series.value(stats)).append("\n");
}

/// Readings are {stats, labels}. Throws invalid_argument as to_prometheus.
template <class Stats, class Reading>
std::string exposition(const std::vector<Metric<Stats>>& metrics,
                       std::span<const Reading> readings) {
  std::vector<std::vector<std::pair<std::string, std::string>>> seen;
  for (const Reading& reading : readings) {
    seen.push_back(checked(reading.labels));
    if (std::find(seen.begin(), seen.end() - 1, seen.back()) == seen.end() - 1) continue;
    throw invalid_argument("to_prometheus: readings " + std::to_string(seen.size() - 1) +
                           " and an earlier one have the same labels, allowed: labels that tell "
                           "them apart");
  }
  std::string text;
  for (const Metric<Stats>& metric : metrics) {
    if (readings.empty()) break;
    text.append("# HELP ").append(metric.name).append(" ").append(metric.help).append("\n");
    text.append("# TYPE ").append(metric.name).append(" ").append(metric.type).append("\n");
    for (const Reading& reading : readings) {
      for (const Series<Stats>& series : metric.series) {
        write_series(metric, series, reading.stats, reading.labels, text);
      }
    }
  }
  return text;
}

}  // namespace kvcodec
