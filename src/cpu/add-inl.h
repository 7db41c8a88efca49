// Weighted sums of a V tile: lanes are channels, multipliers are the weights of tokens, times the
// token's scale where there is one (lines-inl.h).

#if defined(KVCODEC_CPU_ADD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_ADD_INL_H_
#undef KVCODEC_CPU_ADD_INL_H_
#else
#define KVCODEC_CPU_ADD_INL_H_
#endif

#include "kvcodec/codec/tile_layout.hpp"
#include "lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// out = w * scale of the token, for kQueries queries.
template <int kQueries>
HWY_INLINE void scale_weights(const std::uint8_t* plane, const float* w, float* out) {
  for (int row = 0; row < kTileRows; row += kN) {
    const VF scale = load_f16(plane + 2 * row);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const int at = i * kTileRows + row;
      hn::StoreU(hn::Mul(hn::LoadU(DF(), w + at), scale), DF(), out + at);
    }
  }
}

/// acc += weighted sums of the channels of kCount lines from `channel` on.
template <int kQueries, int kCount, class Decoder>
HWY_INLINE void add_lines(const Decoder& decoder, const std::uint8_t* plane, int head_dim,
                          int channel, const float* m, float* acc) {
  constexpr int kWords = kTileRows / Decoder::kPerWord;
  constexpr std::size_t kStride = kWords * kLineBytes;
  const Lines lines = {plane + static_cast<std::size_t>(channel / kLanes) * kStride, kStride,
                       kWords};
  VF sum[kQueries][kCount * kVectors];
  multiply_lines(decoder, lines, Multipliers{m, kTileRows}, sum);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int v = 0; v < kCount * kVectors; ++v) {
      float* out = acc + i * head_dim + channel + v * kN;
      hn::StoreU(hn::Add(hn::LoadU(DF(), out), sum[i][v]), DF(), out);
    }
  }
}

/// All channels of one head for kQueries queries.
template <int kQueries, class Decoder>
HWY_INLINE void add_pass(const Decoder& decoder, const Scales& scales, const std::uint8_t* plane,
                         int head_dim, const float* w, float* acc) {
  constexpr int kCount = lines_per_pass<Decoder, kQueries>();
  HWY_ALIGN float scaled[kQueries * kTileRows];
  for (int s = 0; s < scales.n; ++s) {
    const float* m = w;
    if (scales.data != nullptr) {
      scale_weights<kQueries>(scales.data + static_cast<std::size_t>(s) * kScalePlaneBytes, w,
                              scaled);
      m = scaled;
    }
    int channel = s * scales.length;
    const int end = HWY_MIN(channel + scales.length, head_dim);
    for (; channel + kCount * kLanes <= end; channel += kCount * kLanes) {
      add_lines<kQueries, kCount>(decoder, plane, head_dim, channel, m, acc);
    }
    if constexpr (kCount > 1) {
      for (; channel < end; channel += kLanes) {
        add_lines<kQueries, 1>(decoder, plane, head_dim, channel, m, acc);
      }
    }
  }
}

/// Any number of queries, in passes of 4, 2 and 1.
template <class Decoder>
HWY_INLINE void add_queries(const Decoder& decoder, const Scales& scales, const std::uint8_t* plane,
                            int head_dim, const float* w, int n_q, float* acc) {
  const auto step = [&](int n) HWY_ATTR {
    w += n * kTileRows;
    acc += n * head_dim;
    n_q -= n;
  };
  if constexpr (max_queries<Decoder>() >= 4) {
    for (; n_q >= 4; step(4)) add_pass<4>(decoder, scales, plane, head_dim, w, acc);
  }
  for (; n_q >= 2; step(2)) add_pass<2>(decoder, scales, plane, head_dim, w, acc);
  if (n_q >= 1) add_pass<1>(decoder, scales, plane, head_dim, w, acc);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
