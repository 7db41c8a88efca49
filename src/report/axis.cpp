#include "src/report/axis.hpp"

#include <algorithm>
#include <cmath>

#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

// 1, 2 or 5 times a power of ten, about a fifth of `range`.
double nice_step(double range) {
  const double rough = range / 5.0;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (m * power >= rough * 0.999) return m * power;
  }
  return 10.0 * power;
}

// At most `most` of the ticks, evenly thinned, the first one kept.
void thin(std::vector<Axis::Tick>& ticks, std::size_t most) {
  const std::size_t keep_every = (ticks.size() + most - 1) / most;
  std::vector<Axis::Tick> kept;
  for (std::size_t i = 0; keep_every > 0 && i < ticks.size(); i += keep_every) {
    kept.push_back(ticks[i]);
  }
  ticks = std::move(kept);
}

// Values for ticks that enclose lo..hi: powers of the base, and steps between them if few fit.
std::vector<double> log_candidates(double lo, double hi, int base) {
  const std::vector<double> steps =
      base == 2      ? hi / lo < 10 ? std::vector<double>{1, 1.5} : std::vector<double>{1}
           : hi / lo < 30 ? std::vector<double>{1, 2, 5}
                     : std::vector<double>{1};
  std::vector<double> values;
  for (int power = static_cast<int>(std::floor(std::log(lo) / std::log(base))) - 1;; ++power) {
    for (const double step : steps) {
      values.push_back(step * std::pow(base, power));
      const std::size_t n = values.size();
      if (n >= 2 && values[n - 1] <= lo * 1.000001) values.erase(values.begin());
      if (values.size() >= 2 && values.back() >= hi * 0.999999) return values;
    }
  }
}

std::string tick_text(double value, int base) {
  const bool thousands = base == 2 && value >= 1024 && std::fmod(value, 512) == 0;
  return thousands ? short_number(value / 1024) + "k" : short_number(value);
}

}  // namespace

Axis Axis::linear(std::string label, double lo, double hi) {
  if (hi - lo <= 1e-9 * std::abs(lo)) hi = lo + (lo == 0.0 ? 1.0 : std::abs(lo) * 0.1);
  const double step = nice_step(hi - lo);
  Axis axis;
  axis.label_ = std::move(label);
  const double first = std::floor(lo / step + 1e-9);
  const double last = std::ceil(hi / step - 1e-9);
  axis.lo_ = first * step;
  axis.hi_ = last * step;
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  for (double i = first; i <= last; ++i) {
    const double value = i * step;
    axis.ticks_.push_back(
        {axis.place(value), decimals <= 4 ? fixed(value, decimals) : short_number(value)});
  }
  return axis;
}

Axis Axis::logarithmic(std::string label, double lo, double hi, int base, bool with_zero) {
  const std::vector<double> values = log_candidates(lo, hi, base);
  Axis axis;
  axis.label_ = std::move(label);
  axis.log_ = true;
  axis.start_ = with_zero ? 0.12 : 0.0;
  axis.lo_ = std::log(values.front());
  axis.hi_ = std::log(values.back());
  for (const double value : values)
    axis.ticks_.push_back({axis.place(value), tick_text(value, base)});
  thin(axis.ticks_, 8);
  if (with_zero) axis.ticks_.insert(axis.ticks_.begin(), {0.0, "0"});
  return axis;
}

Axis Axis::fields(std::string label, const std::vector<std::string>& names, bool from_last) {
  Axis axis;
  axis.label_ = std::move(label);
  axis.n_fields_ = static_cast<int>(names.size());
  axis.lo_ = -0.5;
  axis.hi_ = static_cast<double>(names.size()) - 0.5;
  std::size_t every = 1;
  while (names.size() > 12 * every) every *= 2;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if ((from_last ? names.size() - 1 - i : i) % every != 0) continue;
    axis.ticks_.push_back({axis.place(static_cast<double>(i)), names[i]});
  }
  return axis;
}

double Axis::place(double value) const {
  if (log_ && value <= 0.0) return 0.0;
  const double share = ((log_ ? std::log(value) : value) - lo_) / (hi_ - lo_);
  return start_ + (1.0 - start_) * std::clamp(share, 0.0, 1.0);
}

}  // namespace kvcodec::report
