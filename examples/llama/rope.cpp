#include "examples/llama/rope.hpp"

#include <cmath>
#include <numbers>

namespace llama {
namespace {

// Wavelengths that training saw many times are kept, those it saw less than once are stretched by
// `factor`, and the ones between are blended.
double llama3_frequency(const RopeConfig& c, double frequency) {
  const double turns = c.original_max_position * frequency / (2.0 * std::numbers::pi);
  if (turns > c.high_freq_factor) return frequency;
  if (turns < c.low_freq_factor) return frequency / c.factor;
  const double keep = (turns - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
  return (1.0 - keep) * frequency / c.factor + keep * frequency;
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& config, std::int32_t head_dim) {
  std::vector<double> out(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = std::pow(config.theta, -2.0 * static_cast<double>(i) / head_dim);
    if (config.scaling == RopeScaling::linear) out[i] /= config.factor;
    if (config.scaling == RopeScaling::llama3) out[i] = llama3_frequency(config, out[i]);
  }
  return out;
}

void rope_angles(std::span<const double> frequencies, std::span<const std::int32_t> positions,
                 float* out) {
  const std::size_t half = frequencies.size();
  for (const std::int32_t position : positions) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = position * frequencies[i];
      out[i] = static_cast<float>(std::cos(angle));
      out[half + i] = static_cast<float>(std::sin(angle));
    }
    out += 2 * half;
  }
}

void rope_rotate(const float* x, const float* angles, std::int32_t head_dim, float* out) {
  const std::int32_t half = head_dim / 2;
  const float* cosine = angles;
  const float* sine = angles + half;
  for (std::int32_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[half + i];
    out[i] = low * cosine[i] - high * sine[i];
    out[half + i] = high * cosine[i] + low * sine[i];
  }
}

}  // namespace llama
