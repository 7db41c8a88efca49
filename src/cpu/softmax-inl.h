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

/// x <- exp(x) for x <= 88: relative error below 3e-7, exp(0) is 1 exactly, 0 where the result would be
/// below the smallest normal number, NaN stays NaN. Step by step for all vectors: one after the other they
/// would fill the processor's scheduler with operations that wait.
template <int kCount>
HWY_INLINE void take_exp(VF (&x)[kCount]) {
  const DF d;
  // To the nearest integer by an addition that leaves no room for fractions: half of what Round costs.
  const VF no_fraction = hn::Set(d, 12582912.0f);  // 1.5 * 2^23
  VF shifted[kCount], n[kCount], r[kCount], p[kCount];
  const auto each = [](const auto& step) HWY_ATTR {
    KVCODEC_UNROLL
    for (int i = 0; i < kCount; ++i) step(i);
  };
  each([&](int i)
           HWY_ATTR { shifted[i] = hn::MulAdd(x[i], hn::Set(d, 1.44269504089f), no_fraction); });
  each([&](int i) HWY_ATTR { n[i] = hn::Sub(shifted[i], no_fraction); });
  // x - n * ln 2 in two parts; n times the first is exact.
  each([&](int i) HWY_ATTR { r[i] = hn::NegMulAdd(n[i], hn::Set(d, 0.693359375f), x[i]); });
  each([&](int i) HWY_ATTR { r[i] = hn::NegMulAdd(n[i], hn::Set(d, -2.12194440e-4f), r[i]); });
  // Minimax of the relative error, 9.2e-8, for |r| <= ln 2 / 2.
  each([&](int i) HWY_ATTR {
    p[i] = hn::MulAdd(hn::Set(d, 8.2903066650e-3f), r[i], hn::Set(d, 4.1897974908e-2f));
  });
  for (const float c : {1.6667637229e-1f, 4.9999150631e-1f, 9.9999970198e-1f, 1.0f}) {
    each([&](int i) HWY_ATTR { p[i] = hn::MulAdd(p[i], r[i], hn::Set(d, c)); });
  }
#if HWY_TARGET == HWY_AVX3
  each([&](int i) HWY_ATTR {
    const __mmask16 normal = _mm512_cmp_ps_mask(x[i].raw, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    x[i] = VF{_mm512_maskz_scalef_ps(normal, p[i].raw, n[i].raw)};
  });
#else
  each([&](int i) HWY_ATTR {
    // The integer stands in the lowest bits of `shifted`.
    const DI di;
    const auto bits = hn::Add(hn::BitCast(di, shifted[i]), hn::Set(di, 127));
    const VF power = hn::BitCast(d, hn::ShiftLeft<23>(bits));
    x[i] = hn::IfThenZeroElse(hn::Lt(x[i], hn::Set(d, -87.3f)), hn::Mul(p[i], power));
  });
#endif
}

HWY_INLINE VF exp_of(VF x) {
  VF one[1] = {x};
  take_exp(one);
  return one[0];
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

/// Replaces scores by capped logits.
inline void cap_scores(float sm_scale, float soft_cap, int n, float* s) {
  const DF d;
  const VF scale = hn::Set(d, sm_scale);
  const VF cap = hn::Set(d, soft_cap);
  for (int i = 0; i < n; i += kN) {
    const VF logit = hn::Mul(scale, hn::LoadU(d, s + i));
    hn::StoreU(hn::Mul(cap, tanh_of(hn::Div(logit, cap))), d, s + i);
  }
}

/// Maxima of the logits over `rows`, or over all if kAll.
template <bool kAll>
HWY_INLINE VF largest_logits(VF scale, std::uint64_t rows, const float* s) {
  const DF d;
  const VF lowest = hn::Neg(hn::Inf(d));
  VF top = lowest;
  const int end = rows_end<kAll>(rows);
  KVCODEC_UNROLL
  for (int row = 0; row < kTileRows; row += kN) {
    if (!kAll && row >= end) break;
    const VF logit = hn::Mul(scale, hn::LoadU(d, s + row));
    top = hn::Max(top, kAll ? logit : hn::IfThenElse(rows_mask(rows, row), logit, lowest));
  }
  return top;
}

/// Replaces scores by exp(logit - m) and, unless kAll, by 0 outside `rows`; returns sums.
template <bool kAll>
HWY_INLINE VF take_weights(VF scale, float m, std::uint64_t rows, float* s) {
  const DF d;
  // Of four vectors three registers each; one where some may be left out.
  constexpr int kCount = kAll ? 4 : 1;
  const VF top = hn::Set(d, m);
  VF sum = hn::Zero(d);
  const int end = rows_end<kAll>(rows);
  KVCODEC_UNROLL
  for (int row = 0; row < kTileRows; row += kCount * kN) {
    if (!kAll && row >= end) {
      hn::StoreU(hn::Zero(d), d, s + row);
      continue;
    }
    VF weight[kCount];
    KVCODEC_UNROLL
    for (int v = 0; v < kCount; ++v) {
      weight[v] = hn::Sub(hn::Mul(scale, hn::LoadU(d, s + row + v * kN)), top);
    }
    take_exp(weight);
    KVCODEC_UNROLL
    for (int v = 0; v < kCount; ++v) {
      if (!kAll) weight[v] = hn::IfThenElseZero(rows_mask(rows, row), weight[v]);
      hn::StoreU(weight[v], d, s + row + v * kN);
      sum = hn::Add(sum, weight[v]);
    }
  }
  return sum;
}

/// Raises the maxima of n <= kReduced queries to `largest` where that is larger, and shrinks what they have
/// summed so far. Stores the maxima to `top` [N].
HWY_INLINE void raise_maxima(VF largest, int n, int head_dim, float* top, float* m, float* l,
                             float* acc) {
  const DF d;
  const MF which = hn::FirstN(d, static_cast<std::size_t>(n));
  const VF before = hn::MaskedLoad(which, d, m);
  const MF grows = hn::And(which, hn::Gt(largest, before));
  const VF now = hn::IfThenElse(grows, largest, before);
  hn::StoreU(now, d, top);
  if (hn::AllFalse(d, grows)) return;
  const VF shrink = hn::IfThenElse(grows, exp_of(hn::Sub(before, now)), hn::Set(d, 1.0f));
  hn::BlendedStore(hn::Mul(hn::MaskedLoad(which, d, l), shrink), which, d, l);
  HWY_ALIGN float factor[kN];
  hn::Store(shrink, d, factor);
  for (int i = 0; i < n; ++i) {
    if (!(top[i] > m[i])) continue;
    m[i] = top[i];
    float* out = acc + i * head_dim;
    for (int c = 0; c < head_dim; c += kN) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + c), hn::Set(d, factor[i])), d, out + c);
    }
  }
}

