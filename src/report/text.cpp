#include "src/report/text.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace kvcodec::report {

std::string escape(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      case '\'': safe += "&#39;"; break;
      default: safe += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return safe;
}

std::string fixed(double value, int decimals) {
  char digits[400];  // the longest double has 309 digits before the point
  std::snprintf(digits, sizeof digits, "%.*f", decimals, value);
  std::string text = digits;
  if (text.find_first_of("123456789") == std::string::npos && text[0] == '-') text.erase(0, 1);
  const std::size_t first = text[0] == '-' ? 1 : 0;
  for (std::size_t i = std::min(text.find('.'), text.size()); i > first + 3;) {
    i -= 3;
    text.insert(i, ",");
  }
  return text;
}

std::string short_number(double value) {
  const double size = std::abs(value);
  if (size >= 1e15) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2e", value);
    return text;
  }
  if (size >= 100) return fixed(value, 0);
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

std::size_t n_characters(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string shortened(const std::string& text, std::size_t most) {
  if (n_characters(text) <= most) return text;
  std::size_t end = 0;
  for (std::size_t n = 0; end < text.size(); ++end) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (starts && ++n == most) break;
  }
  return text.substr(0, end) + "\xe2\x80\xa6";
}

}  // namespace kvcodec::report
