// Sums or maxima of the lanes of four vectors at once: one vector costs as much.

#if defined(KVCODEC_CPU_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_REDUCE_INL_H_
#undef KVCODEC_CPU_REDUCE_INL_H_
#else
#define KVCODEC_CPU_REDUCE_INL_H_
#endif

#include "lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Vectors that are reduced together. The order of a sum is that of its vector alone, whatever the
/// others are.
inline constexpr int kReduced = 4;

struct MaxOf {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
};

struct SumOf {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};

/// Lane 4 k + i = all lanes of x[i], combined. D: DF or DI.
template <class Op, class D, class V = hn::Vec<D>>
HWY_INLINE V reduce_each(const Op& op, D d, const V (&x)[kReduced]) {
  const hn::Repartition<std::uint64_t, D> pairs;
  const V a = op(hn::InterleaveLower(d, x[0], x[1]), hn::InterleaveUpper(d, x[0], x[1]));
  const V b = op(hn::InterleaveLower(d, x[2], x[3]), hn::InterleaveUpper(d, x[2], x[3]));
  const auto wide_a = hn::BitCast(pairs, a);
  const auto wide_b = hn::BitCast(pairs, b);
  V all = op(hn::BitCast(d, hn::InterleaveLower(pairs, wide_a, wide_b)),
             hn::BitCast(d, hn::InterleaveUpper(pairs, wide_a, wide_b)));
  // The same four lanes in every 16 bytes.
  if constexpr (hn::MaxLanes(d) > 8) all = op(all, hn::ReverseBlocks(d, all));
  if constexpr (hn::MaxLanes(d) > 4) all = op(all, hn::SwapAdjacentBlocks(all));
  return all;
}

/// The first four lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_four(D d, V x, hn::TFromD<D>* out) {
  if constexpr (hn::MaxLanes(d) > kReduced) {
    const hn::Half<D> half;
    store_four(half, hn::LowerHalf(half, x), out);
  } else {
    hn::StoreU(x, d, out);
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