/// The step for n <= kLanes queries. A query's result does not depend on the others.
template <bool kAll>
HWY_INLINE void softmax_group(int n, int head_dim, float sm_scale, const std::uint64_t* rows,
                              Ahead& ahead, float* scores, float* m, float* l, float* acc) {
  const DF d;
  const VF scale = hn::Set(d, sm_scale);
  // What `op` makes of some queries' results of each(query, visible rows, scores).
  const auto reduced = [&](const auto& op, int first, const auto& each) HWY_ATTR {
    VF part[kReduced];
    KVCODEC_UNROLL
    for (int i = 0; i < kReduced; ++i) {
      const int q = first + i;
      part[i] = hn::Zero(d);
      if (q >= n) continue;
      part[i] = each(q, kAll ? 0 : rows[q], scores + q * kTileRows);
      ahead.step();
    }
    return reduce_each(op, d, part);
  };
  float top[kLanes + kN];
  for (int first = 0; first < n; first += kReduced) {
    const VF largest = reduced(MaxOf(), first, [&](int, std::uint64_t seen, float* s) HWY_ATTR {
      return largest_logits<kAll>(scale, seen, s);
    });
    raise_maxima(largest, HWY_MIN(n - first, kReduced), head_dim, top + first, m + first, l + first,
                 acc + first * head_dim);
  }
  for (int first = 0; first < n; first += kReduced) {
    const VF sum = reduced(SumOf(), first, [&](int q, std::uint64_t seen, float* s) HWY_ATTR {
      return take_weights<kAll>(scale, top[q], seen, s);
    });
    const MF which = hn::FirstN(d, static_cast<std::size_t>(HWY_MIN(n - first, kReduced)));
    hn::BlendedStore(hn::Add(hn::MaskedLoad(which, d, l + first), sum), which, d, l + first);
  }
}

inline void softmax_tile(int n_q, int head_dim, float sm_scale, float soft_cap,
                         const std::uint64_t* visible, Ahead& ahead, float* scores, float* m,
                         float* l, float* acc) {
  if (soft_cap > 0.0f) {
    cap_scores(sm_scale, soft_cap, n_q * kTileRows, scores);
    sm_scale = 1.0f;
  }
  for (int i = 0; i < n_q; i += kLanes) {
    const int n = HWY_MIN(n_q - i, kLanes);
    bool all = true;
    for (int j = 0; visible != nullptr && j < n; ++j) {
      all = all && visible[i + j] == ~std::uint64_t{0};
    }
    float* s = scores + i * kTileRows;
    float* out = acc + i * head_dim;
    if (all) {
      softmax_group<true>(n, head_dim, sm_scale, nullptr, ahead, s, m + i, l + i, out);
    } else {
      softmax_group<false>(n, head_dim, sm_scale, visible + i, ahead, s, m + i, l + i, out);
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
