// Stored parameters of one head of a tile: scales and zeros of segments of channels.

#if defined(KVCODEC_CPU_PARAMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_PARAMS_INL_H_
#undef KVCODEC_CPU_PARAMS_INL_H_
#else
#define KVCODEC_CPU_PARAMS_INL_H_
#endif

#include "decoders-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Segment s covers `length` channels, the last one perhaps fewer. Values are
/// factor * stored scale * level + zero; null: no stored scale, no zero. Levels are those that the
/// decoder gives: where they lack a center, load_zero() makes up for it.
struct Params {
  const std::uint8_t* scales;  ///< of segment 0; planes of one value per row
  const std::uint8_t* zeros;
  std::size_t scale_stride;  ///< bytes to the next segment's plane of scales
  TileFormat::Stored stored;
  float factor;
  float center;
  int n;
  int length;
};

/// Channels of a segment.
HWY_INLINE int segment_length(const TileFormat& f) {
  return f.group == 0 || f.group > f.width || f.run > 0 ? f.width : f.group;
}

/// Where one head of a tile stands.
struct HeadPlanes {
  const std::uint8_t* codes;
  const std::uint8_t* high;  ///< of 3-bit codes: the plane of high bits
  Params params;
  Ahead* ahead;
};

/// A group inside a head gives several segments, of which the last may be short; one that spans
/// heads gives one. Offsets are computed here rather than by members of TileLayout: those are shared
/// inline functions, which a file compiled for several instruction sets must not emit.
HWY_INLINE HeadPlanes planes_of(const TileFormat& f, const std::byte* tile, int head,
                                Ahead& ahead) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(tile);
  const int low_bits = f.bits == 3 ? 2 : f.bits;
  const auto plane = static_cast<std::size_t>((f.width * low_bits + 31) / 32 * 4 * kTileRows);
  const auto high =
      f.bits == 3 ? static_cast<std::size_t>((f.width + 31) / 32 * 4 * kTileRows) : std::size_t{0};
  HeadPlanes at = {data + static_cast<std::size_t>(head) * (plane + high), nullptr, {}, &ahead};
  at.high = at.codes + plane;
  Params& p = at.params;
  p.stored = f.stored;
  p.factor = f.scale * level_factor(f);
  p.center = level_center(f);
  p.length = segment_length(f);
  // Divisions are a few percent of a tile's time; most formats need none.
  p.n = p.length == f.width ? 1 : (f.width + p.length - 1) / p.length;
  if (f.group == 0) return at;
  const auto first =
      static_cast<std::size_t>(head == 0 || f.run > 0 ? 0 : head * f.width / f.group);
  p.scale_stride = f.stored == TileFormat::Stored::f16 ? kScalePlaneBytes : kTileRows;
  p.scales = data + f.scale_offset + first * p.scale_stride;
  if (f.zero_offset != 0) p.zeros = data + f.zero_offset + first * kScalePlaneBytes;
  return at;
}

/// Lines of channels from `channel` on.
template <class Decoder>
HWY_INLINE Lines value_lines(const HeadPlanes& at, int channel) {
  constexpr int kWords = kTileRows / Decoder::kPerWord;
  constexpr std::size_t kStride = kWords * kLineBytes;
  constexpr std::size_t kHighStride = kTileRows / 32 * kLineBytes;
  const auto line = static_cast<std::size_t>(channel / kLanes);
  const std::size_t skip = vector_offset(channel);
  return {at.codes + line * kStride + skip,
          kStride,
          kWords,
          at.high + line * kHighStride + skip,
          kHighStride,
          0,
          at.ahead};
}

/// Stored scales of rows row .. row + N - 1 of a segment, times the factor.
HWY_INLINE VF load_scale(const Params& p, int segment, int row) {
  const std::uint8_t* plane = p.scales + static_cast<std::size_t>(segment) * p.scale_stride;
  const VF factor = hn::Set(DF(), p.factor);
  if (p.stored == TileFormat::Stored::f16) return hn::Mul(load_f16(plane + 2 * row), factor);
  const hn::Rebind<std::uint8_t, DF> d8;
  const auto bytes = hn::LoadU(d8, plane + row);
  if (p.stored == TileFormat::Stored::e4m3) {
    const hn::Rebind<std::uint16_t, DF> d16;
    const VF level = e4m3_of_upper(hn::ShiftLeft<8>(hn::PromoteTo(d16, bytes)));
    return hn::Mul(hn::Mul(level, hn::Set(DF(), 256.0f)), factor);
  }
  // e8m0: the exponent of a binary32, except that 0 is 2^-127.
  const VU exponent = hn::ShiftLeft<23>(hn::PromoteTo(DU(), bytes));
  return hn::Mul(hn::BitCast(DF(), hn::Max(exponent, hn::Set(DU(), 0x00400000u))), factor);
}

/// Zeros of rows row .. row + N - 1 of a segment, whose scales are `scale`.
HWY_INLINE VF load_zero(const Params& p, int segment, int row, VF scale) {
  const std::uint8_t* plane = p.zeros + static_cast<std::size_t>(segment) * kScalePlaneBytes;
  return hn::MulAdd(scale, hn::Set(DF(), p.center), load_f16(plane + 2 * row));
}

/// Sum of n consecutive values, a multiple of 16.
HWY_INLINE float sum_of(const float* x, int n) {
  VF sum = hn::Zero(DF());
  for (int c = 0; c < n; c += kN) sum = hn::Add(sum, hn::LoadU(DF(), x + c));
  return hn::GetLane(hn::SumOfLanes(DF(), sum));
}

/// Most segments of a head that have zeros.
inline constexpr int kMaxSegments = kMaxHeadDim / kLanes;

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
