// Weighted sums of a V tile: lanes are channels, multipliers are the weights of tokens, times the
// token's scale where there is one (lines-inl.h).

#if defined(KVCODEC_CPU_ADD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_ADD_INL_H_
#undef KVCODEC_CPU_ADD_INL_H_
#else
#define KVCODEC_CPU_ADD_INL_H_
#endif

#include "params-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Weights [kQueries, kTileRows] as one segment's codes need them.
template <int kQueries>
struct SegmentWeights {
  const float* weights;    ///< times the scales, if there are any
  float factor;            ///< what sums are multiplied with
  float offset[kQueries];  ///< sum of weight * zero
};

/// Writes scaled weights to scaled [kQueries * kTileRows], unless there are no scales.
template <int kQueries>
HWY_INLINE SegmentWeights<kQueries> scale_weights(const Params& p, int segment, const float* w,
                                                  float* scaled) {
  SegmentWeights<kQueries> out = {w, p.factor, {}};
  if (p.scales == nullptr) return out;
  out.weights = scaled;
  out.factor = 1.0f;
  VF sum[kQueries];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) sum[i] = hn::Zero(DF());
  for (int row = 0; row < kTileRows; row += kN) {
    const VF scale = load_scale(p, segment, row);
    const VF zero = p.zeros == nullptr ? hn::Zero(DF()) : load_zero(p, segment, row, scale);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const VF weight = hn::LoadU(DF(), w + i * kTileRows + row);
      hn::StoreU(hn::Mul(weight, scale), DF(), scaled + i * kTileRows + row);
      sum[i] = hn::MulAdd(weight, zero, sum[i]);
    }
  }
  if (p.zeros == nullptr) return out;
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    out.offset[i] = hn::GetLane(hn::SumOfLanes(DF(), sum[i]));
  }
  return out;
}

/// acc += weighted sums of the kCount * N channels from `channel` on.
template <int kQueries, int kCount, class Decoder>
HWY_INLINE void add_lines(const Decoder& decoder, const HeadPlanes& at, int head_dim, int channel,
                          const SegmentWeights<kQueries>& segment, float* acc) {
  VF sum[kQueries][kCount];
  const Lines lines = value_lines<Decoder>(at, channel);
  const Multipliers weights = {segment.weights, kTileRows};
  if constexpr (kN == 16) multiply_lines_here(decoder, lines, weights, sum);
  else multiply_lines(decoder, lines, weights, sum);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const VF factor = hn::Set(DF(), segment.factor);
    const VF offset = hn::Set(DF(), segment.offset[i]);
    KVCODEC_UNROLL
    for (int v = 0; v < kCount; ++v) {
      float* out = acc + i * head_dim + channel + v * kN;
      hn::StoreU(hn::Add(hn::LoadU(DF(), out), hn::MulAdd(sum[i][v], factor, offset)), DF(), out);
    }
  }
}

/// All channels of one head for kQueries queries.
template <int kQueries, class Decoder>
HWY_INLINE void add_pass(const Decoder& decoder, const HeadPlanes& at, int head_dim, const float* w,
                         float* acc) {
  constexpr int kCount = vectors_per_pass<Decoder, kQueries>();
  constexpr int kRest = HWY_MIN(kCount, kVectors);
  const Params& p = at.params;
  HWY_ALIGN float scaled[kQueries * kTileRows];
  for (int s = 0; s < p.n; ++s) {
    const SegmentWeights<kQueries> segment = scale_weights<kQueries>(p, s, w, scaled);
    int channel = s * p.length;
    const int end = HWY_MIN(channel + p.length, head_dim);
    for (; channel + kCount * kN <= end; channel += kCount * kN) {
      add_lines<kQueries, kCount>(decoder, at, head_dim, channel, segment, acc);
    }
    if constexpr (kCount > kRest) {
      for (; channel < end; channel += kRest * kN) {
        add_lines<kQueries, kRest>(decoder, at, head_dim, channel, segment, acc);
      }
    }
  }
}

/// Passes of queries, each with its weights and its sums.
template <class Pass>
struct AddPasses {
  int head_dim;
  const float* w;
  float* acc;
  const Pass& pass;

  template <int kQueries>
  HWY_INLINE void run(int i) const {
    pass.template run<kQueries>(w + i * kTileRows, acc + i * head_dim);
  }
};

/// pass.run<n>(w, acc) for any number of queries.
template <int kMost, class Pass>
HWY_INLINE void add_queries(int head_dim, const float* w, int n_q, float* acc, const Pass& pass) {
  query_passes<kMost>(n_q, AddPasses<Pass>{head_dim, w, acc, pass});
}

template <class Decoder>
struct AddPass {
  const Decoder& decoder;
  const HeadPlanes& at;
  int head_dim;

  template <int kQueries>
  HWY_INLINE void run(const float* w, float* acc) const {
    add_pass<kQueries>(decoder, at, head_dim, w, acc);
  }
};

/// An AddFormat.
template <class Decoder>
void add_format(const TileFormat& f, const std::byte* tile, int head, const float* w, int n_q,
                Ahead& ahead, float* acc) {
  const Decoder decoder(f);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  add_queries<max_queries<Decoder>()>(f.width, w, n_q, acc, AddPass<Decoder>{decoder, at, f.width});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
