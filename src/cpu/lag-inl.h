// What LagKV's scores are made of (policy/lagkv.hpp), in the definition's float64 and its order of sums.

#if defined(KVCODEC_CPU_LAG_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_LAG_INL_H_
#undef KVCODEC_CPU_LAG_INL_H_
#else
#define KVCODEC_CPU_LAG_INL_H_
#endif

#include <cmath>

#include "lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// A ChannelEnds. 4 vectors of channels at a time, so that the comparisons of one do not wait for those
/// of the row before.
inline void channel_ends(int head_dim, std::int64_t n_rows, const float* x, float* least,
                         float* most) {
  constexpr int kParts = 4;
  for (int first = 0; first < head_dim; first += kParts * kN) {
    const int n = HWY_MIN(kParts, (head_dim - first) / kN);
    VF low[kParts];
    VF high[kParts];
    for (int i = 0; i < n; ++i) low[i] = high[i] = hn::LoadU(DF(), x + first + i * kN);
    const auto widen = [&](int i, const float* row) {
      const VF value = hn::LoadU(DF(), row + first + i * kN);
      low[i] = hn::IfThenElse(hn::Lt(value, low[i]), value, low[i]);
      high[i] = hn::IfThenElse(hn::Gt(value, high[i]), value, high[i]);
    };
    for (std::int64_t t = 1; t < n_rows; ++t) {
      const float* row = x + t * head_dim;
      if (n == kParts) {
        KVCODEC_UNROLL
        for (int i = 0; i < kParts; ++i) widen(i, row);
      } else {
        for (int i = 0; i < n; ++i) widen(i, row);
      }
    }
    for (int i = 0; i < n; ++i) {
      hn::StoreU(low[i], DF(), least + first + i * kN);
      hn::StoreU(high[i], DF(), most + first + i * kN);
    }
  }
}

using DLag = hn::CappedTag<double, 8>;
using VLag = hn::Vec<DLag>;
inline constexpr int kLagLanes = static_cast<int>(hn::MaxLanes(DLag()));
inline constexpr int kLagParts = 8 / kLagLanes;  ///< vectors of the 8 sums

/// The 8 sums, one after the other.
HWY_INLINE double total_of(const VLag (&sums)[kLagParts]) {
  HWY_ALIGN double lanes[8];
  KVCODEC_UNROLL
  for (int i = 0; i < kLagParts; ++i) hn::Store(sums[i], DLag(), lanes + i * kLagLanes);
  double total = 0.0;
  KVCODEC_UNROLL
  for (int i = 0; i < 8; ++i) total += lanes[i];
  return total;
}

/// Of one row. kAllLive: every channel counts; else the others are masked out.
template <bool kAllLive>
HWY_INLINE double lag_deviation(int head_dim, const LagScaling& s, const float* x, double* z) {
  const hn::Rebind<float, DLag> df;
  VLag sums[kLagParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kLagParts; ++i) sums[i] = hn::Zero(DLag());
  for (int c = 0; c < head_dim; c += 8) {
    KVCODEC_UNROLL
    for (int i = 0; i < kLagParts; ++i) {
      const int at = c + i * kLagLanes;
      const VLag value = hn::PromoteTo(DLag(), hn::LoadU(df, x + at));
      const VLag scaled = hn::Mul(hn::Sub(value, hn::LoadU(DLag(), s.low + at)),
                                  hn::LoadU(DLag(), s.inverse + at));
      hn::Store(scaled, DLag(), z + at);
      sums[i] = hn::Add(sums[i], scaled);
    }
  }
  const VLag mean = hn::Set(DLag(), total_of(sums) / s.n_live);
  KVCODEC_UNROLL
  for (int i = 0; i < kLagParts; ++i) sums[i] = hn::Zero(DLag());
  for (int c = 0; c < head_dim; c += 8) {
    KVCODEC_UNROLL
    for (int i = 0; i < kLagParts; ++i) {
      const int at = c + i * kLagLanes;
      VLag e = hn::Sub(hn::Load(DLag(), z + at), mean);
      if constexpr (!kAllLive) e = hn::Mul(e, hn::LoadU(DLag(), s.live + at));
      sums[i] = hn::Add(sums[i], hn::Mul(e, e));
    }
  }
  return std::sqrt(total_of(sums) / (s.n_live - 1));
}

/// A LagDeviations.
inline void lag_deviations(int head_dim, const LagScaling& s, std::int64_t n_rows,
                           const float* rows, double* sigma) {
  HWY_ALIGN double z[kMaxHeadDim];
  for (std::int64_t t = 0; t < n_rows; ++t, rows += head_dim) {
    sigma[t] = s.n_live < 2            ? 0.0
               : s.n_live == head_dim ? lag_deviation<true>(head_dim, s, rows, z)
                                      : lag_deviation<false>(head_dim, s, rows, z);
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
