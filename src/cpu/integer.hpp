// What kernels in integers work with: levels and queries in bytes (integer-inl.h says how).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/config.hpp"

namespace kvcodec::cpu {

/// Levels of a format: level(code) - center = unit * (bytes[code] - 128), to nearest. For 8-bit codes,
/// which are their own levels, only `unit` counts.
struct IntegerLevels {
  alignas(64) std::uint8_t bytes[64];  ///< the table over and over
  float unit = 1.0f;
};

/// Levels of `format`, with the units that its scale and center say.
IntegerLevels integer_levels(const TileFormat& format) noexcept;

/// Most segments of a head that have parameters of their own.
inline constexpr int kMaxIntegerSegments = kMaxHeadDim / kLanes;

/// A query in bytes, segment by segment as the format's groups are: code = 128 * high + low with
/// parts `high` and `low`, or codes[0] alone.
struct IntegerQuery {
  alignas(64) std::int8_t codes[2][kMaxHeadDim];
  std::int32_t bias[2][kMaxIntegerSegments];  ///< -128 * sum of codes
  float unit[kMaxIntegerSegments];
  float sum[kMaxIntegerSegments];  ///< of the channels: what zeros are multiplied with
};

/// Fills n_q queries from q [n_q, format.width], rows q_stride floats apart.
using PrepareIntegers = void (*)(const TileFormat& format, const float* q, std::size_t q_stride,
                                 int n_q, IntegerQuery* out);

/// scores [n_q, kTileRows] = q . rows of head `head` of a K tile. For formats with runs `q` is read,
/// for others `queries`.
using ScoreIntegers = void (*)(const TileFormat& format, const IntegerLevels& levels,
                               const std::byte* tile, int head, const float* q,
                               std::size_t q_stride, const IntegerQuery* queries, int n_q,
                               float* scores);

/// acc [n_q, format.width] += w [n_q, kTileRows] . rows of head `head` of a V tile.
using AddIntegers = void (*)(const TileFormat& format, const IntegerLevels& levels,
                             const std::byte* tile, int head, const float* w, int n_q, float* acc);

}  // namespace kvcodec::cpu
