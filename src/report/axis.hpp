// One direction of a plot: where values lie, and the ticks.
#pragma once

#include <string>
#include <vector>

namespace kvcodec::report {

class Axis {
 public:
  struct Tick {
    double place;  ///< 0..1
    std::string text;
  };

  /// lo..hi (finite, lo <= hi), widened to whole ticks. The label names the unit.
  static Axis linear(std::string label, double lo, double hi);
  /// 0 < lo <= hi, widened to whole ticks. Base 2 (bits, tokens) or 10. `with_zero` adds a place for
  /// 0 below lo.
  static Axis logarithmic(std::string label, double lo, double hi, int base,
                          bool with_zero = false);
  /// The values 0..n-1 as fields of equal width; n >= 1. Of many names every 2nd, 4th, 8th ... is written,
  /// counted from the first one or from the last.
  static Axis fields(std::string label, const std::vector<std::string>& names,
                     bool from_last = false);

  /// 0..1; values beyond the ends are placed at the ends.
  double place(double value) const;
  const std::vector<Tick>& ticks() const { return ticks_; }
  const std::string& label() const { return label_; }
  /// Number of fields, 0 for a continuous axis.
  int n_fields() const { return n_fields_; }

 private:
  std::string label_;
  std::vector<Tick> ticks_;
  double lo_ = 0.0, hi_ = 1.0;  // of the values, or of their logarithms
  bool log_ = false;
  double start_ = 0.0;  // where lo_ lies: above 0 when zero has a place of its own
  int n_fields_ = 0;
};

}  // namespace kvcodec::report
