// What kernels in integers work with: levels and queries in bytes (integer-inl.h says how).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/config.hpp"
#include "src/cpu/prefetch.hpp"

namespace kvcodec::cpu {

/// Levels of a format: level(code) - center = unit * (bytes[code] - zero), to nearest, with `steps` of
/// them to each side and zero = steps + 1. For 8-bit codes, which are their own levels, only `unit` counts.
struct IntegerLevels {
  alignas(64) std::uint8_t bytes[64];  ///< the table over and over
  float unit = 1.0f;
};

/// Levels of `format` with the steps of an instruction set (Kernels::level_steps), 1 to 127.
IntegerLevels integer_levels(const TileFormat& format, int steps) noexcept;

/// Most segments of a head that have parameters of their own.
inline constexpr int kMaxIntegerSegments = kMaxHeadDim / kLanes;

/// A query in integers, segment by segment as the format's groups are. How codes of two bytes stand in
/// `codes` is up to the instruction set; those of one byte are codes[0].
struct IntegerQuery {
  alignas(64) std::int8_t codes[2][kMaxHeadDim];
  std::int32_t bias[2][kMaxIntegerSegments];  ///< minus the sum of codes times the byte of level 0
  float unit[kMaxIntegerSegments];
  float sum[kMaxIntegerSegments];  ///< of the channels: what zeros are multiplied with
};

/// Codes of query i, part p at data + i * stride + p * part_stride.
struct CodeRows {
  const std::int8_t* data;
  std::size_t stride;
  std::size_t part_stride;
};

/// Where the biases of query i stand: data + i * stride, one per part.
struct Biases {
  const std::int32_t* data;
  std::size_t stride;
  std::size_t part_stride;
};

/// A query for codes of one bit: 4 * width bytes follow it (integer_bits-inl.h).
struct alignas(64) BitQuery {
  float unit[kMaxIntegerSegments];
  float sum[kMaxIntegerSegments];  ///< as above
};

/// A query for signs with outlier channels: bytes as above for the sketch and for that of the outliers follow.
struct alignas(64) SketchQuery {
  float unit;
  float outlier_unit;
  std::int32_t n_channels;    ///< that the bytes were made for; -1: none yet
  std::uint8_t channels[32];  ///< which
};

/// Bytes of one query of `format` in bytes, IntegerQuery or BitQuery; a multiple of 64.
inline std::size_t integer_query_bytes(const TileFormat& format) noexcept {
  const auto width = static_cast<std::size_t>(format.width);
  return format.bits == 1 ? sizeof(BitQuery) + (4 * width + 63) / 64 * 64 : sizeof(IntegerQuery);
}

/// Fills n_q queries, integer_query_bytes() each, from q [n_q, format.width], rows q_stride floats apart.
using PrepareIntegers = void (*)(const TileFormat& format, const float* q, std::size_t q_stride,
                                 int n_q, std::byte* out);

/// scores [n_q, kTileRows] = q . rows of head `head` of a K tile. For formats with runs `q` is read,
/// for others `queries`.
using ScoreIntegers = void (*)(const TileFormat& format, const IntegerLevels& levels,
                               const std::byte* tile, int head, const float* q,
                               std::size_t q_stride, const std::byte* queries, int n_q,
                               Ahead& ahead, float* scores);

/// acc [n_q, format.width] += w [n_q, kTileRows] . rows of head `head` of a V tile.
using AddIntegers = void (*)(const TileFormat& format, const IntegerLevels& levels,
                             const std::byte* tile, int head, const float* w, int n_q, Ahead& ahead,
                             float* acc);

}  // namespace kvcodec::cpu
