#include "examples/llama/fake_quantize.hpp"

#include <algorithm>

#include "kvcodec/codec/affine_group.hpp"
#include "kvcodec/codec/affine_token.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"

namespace llama {
namespace {

constexpr std::int64_t kRowsPerTask = 32;

// y [n] <- the values its codes stand for, by the codec's own arithmetic.
void quantize_group(float* y, std::int64_t n, int bits, float clip) {
  const auto [least, most] = std::minmax_element(y, y + n);
  const kvcodec::AffineGroup group =
      kvcodec::make_affine_group(bits, *least, *most, clip, kvcodec::AffineToken::kSmallestScale);
  const float scale = to_f32(group.scale), zero = to_f32(group.zero);
  const float divisor = kvcodec::affine_divisor(group.scale);
  const auto largest = static_cast<float>((1 << bits) - 1);
  for (std::int64_t i = 0; i < n; ++i) {
    y[i] = kvcodec::affine_value(kvcodec::affine_code(y[i], divisor, zero, largest), scale, zero);
  }
}

}  // namespace

void RowQuantizer::run(const float* x, std::int64_t n, const kvcodec::HeadShape& shape, float* out,
                       const kvcodec::Executor& executor) const {
  const std::int64_t d = shape.head_dim, width = shape.n_kv_heads * d;
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
          quantize_group(to + i + g, std::min<std::int64_t>(group, d - g), bits, clip);
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
