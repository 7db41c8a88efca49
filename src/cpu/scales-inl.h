// Stored parameters of a strip's rows and groups: one function per ParamRule.
//
// Each fills planes of the tile and what the coder then takes, for 16 rows at once; lanes are rows, and
// what is summed over channels is summed in their order.

#if defined(KVCODEC_CPU_SCALES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SCALES_INL_H_
#undef KVCODEC_CPU_SCALES_INL_H_
#else
#define KVCODEC_CPU_SCALES_INL_H_
#endif

#include "strip-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

using D16 = hn::Rebind<std::uint16_t, DF>;
using V16 = hn::Vec<D16>;

/// What rules read and write of one group.
struct StripGroup {
  const float* turned;  ///< [n, 16]
  int n;                ///< channels
  int row;              ///< of the tile
  int index;            ///< of the group
  std::byte* tile;
  StripParams& params;
  float* codes;  ///< [n, 16]: bits of the codes that a rule keeps
};

/// Plane `group` of f16 from `offset` on, at the group's first row.
HWY_INLINE std::uint16_t* half_plane(const StripGroup& g, std::uint32_t offset) {
  auto* data = reinterpret_cast<std::uint8_t*>(g.tile) + offset +
               static_cast<std::size_t>(g.index) * kScalePlaneBytes;
  return reinterpret_cast<std::uint16_t*>(data) + g.row;
}

HWY_INLINE V16 to_f16_bits(VF x) {
  const hn::Rebind<hwy::float16_t, DF> df16;
  return hn::BitCast(D16(), hn::DemoteTo(df16, x));
}
HWY_INLINE VF from_f16_bits(V16 bits) {
  const hn::Rebind<hwy::float16_t, DF> df16;
  return hn::PromoteTo(DF(), hn::BitCast(df16, bits));
}
/// x rounded to f16.
HWY_INLINE VF round_f16(VF x) { return from_f16_bits(to_f16_bits(x)); }

HWY_INLINE void put_param(const StripGroup& g, int i, int v, VF x) {
  hn::Store(x, DF(), g.params.of[i] + g.index * kLanes + v * kN);
}

HWY_INLINE VF value_of(const StripGroup& g, int c, int v) {
  return hn::Load(DF(), g.turned + c * kLanes + v * kN);
}

/// Largest magnitude of each row.
HWY_INLINE VF largest_magnitudes(const StripGroup& g, int v) {
  VF a = hn::Zero(DF());
  VF b = hn::Zero(DF());
  for (int c = 0; c < g.n; c += 2) {
    a = hn::Max(a, hn::Abs(value_of(g, c, v)));
    b = hn::Max(b, hn::Abs(value_of(g, c + 1, v)));
  }
  return hn::Max(a, b);
}

/// The value of largest magnitude of each row, the first of equals; +0 in a row of zeros.
HWY_INLINE VF largest_values(const StripGroup& g, int v) {
  VF largest = hn::Zero(DF());
  for (int c = 0; c < g.n; ++c) {
    const VF x = value_of(g, c, v);
    largest = hn::IfThenElse(hn::Gt(hn::Abs(x), hn::Abs(largest)), x, largest);
  }
  return largest;
}

/// Divisor and least quotient of a table: groups without a scale get their one code.
HWY_INLINE void put_quotient(const TileEncoding& e, const StripGroup& g, int v, VF scale,
                             VF divisor) {
  const auto empty = hn::Eq(scale, hn::Zero(DF()));
  put_param(g, 0, v, hn::IfThenElse(empty, hn::Set(DF(), kInfinity), divisor));
  put_param(g, 1, v,
            hn::IfThenElse(empty, hn::Set(DF(), e.floor_of_empty), hn::Set(DF(), -kInfinity)));
}

// ---- ParamRule::normal, normal_signed ----

using DD = hn::Repartition<double, DF>;
using VD = hn::Vec<DD>;
using DHalf = hn::Half<DF>;

/// Lower or upper half of a vector in float64.
template <int kHalf>
HWY_INLINE VD half_to_f64(VF x) {
  if constexpr (kHalf == 0) return hn::PromoteTo(DD(), hn::LowerHalf(DHalf(), x));
  else return hn::PromoteTo(DD(), hn::UpperHalf(DHalf(), x));
}
HWY_INLINE VF to_f32(VD low, VD high) {
  return hn::Combine(DF(), hn::DemoteTo(DHalf(), high), hn::DemoteTo(DHalf(), low));
}

/// Squared errors of a group's rows with their scales.
struct SquaredErrors {
  VD half[2];
};

