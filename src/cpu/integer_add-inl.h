// Weighted sums of V tiles in integers (integer-inl.h).

#if defined(KVCODEC_CPU_INTEGER_ADD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_ADD_INL_H_
#undef KVCODEC_CPU_INTEGER_ADD_INL_H_
#else
#define KVCODEC_CPU_INTEGER_ADD_INL_H_
#endif

#include "integer-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Weights times the scales of one segment, in bytes.
template <int kQueries, int kParts>
struct WeightBytes {
  static constexpr int kPlaces = (kQueries + kReduced - 1) / kReduced * kReduced;

  alignas(64) std::int8_t codes[kPlaces][kParts][kTileRows];
  std::int32_t bias[kPlaces][kParts];
  float unit[kPlaces];
  float offset[kPlaces];  ///< sum of weight * zero
};

/// w [n_q, kTileRows], n_q <= kQueries. Weights that are not finite give any codes: the sum of the
/// softmax is NaN as well then.
template <class Bytes, int kQueries>
HWY_INLINE void weight_bytes(const Params& p, int segment, const float* w, int n_q,
                             WeightBytes<kQueries, Bytes::kParts>& out) {
  constexpr int kParts = Bytes::kParts;
  constexpr int kCount = kTileRows / kN;
  VF scale[kCount];
  VF zero[kCount];
  KVCODEC_UNROLL
  for (int v = 0; v < kCount; ++v) {
    scale[v] = p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, segment, v * kN);
    zero[v] = p.zeros == nullptr ? hn::Zero(DF()) : load_zero(p, segment, v * kN, scale[v]);
  }
  for (int first = 0; first < n_q; first += kReduced) {
    const int n = HWY_MIN(n_q - first, kReduced);
    const float* weights = w + first * kTileRows;
    VF x[kReduced][kCount];
    VF top[kReduced];
    VF sum[kReduced];
    KVCODEC_UNROLL
    for (int i = 0; i < kReduced; ++i) {
      top[i] = sum[i] = hn::Zero(DF());
      if (i >= n) continue;
      LargestMultiplier<Bytes> most;
      KVCODEC_UNROLL
      for (int v = 0; v < kCount; v += kVectors) {
        VF scaled[kVectors];
        KVCODEC_UNROLL
        for (int j = 0; j < kVectors; ++j) {
          const VF weight = hn::LoadU(DF(), weights + i * kTileRows + (v + j) * kN);
          x[i][v + j] = scaled[j] = hn::Mul(weight, scale[v + j]);
        }
        most.put(scaled);
      }
      top[i] = most.top();
      if (p.zeros == nullptr) continue;
      KVCODEC_UNROLL
      for (int v = 0; v < kCount; ++v) {
        sum[i] = hn::MulAdd(hn::LoadU(DF(), weights + i * kTileRows + v * kN), zero[v], sum[i]);
      }
    }
    const VF largest = reduce_each(MaxOf(), DF(), top);
    const auto tiny = hn::Lt(largest, hn::Set(DF(), kTinyMultiplier));
    const VF limit = hn::Set(DF(), kCodeLimit<kParts>);
    alignas(64) float inverse[kLanes];
    hn::Store(hn::IfThenZeroElse(tiny, hn::Div(limit, largest)), DF(), inverse);
    store_four(DF(),
               hn::IfThenZeroElse(tiny, hn::Mul(largest, hn::Set(DF(), 1.0f / kCodeLimit<kParts>))),
               out.unit + first);
    store_four(DF(), reduce_each(SumOf(), DF(), sum), out.offset + first);
    CodeSums<kParts> total[kReduced];
    KVCODEC_UNROLL
    for (int i = 0; i < kReduced; ++i) {
      if (i >= n) continue;
      const VF factor = hn::Set(DF(), inverse[i]);
      KVCODEC_UNROLL
      for (int v = 0; v < kCount; ++v) x[i][v] = hn::Mul(x[i][v], factor);
      put_tile_codes<kParts>(x[i], out.codes[first + i][0], total[i]);
    }
    CodeSums<kParts>::template put_biases<Bytes::kZero>(total, out.bias[first]);
  }
}

/// acc += weighted sums of the kCount * N channels from `channel` on.
template <int kQueries, int kCount, class Bytes>
HWY_INLINE void add_byte_vectors(const Bytes& decoder, const HeadPlanes& at, int head_dim,
                                 int channel, float level_unit,
                                 const WeightBytes<kQueries, Bytes::kParts>& w, float* acc) {
  VF sum[kQueries][kCount];
  sum_bytes(decoder, value_lines<Bytes>(at, channel),
            CodeRows{w.codes[0][0], Bytes::kParts * kTileRows, kTileRows},
            Biases{w.bias[0], Bytes::kParts, 1}, sum);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const VF unit = hn::Set(DF(), w.unit[i] * level_unit);
    const VF offset = hn::Set(DF(), w.offset[i]);
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) {
      float* out = acc + i * head_dim + channel + j * kN;
      const VF before = hn::Add(hn::LoadU(DF(), out), offset);
      hn::StoreU(hn::MulAdd(sum[i][j], unit, before), DF(), out);
    }
  }
}

template <class Bytes>
struct AddBytesPass {
  const Bytes& decoder;
  const HeadPlanes& at;
  int head_dim;
  float level_unit;
  const float* w;
  float* acc;

  template <int kQueries>
  HWY_INLINE void run(int first_query) const {
    constexpr int kCount = byte_vectors<Bytes, kQueries>();
    const Params& p = at.params;
    float* out = acc + first_query * head_dim;
    WeightBytes<kQueries, Bytes::kParts> weights;
    for (int s = 0; s < p.n; ++s) {
      weight_bytes<Bytes>(p, s, w + first_query * kTileRows, kQueries, weights);
      int channel = s * p.length;
      const int end = HWY_MIN(channel + p.length, head_dim);
      for (; channel + kCount * kN <= end; channel += kCount * kN) {
        add_byte_vectors<kQueries, kCount>(decoder, at, head_dim, channel, level_unit, weights,
                                           out);
      }
      if constexpr (kCount > 1) {
        for (; channel < end; channel += kN) {
          add_byte_vectors<kQueries, 1>(decoder, at, head_dim, channel, level_unit, weights, out);
        }
      }
    }
  }
};

/// An AddIntegers.
template <class Bytes>
void add_integers(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile, int head,
                  const float* w, int n_q, Ahead& ahead, float* acc) {
  const Bytes decoder(levels);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  byte_passes<most_byte_queries<Bytes>()>(
      n_q, AddBytesPass<Bytes>{decoder, at, f.width, levels.unit, w, acc});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
