#include "examples/llama/fake_quantize.hpp"

#include <algorithm>

#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"

namespace llama {
namespace {

constexpr std::int64_t kRowsPerTask = 32;
constexpr float kSmallestStep = 0x1p-14f;  // the smallest normal f16

float as_f16(float x) {
  return to_f32(kvcodec::to_f16(kvcodec::clamp_finite(x, kvcodec::kF16Max)));
}

// y [n] <- the values its codes stand for.
void quantize_group(float* y, std::int64_t n, float top_code, float clip) {
  const auto [least, most] = std::minmax_element(y, y + n);
  const float range = *most - *least;
  const float low = as_f16(*least + 0.5f * (1.0f - clip) * range);
  const float step = as_f16(std::max(clip * range / top_code, kSmallestStep));
  for (std::int64_t i = 0; i < n; ++i) {
    const float place = std::clamp((y[i] - low) / step, 0.0f, top_code);
    y[i] = static_cast<float>(kvcodec::round_even(place)) * step + low;
  }
}

}  // namespace

void RowQuantizer::run(const float* x, std::int64_t n, const kvcodec::HeadShape& shape, float* out,
                       const kvcodec::Executor& executor) const {
  const std::int64_t d = shape.head_dim, width = shape.n_kv_heads * d;
  const auto top_code = static_cast<float>((1 << bits) - 1);
  executor.parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int) {
    const std::int64_t end = std::min(n, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      const float* from = x + row * width;
      float* to = out + row * width;
      for (std::int64_t i = 0; i < width; ++i) {
        const auto c = static_cast<std::size_t>(i);
        const float centered = kvcodec::clamp_finite(from[i], kvcodec::kF16Max) - shift[c];
        to[i] = kvcodec::clamp_finite(centered / scale[c], kvcodec::kF16Max);
      }
      for (std::int64_t i = 0; i < width; i += d) {
        for (std::int64_t g = 0; g < d; g += group) {
          quantize_group(to + i + g, std::min<std::int64_t>(group, d - g), top_code, clip);
        }
      }
      for (std::int64_t i = 0; i < width; ++i) {
        const auto c = static_cast<std::size_t>(i);
        to[i] = to[i] * scale[c] + shift[c];
      }
    }
  });
}

}  // namespace llama