HWY_INLINE SquaredErrors squared_errors(const FloorTableCoder& coder, const Levels<4>& levels,
                                        const TileEncoding& e, const StripGroup& g, int v,
                                        VF scale) {
  const auto empty = hn::Eq(scale, hn::Zero(DF()));
  const VF p[2] = {
      hn::IfThenElse(empty, hn::Set(DF(), kInfinity), scale),
      hn::IfThenElse(empty, hn::Set(DF(), e.floor_of_empty), hn::Set(DF(), -kInfinity))};
  const VD s[2] = {half_to_f64<0>(scale), half_to_f64<1>(scale)};
  SquaredErrors sum = {{hn::Zero(DD()), hn::Zero(DD())}};
  for (int c = 0; c < g.n; ++c) {
    const VF x = value_of(g, c, v);
    const VF level = levels(coder.code(x, p));
    const VF error = to_f32(hn::NegMulAdd(s[0], half_to_f64<0>(level), half_to_f64<0>(x)),
                            hn::NegMulAdd(s[1], half_to_f64<1>(level), half_to_f64<1>(x)));
    sum.half[0] = hn::MulAdd(half_to_f64<0>(error), half_to_f64<0>(error), sum.half[0]);
    sum.half[1] = hn::MulAdd(half_to_f64<1>(error), half_to_f64<1>(error), sum.half[1]);
  }
  return sum;
}

/// The best of the largest value and 36 multiples of it, as NormalQuantile's search.
HWY_NOINLINE inline void search_scales(const TileEncoding& e, const StripGroup& g, int v,
                                       const float* largest, float* best) {
  constexpr int kCandidates = 36;
  const FloorTableCoder coder(e);
  const Levels<4> levels(e.format);
  const VF top = hn::Load(DF(), largest);
  VF chosen = round_f16(top);
  SquaredErrors least = squared_errors(coder, levels, e, g, v, chosen);
  for (int i = 0; i < kCandidates; ++i) {
    const float factor = __builtin_fmaf(0.0125f, static_cast<float>(i), 0.7f);
    const bool turns = e.rule == ParamRule::normal_signed && i % 2 != 0;
    const VF wanted = hn::Mul(hn::Set(DF(), turns ? -factor : factor), top);
    const VF most = hn::Set(DF(), 65504.0f);
    const VF scale = round_f16(hn::Max(hn::Min(wanted, most), hn::Neg(most)));
    const SquaredErrors error = squared_errors(coder, levels, e, g, v, scale);
    const auto low = hn::VecFromMask(DD(), hn::Lt(error.half[0], least.half[0]));
    const auto high = hn::VecFromMask(DD(), hn::Lt(error.half[1], least.half[1]));
    least.half[0] = hn::Min(least.half[0], error.half[0]);
    least.half[1] = hn::Min(least.half[1], error.half[1]);
    const auto better =
        hn::Lt(to_f32(hn::IfThenElseZero(hn::MaskFromVec(low), hn::Set(DD(), -1.0)),
                      hn::IfThenElseZero(hn::MaskFromVec(high), hn::Set(DD(), -1.0))),
               hn::Zero(DF()));
    chosen = hn::IfThenElse(better, scale, chosen);
  }
  hn::Store(chosen, DF(), best);
}

HWY_INLINE void normal_scales(const TileEncoding& e, const StripGroup& g) {
  for (int v = 0; v < kVectors; ++v) {
    const VF largest =
        e.rule == ParamRule::normal_signed ? largest_values(g, v) : largest_magnitudes(g, v);
    VF scale;
    if (e.searches) {
      HWY_ALIGN float x[kN];
      hn::Store(largest, DF(), x);
      search_scales(e, g, v, x, x);
      scale = hn::Load(DF(), x);
    } else {
      scale = round_f16(hn::Mul(hn::Set(DF(), e.multiplier), largest));
    }
    scale = hn::IfThenZeroElse(hn::Eq(scale, hn::Zero(DF())), scale);  // +0
    hn::StoreU(to_f16_bits(scale), D16(), half_plane(g, e.format.scale_offset) + v * kN);
    put_quotient(e, g, v, scale, scale);
  }
}

// ---- ParamRule::largest_code ----

HWY_INLINE void largest_code_scales(const TileEncoding& e, const StripGroup& g) {
  const VF code = hn::Set(DF(), e.largest);
  for (int v = 0; v < kVectors; ++v) {
    const VF largest = largest_magnitudes(g, v);
    const VF nearest = round_f16(hn::Div(largest, code));
    const auto stored = hn::Gt(nearest, hn::Zero(DF()));
    const auto short_of = hn::And(stored, hn::Lt(hn::Mul(nearest, code), largest));
    const VU bits = hn::PromoteTo(DU(), to_f16_bits(nearest));
    const VU up = hn::Add(bits, one_where(short_of));
    const V16 result = hn::BitCast(D16(), hn::DemoteTo(D16(), hn::BitCast(DI(), up)));
    hn::StoreU(result, D16(), half_plane(g, e.format.scale_offset) + v * kN);
    put_param(g, 0, v, hn::IfThenElse(stored, from_f16_bits(result), hn::Set(DF(), kInfinity)));
    put_param(g, 1, v, hn::VecFromMask(DF(), stored));
  }
}

// ---- ParamRule::affine, affine_runs ----

/// Parameters of 16 groups with ends low..high: what is stored, and divisor and zero of the coder.
struct AffineParams {
  V16 scale;
  V16 zero;
  VF divisor;
  VF offset;
};

