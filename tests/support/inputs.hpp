// Seeded inputs for tests: the same values on every run and every machine up to libm rounding.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvcodec::test {

/// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() noexcept {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// 0..n-1.
  std::int64_t below(std::int64_t n) noexcept {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n));
  }
  /// (0, 1), exact in f32 and f64.
  double uniform() noexcept { return (static_cast<double>(bits() >> 41) + 0.5) * 0x1p-23; }
  /// Unit Gaussian (Box-Muller).
  double gauss() noexcept {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

 private:
  std::uint64_t state_;
};

/// Kinds of rows.
enum class Input { gauss, outlier, ramp, constant, zero, lognormal };

inline constexpr Input kAllInputs[] = {Input::gauss,    Input::outlier, Input::ramp,
                                       Input::constant, Input::zero,    Input::lognormal};

inline std::string to_string(Input kind) {
  constexpr const char* names[] = {"gauss", "outlier", "ramp", "constant", "zero", "lognormal"};
  return names[static_cast<int>(kind)];
}

/// n_rows rows of `width` values. "outlier": every 16th channel is 30 times larger.
inline std::vector<float> make_rows(Input kind, std::int64_t n_rows, std::int64_t width,
                                    std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<std::size_t>(n_rows * width));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto channel = static_cast<std::int64_t>(i) % width;
    double value = 0.0;
    switch (kind) {
      case Input::gauss: value = random.gauss(); break;
      case Input::outlier: value = random.gauss() * (channel % 16 == 5 ? 30.0 : 1.0); break;
      case Input::ramp: value = static_cast<double>(channel) / 16.0 - 2.0; break;
      case Input::constant: value = 0.75; break;
      case Input::zero: break;
      case Input::lognormal:
        value = std::exp(2.0 * random.gauss()) * (random.bits() % 2 == 0 ? 1.0 : -1.0);
        break;
    }
    x[i] = static_cast<float>(value);
  }
  return x;
}

inline std::vector<float> gauss_rows(std::int64_t n_rows, std::int64_t width, std::uint64_t seed) {
  return make_rows(Input::gauss, n_rows, width, seed);
}

}  // namespace kvcodec::test
