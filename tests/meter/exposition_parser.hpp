// Reads Prometheus text strictly: what the format does not allow is an error with its line.
#pragma once

#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

namespace kvcodec::test {

struct ParsedMetric {
  std::string type;
  std::string help;
  /// Labels in the order of their names, as name=value|, to the value.
  std::map<std::string, double> series;
};

class ExpositionParser {
 public:
  explicit ExpositionParser(const std::string& text) : text_(text) {}

  std::map<std::string, ParsedMetric> parse() {
    if (!text_.empty() && text_.back() != '\n') fail("the last line does not end");
    while (at_ < text_.size()) {
      ++line_;
      if (text_[at_] == '#') header();
      else sample();
    }
    return metrics_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("line " + std::to_string(line_) + ": " + what);
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void expect(const std::string& what) {
    if (text_.compare(at_, what.size(), what) != 0) fail("expected \"" + what + "\"");
    at_ += what.size();
  }
  std::string name(bool colons) {
    const std::size_t begin = at_;
    const auto good = [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colons && c == ':') ||
             (at_ > begin && c >= '0' && c <= '9');
    };
    while (good(peek())) ++at_;
    if (at_ == begin) fail("expected a name");
    return text_.substr(begin, at_ - begin);
  }
  std::string rest() {
    const std::size_t end = text_.find('\n', at_);
    const std::string text = text_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  void header() {
    expect("# ");
    const bool help = text_.compare(at_, 5, "HELP ") == 0;
    expect(help ? "HELP " : "TYPE ");
    const std::string metric = name(true);
    expect(" ");
    const std::string text = rest();
    if (help) {
      if (metrics_.contains(metric)) fail("second header of " + metric);
      metrics_[metric].help = text;
    } else {
      if (!metrics_.contains(metric) || !metrics_[metric].type.empty()) fail("TYPE out of place");
      if (text != "counter" && text != "gauge") fail("type " + text);
      if ((text == "counter") != metric.ends_with("_total")) fail("name and type of " + metric);
      metrics_[metric].type = text;
    }
    current_ = metric;
  }

  std::string label_value() {
    expect("\"");
    std::string value;
    while (peek() != '"') {
      if (peek() == '\n' || peek() == '\0') fail("label value does not end");
      if (peek() == '\\') {
        ++at_;
        if (peek() != 'n' && peek() != '"' && peek() != '\\') fail("bad escape");
        value += peek() == 'n' ? '\n' : peek();
      } else {
        value += peek();
      }
      ++at_;
    }
    expect("\"");
    return value;
  }

  void sample() {
    const std::string metric = name(true);
    if (metric != current_ || metrics_[metric].type.empty()) fail(metric + " has no header above");
    std::map<std::string, std::string> labels;
    if (peek() == '{') {
      expect("{");
      while (true) {
        const std::string label = name(false);
        expect("=");
        if (!labels.emplace(label, label_value()).second) fail("label " + label + " twice");
        if (peek() == '}') break;
        expect(",");
      }
      expect("}");
    }
    expect(" ");
    const std::string number = rest();
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0') fail("value " + number);
    std::string key;
    for (const auto& [k, v] : labels) key += k + "=" + v + "|";
    if (!metrics_[metric].series.emplace(key, value).second) fail("series twice: " + key);
  }

  std::string text_;
  std::size_t at_ = 0;
  int line_ = 0;
  std::string current_;
  std::map<std::string, ParsedMetric> metrics_;
};

inline std::map<std::string, ParsedMetric> parse_exposition(const std::string& text) {
  return ExpositionParser(text).parse();
}

}  // namespace kvcodec::test
