#include "kvcodec/meter/drift.hpp"

#include <cmath>
#include <cstdio>

#include "kvcodec/core/error.hpp"
#include "src/cache/layer_info.hpp"

namespace kvcodec {
namespace {

void check_number(const char* name, double value, bool good, const std::string& allowed) {
  if (good && std::isfinite(value)) return;
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  throw invalid_argument(std::string("DriftOptions: ") + name + " = " + text +
                         ", allowed: finite and " + allowed);
}

}  // namespace

void check(const DriftOptions& o) {
  check_range("DriftOptions", "window", o.window, 1, 65536);
  check_range("DriftOptions", "baseline_window", o.baseline_window, o.window, 65536);
  check_range("DriftOptions", "min_baseline", o.min_baseline, 2, 65536);
  check_number("threshold", o.threshold, o.threshold > 0.0, "> 0");
  check_number("factor", o.factor, o.factor > 1.0, "> 1");
  check_number("floor", o.floor, o.floor >= 0.0 && o.floor < o.threshold, "0 <= floor < threshold");
  check_number("recover", o.recover, o.recover > 0.0 && o.recover < 1.0, "between 0 and 1");
}

}  // namespace kvcodec
