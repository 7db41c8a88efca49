// What a row becomes when it is stored: static shift and scale, then the codes of codec `wkv`.
//
// For calibration, which tries hundreds of settings on rows that never enter a cache.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "kvcodec/core/shape.hpp"

namespace llama {

/// How one side of one layer is quantized.
struct RowQuantizer {
  std::int32_t bits = 4;     ///< 2, 3, 4 or 8
  std::int32_t group = 128;  ///< channels of a head that share a step; above head_dim: the head
  float clip = 1.0f;         ///< what is kept of a group's range, about its middle
  std::vector<float> shift;  ///< [n_kv_heads, head_dim]
  std::vector<float> scale;  ///< [n_kv_heads, head_dim], above 0

  /// out [n, n_kv_heads, head_dim] = x quantized and back:
  ///
  ///   y = (x - shift) / scale                  per channel
  ///   step = f16(max(clip * (max y - min y) / (2^bits - 1), 2^-14))     per group of a row
  ///   low = f16(min y + (1 - clip) / 2 * (max y - min y))
  ///   code = round((y - low) / step), limited to 0..2^bits - 1
  ///   out = (code * step + low) * scale + shift
  void run(const float* x, std::int64_t n, const kvcodec::HeadShape& shape, float* out,
           const kvcodec::Executor& executor) const;
};

}  // namespace llama
