// Encoding whole tiles by their TileEncoding: strip by strip, first what is stored of a row or group,
// then the codes.

#if defined(KVCODEC_CPU_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_ENCODE_INL_H_
#undef KVCODEC_CPU_ENCODE_INL_H_
#else
#define KVCODEC_CPU_ENCODE_INL_H_
#endif

#include <cstring>

#include "moments-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// `kBits` of a codec of 1 to 4 bits as a constant: fn.template operator()<kBits>().
template <class F>
HWY_INLINE void with_bits(int bits, const F& fn) {
  switch (bits) {
    case 1: return fn.template operator()<1>();
    case 2: return fn.template operator()<2>();
    case 3: return fn.template operator()<3>();
    default: return fn.template operator()<4>();
  }
}

HWY_NOINLINE inline void group_scales(const TileEncoding& e, const StripGroup& g, bool last) {
  switch (e.rule) {
    case ParamRule::normal:
    case ParamRule::normal_signed: return normal_scales(e, g);
    case ParamRule::largest_code: return largest_code_scales(e, g);
    case ParamRule::affine: return affine_scales(e, g, last ? e.last_clip : e.clip);
    case ParamRule::lloyd_max:
      return with_bits(e.format.bits, [&]<int kBits>() { lloyd_max_scales<kBits>(e, g); });
    case ParamRule::rabitq:
      return with_bits(e.format.bits, [&]<int kBits>() { rabitq_scales<kBits>(e, g); });
    case ParamRule::nvfp4:
    case ParamRule::mxfp4: return fp4_scales(e, g);
    default: return;
  }
}

/// Where nothing is stored: one divisor for everything.
HWY_INLINE void constant_params(const TileEncoding& e, StripParams& params) {
  const VU ones = hn::Set(DU(), 0xffffffffu);
  for (int v = 0; v < kVectors; ++v) {
    hn::Store(hn::Set(DF(), e.format.scale), DF(), params.of[0] + v * kN);
    hn::Store(hn::BitCast(DF(), ones), DF(), params.of[1] + v * kN);
  }
}

HWY_INLINE void strip_codes(const TileEncoding& e, Side side, int width, int strip,
                            const StripValues& values, const StripParams& params, std::byte* tile) {
  const auto units = [&]<class Coder>(std::type_identity<Coder>) {
    encode_units<Coder>(e, side, width, strip, values, params, tile);
  };
  const int bits = e.format.bits;
  switch (e.coding) {
    case Coding::table: return units(std::type_identity<TableCoder<4>>());
    case Coding::floor_table: return units(std::type_identity<FloorTableCoder>());
    case Coding::kept:
      return with_bits(bits, [&]<int kBits>() { units(std::type_identity<KeptCoder<kBits>>()); });
    case Coding::affine:
      if (bits == 2) return units(std::type_identity<AffineCoder<2>>());
      if (bits == 3) return units(std::type_identity<AffineCoder<3>>());
      if (bits == 4) return units(std::type_identity<AffineCoder<4>>());
      return units(std::type_identity<AffineCoder<8>>());
    case Coding::int8: return units(std::type_identity<Int8Coder>());
    case Coding::e4m3: return units(std::type_identity<E4m3Coder>());
    case Coding::e2m1: return units(std::type_identity<E2m1Coder>());
    case Coding::f16: return units(std::type_identity<F16Coder>());
    case Coding::bf16: return units(std::type_identity<Bf16Coder>());
    case Coding::f32: return units(std::type_identity<F32Coder>());
  }
}

/// What the codes of a strip are made of: its rows x [16, width], turned [width, 16], or codes
/// [width, 16] of the same order, which for V are turned back into `turned`.
HWY_INLINE StripValues strip_values(const TileEncoding& e, Side side, int width, const float* x,
                                    float* turned, const float* codes) {
  const StripValues by_rows = {turned, kLanes * kLanes, kLanes};
  if (e.coding != Coding::kept) {
    return side == Side::key ? by_rows : StripValues{x, kLanes, width};
  }
  if (side == Side::key) return {codes, kLanes * kLanes, kLanes};
  for (int c = 0; c < width; c += kLanes) {
    turn_rows(codes + c * kLanes, kLanes, turned + c * kLanes);
  }
  return by_rows;
}

