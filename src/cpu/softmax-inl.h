// One step of the online softmax over a tile of scores, with its own exp and tanh.

#if defined(KVCODEC_CPU_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SOFTMAX_INL_H_
#undef KVCODEC_CPU_SOFTMAX_INL_H_
#else
#define KVCODEC_CPU_SOFTMAX_INL_H_
#endif

#include <cstring>

#include "reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

using MF = hn::Mask<DF>;

/// exp(x) for x <= 88: relative error below 2e-7, exp(0) is 1 exactly, 0 where the result would be
/// below the smallest normal number, NaN stays NaN.
HWY_INLINE VF exp_of(VF x) {
  const DF d;
  const DI di;
  const VF n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504089f)));
  // x - n * ln 2 in two parts; n times the first is exact.
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  VF p = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  const __mmask16 normal = _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
  return VF{_mm512_maskz_scalef_ps(normal, p.raw, n.raw)};
#else
  const auto exponent = hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127));
  const VF power = hn::BitCast(d, hn::ShiftLeft<23>(exponent));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3f)), hn::Mul(p, power));
#endif
}

/// tanh(x): error below 3e-7, relative near 0.
HWY_INLINE VF tanh_of(VF x) {
  const DF d;
  const VF one = hn::Set(d, 1.0f);
  const VF a = hn::Abs(x);
  const VF e = exp_of(hn::Mul(hn::Set(d, 2.0f), hn::Min(a, hn::Set(d, 10.0f))));
  const VF far = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(e, one)));
  const VF z = hn::Mul(x, x);
  VF p = hn::MulAdd(hn::Set(d, -5.70498872745e-3f), z, hn::Set(d, 2.06390887954e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, -5.37397155531e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, 1.33314422036e-1f));
  p = hn::MulAdd(p, z, hn::Set(d, -3.33332819422e-1f));
  const VF near = hn::MulAdd(hn::Mul(p, z), x, x);
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.625f)), near, hn::CopySign(far, x));
}

/// Bits row..row+N-1 of `rows` as a mask.
HWY_INLINE MF rows_mask(std::uint64_t rows, int row) {
  const std::uint64_t shifted = rows >> row;
  std::uint8_t bytes[8];
  std::memcpy(bytes, &shifted, sizeof(bytes));
  return hn::LoadMaskBits(DF(), bytes);
}

/// The end of the vectors that hold any of `rows`.
template <bool kAll>
HWY_INLINE int rows_end(std::uint64_t rows) {
  if (kAll) return kTileRows;
  if (rows == 0) return 0;
  return (63 - __builtin_clzll(rows)) / kN * kN + kN;
}

/// Replaces scores by logits; returns maxima over `rows`, or over all if kAll.
template <bool kAll>
HWY_INLINE VF take_logits(float sm_scale, float soft_cap, std::uint64_t rows, float* s) {
  const DF d;
  const VF lowest = hn::Neg(hn::Inf(d));
  const VF scale = hn::Set(d, sm_scale);
  VF top = lowest;
  const int end = rows_end<kAll>(rows);
  for (int row = 0; row < end; row += kN) {
    VF logit = hn::Mul(scale, hn::LoadU(d, s + row));
    if (soft_cap > 0.0f) {
      const VF cap = hn::Set(d, soft_cap);
      logit = hn::Mul(cap, tanh_of(hn::Div(logit, cap)));
    }
    hn::StoreU(logit, d, s + row);
    top = hn::Max(top, kAll ? logit : hn::IfThenElse(rows_mask(rows, row), logit, lowest));
  }
  return top;
}

/// Replaces logits by exp(logit - m) and, unless kAll, by 0 outside `rows`; returns sums.
template <bool kAll>
HWY_INLINE VF take_weights(float m, std::uint64_t rows, float* s) {
  const DF d;
  const VF top = hn::Set(d, m);
  VF sum = hn::Zero(d);
  const int end = rows_end<kAll>(rows);
  for (int row = 0; row < end; row += kN) {
    const VF e = exp_of(hn::Sub(hn::LoadU(d, s + row), top));
    const VF weight = kAll ? e : hn::IfThenElseZero(rows_mask(rows, row), e);
    hn::StoreU(weight, d, s + row);
    sum = hn::Add(sum, weight);
  }
  for (int row = end; row < kTileRows; row += kN) hn::StoreU(hn::Zero(d), d, s + row);
  return sum;
}

/// The step for n <= kReduced queries. A query's result does not depend on the others.
template <bool kAll>
HWY_INLINE void softmax_group(int n, int head_dim, float sm_scale, float soft_cap,
                              const std::uint64_t* rows, float* scores, float* m, float* l,
                              float* acc) {
  const DF d;
  VF part[kReduced];
  alignas(64) float old_m[kLanes] = {};
  alignas(64) float new_m[kLanes];
  alignas(64) float shrink[kLanes];
  KVCODEC_UNROLL
  for (int i = 0; i < kReduced; ++i) {
    part[i] = hn::Zero(d);
    if (i >= n) continue;
    old_m[i] = m[i];
    part[i] = take_logits<kAll>(sm_scale, soft_cap, kAll ? 0 : rows[i], scores + i * kTileRows);
  }
  const VF top = reduce_each(MaxOf(), d, part);
  const VF before = hn::Load(d, old_m);
  const auto grows = hn::Gt(top, before);
  const VF now = hn::IfThenElse(grows, top, before);
  hn::Store(now, d, new_m);
  hn::Store(hn::IfThenElse(grows, exp_of(hn::Sub(before, now)), hn::Set(d, 1.0f)), d, shrink);
  KVCODEC_UNROLL
  for (int i = 0; i < kReduced; ++i) {
    part[i] = hn::Zero(d);
    if (i >= n) continue;
    part[i] = take_weights<kAll>(new_m[i], kAll ? 0 : rows[i], scores + i * kTileRows);
  }
  float sum[kReduced];
  store_four(d, reduce_each(SumOf(), d, part), sum);
  for (int i = 0; i < n; ++i) {
    l[i] = l[i] * shrink[i] + sum[i];
    if (!(new_m[i] > old_m[i])) continue;
    m[i] = new_m[i];
    const VF factor = hn::Set(d, shrink[i]);
    float* out = acc + i * head_dim;
    for (int c = 0; c < head_dim; c += kN) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + c), factor), d, out + c);
    }
  }
}

inline void softmax_tile(int n_q, int head_dim, float sm_scale, float soft_cap,
                         const std::uint64_t* visible, float* scores, float* m, float* l,
                         float* acc) {
  for (int i = 0; i < n_q; i += kReduced) {
    const int n = HWY_MIN(n_q - i, kReduced);
    bool all = true;
    for (int j = 0; visible != nullptr && j < n; ++j) {
      all = all && visible[i + j] == ~std::uint64_t{0};
    }
    float* s = scores + i * kTileRows;
    float* out = acc + i * head_dim;
    if (all) {
      softmax_group<true>(n, head_dim, sm_scale, soft_cap, nullptr, s, m + i, l + i, out);
    } else {
      softmax_group<false>(n, head_dim, sm_scale, soft_cap, visible + i, s, m + i, l + i, out);
    }
  }
}

inline void normalise_row(int head_dim, const float* acc, float factor, float l, float* out) {
  const DF d;
  for (int c = 0; c < head_dim; c += kN) {
    const VF x = hn::Mul(hn::LoadU(d, acc + c), hn::Set(d, factor));
    hn::StoreU(hn::Div(x, hn::Set(d, l)), d, out + c);
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
