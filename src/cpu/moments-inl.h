// Scales that follow from sums over a whole row: ParamRule::lloyd_max and ParamRule::rabitq.

#if defined(KVCODEC_CPU_MOMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_MOMENTS_INL_H_
#undef KVCODEC_CPU_MOMENTS_INL_H_
#else
#define KVCODEC_CPU_MOMENTS_INL_H_
#endif

#include "scales-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Float64 of the rows of one vector.
struct RowSums {
  HWY_INLINE RowSums() {
    half[0] = hn::Zero(DD());
    half[1] = hn::Zero(DD());
  }

  /// Products of f32 are exact in float64: fused or not, the sum is the same.
  HWY_INLINE void add(VF a, VF b) {
    half[0] = hn::MulAdd(half_to_f64<0>(a), half_to_f64<0>(b), half[0]);
    half[1] = hn::MulAdd(half_to_f64<1>(a), half_to_f64<1>(b), half[1]);
  }

  VD half[2];
};

/// f32 of fn(half of a, half of b).
template <class F>
HWY_INLINE VF map_sums(const RowSums& a, const RowSums& b, const F& fn) {
  return to_f32(fn(a.half[0], b.half[0]), fn(a.half[1], b.half[1]));
}

/// All ones where a sum is above 0.
HWY_INLINE VF is_positive(const RowSums& sum) {
  const auto one = [](VD x) {
    return hn::IfThenElseZero(hn::Gt(x, hn::Zero(DD())), hn::Set(DD(), 1.0));
  };
  const VF ones = to_f32(one(sum.half[0]), one(sum.half[1]));
  return hn::VecFromMask(DF(), hn::Gt(ones, hn::Zero(DF())));
}

HWY_INLINE RowSums squares_of(const StripGroup& g, int v) {
  RowSums sum;
  for (int c = 0; c < g.n; ++c) {
    const VF x = value_of(g, c, v);
    sum.add(x, x);
  }
  return sum;
}

HWY_INLINE VF rms_of(const StripGroup& g, const RowSums& squares) {
  const VD n = hn::Set(DD(), static_cast<double>(g.n));
  return map_sums(squares, squares, [n](VD a, VD) { return hn::Sqrt(hn::Div(a, n)); });
}

HWY_INLINE void keep_code(const StripGroup& g, int c, int v, VU code) {
  hn::Store(hn::BitCast(DF(), code), DF(), g.codes + c * kLanes + v * kN);
}

/// Stores a row's scale, limited and rounded; where that is 0 every code is the lowest positive one.
template <int kBits>
HWY_INLINE void put_row_scale(const TileEncoding& e, const StripGroup& g, int v, VF scale) {
  const V16 bits = to_f16_bits(hn::Min(scale, hn::Set(DF(), 65504.0f)));
  hn::StoreU(bits, D16(), half_plane(g, e.format.scale_offset) + v * kN);
  const auto empty = hn::Eq(from_f16_bits(bits), hn::Zero(DF()));
  if (hn::AllFalse(DF(), empty)) return;
  const VF half = hn::BitCast(DF(), hn::Set(DU(), 1u << (kBits - 1)));
  for (int c = 0; c < g.n; ++c) {
    float* at = g.codes + c * kLanes + v * kN;
    hn::Store(hn::IfThenElse(empty, half, hn::Load(DF(), at)), DF(), at);
  }
}

/// Rules of LloydMax: 0 mse, 1 unbiased, 2 norm, 3 rms.
template <int kBits>
HWY_NOINLINE void lloyd_max_scales(const TileEncoding& e, const StripGroup& g) {
  const TableCoder<kBits> coder(e);
  const Levels<kBits> levels(e.format);
  for (int v = 0; v < kVectors; ++v) {
    const RowSums xx = squares_of(g, v);
    const VF rms = rms_of(g, xx);
    const VF p[1] = {rms};
    RowSums xl;
    RowSums ll;
    for (int c = 0; c < g.n; ++c) {
      const VF x = value_of(g, c, v);
      const VU code = coder.code(x, p);
      keep_code(g, c, v, code);
      const VF level = levels(code);
      xl.add(x, level);
      ll.add(level, level);
    }
    const auto quotient = [](VD a, VD b) { return hn::Div(a, b); };
    VF scale = rms;
    if (e.variant == 0) scale = map_sums(xl, ll, quotient);
    if (e.variant == 1) scale = map_sums(xx, xl, quotient);
    if (e.variant == 2) {
      scale = map_sums(xx, ll, [](VD a, VD b) { return hn::Sqrt(hn::Div(a, b)); });
    }
    put_row_scale<kBits>(e, g, v, hn::And(scale, hn::And(is_positive(xx), is_positive(xl))));
  }
}

/// RaBitQ's factor <x,x> / <x,u> from the codes that rule `fast` gives.
template <int kBits>
HWY_NOINLINE void rabitq_scales(const TileEncoding& e, const StripGroup& g) {
  const MagnitudeCoder<kBits> coder(e);
  const VF lowest = hn::Set(DF(), -0.5f * static_cast<float>((1 << kBits) - 1));
  for (int v = 0; v < kVectors; ++v) {
    const RowSums xx = squares_of(g, v);
    const VF rms = rms_of(g, xx);
    const auto some = hn::Gt(rms, hn::Zero(DF()));
    const VF divisor = hn::IfThenElse(some, rms, hn::Set(DF(), kInfinity));
    RowSums xu;
    for (int c = 0; c < g.n; ++c) {
      const VF x = value_of(g, c, v);
      const VU code = coder.code(x, divisor);
      keep_code(g, c, v, code);
      xu.add(x, hn::Add(lowest, hn::ConvertTo(DF(), hn::BitCast(DI(), code))));
    }
    const VF factor = map_sums(xx, xu, [](VD a, VD b) { return hn::Div(a, b); });
    put_row_scale<kBits>(e, g, v, hn::And(factor, is_positive(xu)));
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