HWY_INLINE AffineParams affine_params(const TileEncoding& e, float clip, VF low, VF high) {
  const VF range = hn::Sub(high, low);
  const VF step = hn::Div(hn::Mul(hn::Set(DF(), clip), range), hn::Set(DF(), e.largest));
  const VF middle = hn::Mul(hn::Set(DF(), 0.5f), hn::Add(low, high));
  const VF zero = clip == 1.0f ? low : hn::MulAdd(hn::Set(DF(), -0.5f * clip), range, middle);
  const VF smallest = hn::Set(DF(), e.smallest_scale);
  AffineParams p;
  p.scale = to_f16_bits(hn::IfThenElse(hn::Lt(step, smallest), smallest, step));
  p.zero = to_f16_bits(zero);
  const VF scale = from_f16_bits(p.scale);
  p.divisor =
      hn::IfThenElse(hn::Eq(scale, hn::Zero(DF())), hn::Set(DF(), 3.4028234663852886e38f), scale);
  p.offset = from_f16_bits(p.zero);
  return p;
}

HWY_INLINE void affine_scales(const TileEncoding& e, const StripGroup& g, float clip) {
  for (int v = 0; v < kVectors; ++v) {
    VF low = value_of(g, 0, v);
    VF high = low;
    for (int c = 1; c < g.n; ++c) {  // of equals the first: zeros have signs
      const VF x = value_of(g, c, v);
      low = hn::IfThenElse(hn::Lt(x, low), x, low);
      high = hn::IfThenElse(hn::Gt(x, high), x, high);
    }
    const AffineParams p = affine_params(e, clip, low, high);
    hn::StoreU(p.scale, D16(), half_plane(g, e.format.scale_offset) + v * kN);
    hn::StoreU(p.zero, D16(), half_plane(g, e.format.zero_offset) + v * kN);
    put_param(g, 0, v, p.divisor);
    put_param(g, 1, v, p.offset);
  }
}

/// Of all channels over one run of rows x [run, width].
HWY_INLINE void run_scales(const TileEncoding& e, const float* x, int run_index, std::byte* tile,
                           StripParams& params) {
  const TileFormat& f = e.format;
  const auto row_bytes = static_cast<std::size_t>(2 * f.width);
  auto* data =
      reinterpret_cast<std::uint8_t*>(tile) + static_cast<std::size_t>(run_index) * row_bytes;
  for (int c = 0; c < f.width; c += kN) {
    VF low = hn::LoadU(DF(), x + c);
    VF high = low;
    for (int row = 1; row < f.run; ++row) {
      const VF value = hn::LoadU(DF(), x + static_cast<std::ptrdiff_t>(row) * f.width + c);
      low = hn::IfThenElse(hn::Lt(value, low), value, low);
      high = hn::IfThenElse(hn::Gt(value, high), value, high);
    }
    const AffineParams p = affine_params(e, 1.0f, low, high);
    hn::StoreU(p.scale, D16(), reinterpret_cast<std::uint16_t*>(data + f.scale_offset) + c);
    hn::StoreU(p.zero, D16(), reinterpret_cast<std::uint16_t*>(data + f.zero_offset) + c);
    hn::Store(p.divisor, DF(), params.of[0] + c);
    hn::Store(p.offset, DF(), params.of[1] + c);
  }
}

// ---- ParamRule::nvfp4, mxfp4 ----

HWY_INLINE std::uint8_t* byte_plane(const TileEncoding& e, const StripGroup& g) {
  return reinterpret_cast<std::uint8_t*>(g.tile) + e.format.scale_offset +
         static_cast<std::size_t>(g.index * kTileRows + g.row);
}

/// Units above 0 divide; groups whose unit is 0 have codes 0.
HWY_INLINE void fp4_scales(const TileEncoding& e, const StripGroup& g) {
  const hn::Rebind<std::uint8_t, DF> d8;
  for (int v = 0; v < kVectors; ++v) {
    const VF largest = largest_magnitudes(g, v);
    VU stored;
    VF unit;
    if (e.rule == ParamRule::nvfp4) {
      stored = e4m3_bits(hn::Div(largest, hn::Set(DF(), 6.0f * e.multiplier)));
      const hn::Rebind<std::uint16_t, DF> d16;
      const auto upper = hn::ShiftLeft<8>(hn::DemoteTo(d16, hn::BitCast(DI(), stored)));
      const VF scale = hn::Mul(e4m3_of_upper(upper), hn::Set(DF(), 256.0f));
      unit = hn::Mul(scale, hn::Set(DF(), e.multiplier));
    } else {
      const auto exponent = hn::BitCast(DI(), hn::ShiftRight<23>(hn::BitCast(DU(), largest)));
      stored = hn::BitCast(DU(), hn::Max(hn::Sub(exponent, hn::Set(DI(), 2)), hn::Zero(DI())));
      unit = hn::BitCast(DF(), hn::Max(hn::ShiftLeft<23>(stored), hn::Set(DU(), 0x00400000u)));
    }
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(DI(), stored)), d8, byte_plane(e, g) + v * kN);
    const auto some = hn::Gt(unit, hn::Zero(DF()));
    put_param(g, 0, v, hn::IfThenElse(some, unit, hn::Set(DF(), kInfinity)));
    put_param(g, 1, v, hn::VecFromMask(DF(), some));
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
