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

inline constexpr int kLagRows = 4;  ///< at a time: sums of one row wait for each other

/// sums [kRows][8 lanes] from 0, over channels first to last.
template <int kRows>
struct LagSums {
  HWY_INLINE LagSums() {
    KVCODEC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      KVCODEC_UNROLL
      for (int i = 0; i < kLagParts; ++i) of[r][i] = hn::Zero(DLag());
    }
  }
  /// The 8 sums of each row, one after the other.
  HWY_INLINE void totals(double* total) const {
    HWY_ALIGN double lanes[kRows][8];
    KVCODEC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      KVCODEC_UNROLL
      for (int i = 0; i < kLagParts; ++i) hn::Store(of[r][i], DLag(), lanes[r] + i * kLagLanes);
      total[r] = 0.0;
    }
    KVCODEC_UNROLL
    for (int i = 0; i < 8; ++i) {
      KVCODEC_UNROLL
      for (int r = 0; r < kRows; ++r) total[r] += lanes[r][i];
    }
  }

  VLag of[kRows][kLagParts];
};

/// Of kRows rows; z [kRows, kMaxHeadDim] is scratch. kAllLive: every channel counts; else the others are
/// masked out.
template <bool kAllLive, int kRows>
HWY_INLINE void deviations_of(int head_dim, const LagScaling& s, const float* x, double* z,
                              double* sigma) {
  const hn::Rebind<float, DLag> df;
  double total[kRows];
  LagSums<kRows> sums;
  for (int c = 0; c < head_dim; c += 8) {
    KVCODEC_UNROLL
    for (int i = 0; i < kLagParts; ++i) {
      const int at = c + i * kLagLanes;
      const VLag low = hn::LoadU(DLag(), s.low + at);
      const VLag inverse = hn::LoadU(DLag(), s.inverse + at);
      KVCODEC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const VLag value = hn::PromoteTo(DLag(), hn::LoadU(df, x + r * head_dim + at));
        const VLag scaled = hn::Mul(hn::Sub(value, low), inverse);
        hn::Store(scaled, DLag(), z + r * kMaxHeadDim + at);
        sums.of[r][i] = hn::Add(sums.of[r][i], scaled);
      }
    }
  }
  sums.totals(total);
  VLag mean[kRows];
  KVCODEC_UNROLL
  for (int r = 0; r < kRows; ++r) mean[r] = hn::Set(DLag(), total[r] / s.n_live);
  LagSums<kRows> squares;
  for (int c = 0; c < head_dim; c += 8) {
    KVCODEC_UNROLL
    for (int i = 0; i < kLagParts; ++i) {
      const int at = c + i * kLagLanes;
      KVCODEC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        VLag e = hn::Sub(hn::Load(DLag(), z + r * kMaxHeadDim + at), mean[r]);
        if constexpr (!kAllLive) e = hn::Mul(e, hn::LoadU(DLag(), s.live + at));
        squares.of[r][i] = hn::Add(squares.of[r][i], hn::Mul(e, e));
      }
    }
  }
  squares.totals(total);
  KVCODEC_UNROLL
  for (int r = 0; r < kRows; ++r) sigma[r] = std::sqrt(total[r] / (s.n_live - 1));
}

template <bool kAllLive>
HWY_INLINE void deviations(int head_dim, const LagScaling& s, std::int64_t n_rows,
                           const float* rows, double* sigma) {
  HWY_ALIGN double z[kLagRows * kMaxHeadDim];
  std::int64_t t = 0;
  for (; t + kLagRows <= n_rows; t += kLagRows) {
    deviations_of<kAllLive, kLagRows>(head_dim, s, rows + t * head_dim, z, sigma + t);
  }
  for (; t < n_rows; ++t)
    deviations_of<kAllLive, 1>(head_dim, s, rows + t * head_dim, z, sigma + t);
}

/// A LagDeviations.
inline void lag_deviations(int head_dim, const LagScaling& s, std::int64_t n_rows,
                           const float* rows, double* sigma) {
  if (s.n_live < 2) {
    for (std::int64_t t = 0; t < n_rows; ++t) sigma[t] = 0.0;
  } else if (s.n_live == head_dim) {
    deviations<true>(head_dim, s, n_rows, rows, sigma);
  } else {
    deviations<false>(head_dim, s, n_rows, rows, sigma);
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
