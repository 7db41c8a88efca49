// Text of options: "g64:search" <-> values. Used by parse() and name() of codecs and transforms.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace kvcodec {

/// Splits "a:b:c" into its parts; an empty text has none, an empty part stays.
inline std::vector<std::string> split_options(const std::string& text, char separator = ':') {
  std::vector<std::string> parts;
  if (text.empty()) return parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

/// Parses the whole of `text` as a number in low..high. Returns false and leaves `out` otherwise.
inline bool parse_float(const std::string& text, float low, float high, float& out) {
  char* end = nullptr;
  const float value = std::strtof(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size() || !(value >= low && value <= high)) {
    return false;
  }
  out = value;
  return true;
}

/// The same for f64, for numbers whose f64 product with a count is rounded down.
inline bool parse_double(const std::string& text, double low, double high, double& out) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size() || !(value >= low && value <= high)) {
    return false;
  }
  out = value;
  return true;
}

/// Parses the whole of `text` as an integer in low..high. Returns false and leaves `out` otherwise.
inline bool parse_int(const std::string& text, long low, long high, long& out) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || !(text[0] == '-' || (text[0] >= '0' && text[0] <= '9')) ||
      end != text.c_str() + text.size() || value < low || value > high) {
    return false;
  }
  out = value;
  return true;
}

/// Shortest text that parses back to the same double.
inline std::string format_double(double value) {
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

/// Shortest text that parses back to the same float.
inline std::string format_float(float value) {
  char text[32];
  for (int digits = 1; digits <= 9; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text, nullptr) == value) break;
  }
  return text;
}

}  // namespace kvcodec