/// Strips first .. first + n - 1 of a tile from their rows x [16 n, width], none beyond the limit.
HWY_NOINLINE inline void encode_strips(const TileEncoding& e, Side side, int width, const float* x,
                                       int first_strip, int n_strips, std::byte* tile) {
  HWY_ALIGN float turned[kMaxTileWidth * kLanes];
  HWY_ALIGN float codes[kMaxTileWidth * kLanes];
  StripParams params;
  const TileFormat& f = e.format;
  const bool by_rows = f.group > 0 && f.run == 0;
  if (!by_rows && f.run == 0) constant_params(e, params);
  for (int i = 0; i < n_strips; ++i) {
    const int strip = first_strip + i;
    const float* rows = x + static_cast<std::ptrdiff_t>(i * kLanes) * width;
    if (side == Side::key || by_rows) turn_rows(rows, width, turned);
    if (f.run > 0 && strip * kLanes % f.run == 0) {
      run_scales(e, rows, strip * kLanes / f.run, tile, params);
    }
    for (int first = 0, g = 0; by_rows && first < width; first += f.group, ++g) {
      const int n = HWY_MIN(f.group, width - first);
      const StripGroup group = {turned + first * kLanes, n, strip * kLanes, g, tile, params, codes};
      group_scales(e, group, first + n == width);
    }
    strip_codes(e, side, width, strip, strip_values(e, side, width, rows, turned, codes), params,
                tile);
  }
}

HWY_NOINLINE inline void encode_clamped(const TileEncoding& e, Side side, int width, const float* x,
                                        int first_strip, int n_strips, std::byte* tile) {
  HWY_ALIGN float clean[kTileRows * kMaxTileWidth];
  clamp_values(x, n_strips * kLanes * width, e.limit, clean);
  encode_strips(e, side, width, clean, first_strip, n_strips, tile);
}

/// Zeroes what no code fills and what stands behind everything stored.
HWY_INLINE void clear_gaps(const TileEncoding& e, Side side, std::byte* tile) {
  const TileFormat& f = e.format;
  if (side == Side::value && f.width % 32 != 0 && (f.bits == 1 || f.bits == 3)) {
    const auto low = f.bits == 3 ? static_cast<std::size_t>(8 * f.width * 2) : std::size_t{0};
    const auto used = static_cast<std::size_t>(8 * f.width);
    std::memset(tile + low + used, 0, static_cast<std::size_t>(8 * (32 - f.width % 32)));
  }
  if (e.used_bytes < e.total_bytes) {
    std::memset(tile + e.used_bytes, 0, e.total_bytes - e.used_bytes);
  }
}

/// An EncodeTile. Rows are looked at for values beyond the limit, and encoded, as many at a time as depend
/// on each other: a strip stays in L1 between the two.
inline bool encode_tile(const TileEncoding& e, Side side, int n_heads, const float* x,
                        std::byte* tile) {
  const int width = n_heads * e.format.width;
  const int n_strips = e.format.run > 0 ? kStrips : 1;
  const int n = n_strips * kLanes * width;
  bool finite = true;
  clear_gaps(e, side, tile);
  for (int strip = 0; strip < kStrips; strip += n_strips, x += n) {
    const std::uint32_t top = largest_bits(x, n);
    const bool within = top <= __builtin_bit_cast(std::uint32_t, e.limit);
    finite &= top < 0x7f800000u;
    if (within) encode_strips(e, side, width, x, strip, n_strips, tile);
    else encode_clamped(e, side, width, x, strip, n_strips, tile);
  }
  return finite;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
