// Lines of codes times multipliers: the operation that scoring and summing share.
//
// Both sides of attention store codes alike (tile_layout.hpp): a 64-byte line has 16 lanes, and the
// bits of a lane run along the axis that attention sums over. So q . k and w . v are
//
//   sum[i][lane] = sum over e of m[i][e] * value(lane, e)
//
// where the lanes are keys and m holds query channels, or the lanes are channels and m holds the
// weights of tokens. A query's sum consists of the same chains of fused multiply-adds, each in
// ascending e, whatever else is in the pass; so its bits do not depend on the number of queries.
//
// Compiled once per SIMD target. Everything here is force-inlined: a shared inline function would
// be linked from whichever target came first.

#if defined(KVCODEC_CPU_LINES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_LINES_INL_H_
#undef KVCODEC_CPU_LINES_INL_H_
#else
#define KVCODEC_CPU_LINES_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kvcodec/core/config.hpp"

// Loops over a pass's accumulators must disappear for them to live in registers. -O3 sees to that by
// itself, -O2 does not (measured: five times slower).
#undef KVCODEC_UNROLL
#if HWY_COMPILER_CLANG
#define KVCODEC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KVCODEC_UNROLL _Pragma("GCC unroll 16")
#endif

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kLanes>;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

/// Lanes of a vector, and vectors that hold the 16 lanes of a line.
inline constexpr int kN = static_cast<int>(hn::MaxLanes(DF()));
inline constexpr int kVectors = kLanes / kN;
inline constexpr int kLineBytes = 64;

/// Accumulators of a pass: enough to hide the latency of a fused multiply-add, few enough to stay
/// in registers (32 of them, or 16).
inline constexpr int kAccumulators = kN == 16 ? 16 : 8;

/// N consecutive f16.
HWY_INLINE VF load_f16(const void* p) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const hn::Rebind<hwy::float16_t, DF> df16;
  return hn::PromoteTo(DF(),
                       hn::BitCast(df16, hn::LoadU(d16, static_cast<const std::uint16_t*>(p))));
}

/// N consecutive bf16.
HWY_INLINE VF load_bf16(const void* p) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const VU bits = hn::PromoteTo(DU(), hn::LoadU(d16, static_cast<const std::uint16_t*>(p)));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(bits));
}

/// 32-bit words of one vector; `vector` counts vectors of the line.
HWY_INLINE VU load_words(const std::uint8_t* line, int vector) {
  return hn::LoadU(DU(), reinterpret_cast<const std::uint32_t*>(line) + vector * kN);
}

/// Entry `index` modulo N of a table of N. Highway wants the index reduced first; the instructions
/// do that themselves, and one operation per 16 codes is a tenth of the time of a 4-bit kernel.
HWY_INLINE VF lookup(VF table, VU index) {
#if HWY_TARGET == HWY_AVX3
  return VF{_mm512_permutexvar_ps(index.raw, table.raw)};
#elif HWY_TARGET == HWY_AVX2
  return VF{_mm256_permutevar8x32_ps(table.raw, index.raw)};
#else
  const VU reduced = hn::And(index, hn::Set(DU(), kN - 1));
  return hn::TableLookupLanes(table, hn::IndicesFromVec(DF(), hn::BitCast(DI(), reduced)));
#endif
}

// ---- Decoders ----
//
//   kPerWord    values a lane's word holds
//   kSlots      accumulators per line and query
//   kSteps      values that load() brings per slot
//   kChains     sums that one accumulator is split into, step by step in turn
//   kWanted     accumulators of a pass to aim for
//   load(line, slot)       reads one slot of a line
//   value<step>(loaded)    f32 values of one step
//   multiplier<step>(m)    what they are multiplied with; m points at the word's first multiplier
//   finish(acc, sum)       the kSlots accumulators of a line -> kVectors vectors of lane sums

/// What decoders share whose slots are vectors of whole words.
template <int kBits>
struct WordDecoder {
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kSlots = kVectors;
  static constexpr int kSteps = kPerWord;
  static constexpr int kChains = kSteps >= 2 && kN == 16 ? 2 : 1;
  static constexpr int kWanted = kAccumulators;

  HWY_INLINE VU load(const std::uint8_t* line, int slot) const { return load_words(line, slot); }
  template <int kStep>
  HWY_INLINE VF multiplier(const float* m) const {
    return hn::Set(DF(), m[kStep]);
  }
  HWY_INLINE void finish(const VF* acc, VF* sum) const {
    KVCODEC_UNROLL
    for (int i = 0; i < kVectors; ++i) sum[i] = acc[i];
  }
};

struct F32Decoder : WordDecoder<32> {
  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    return hn::BitCast(DF(), word);
  }
};

struct Bf16Decoder : WordDecoder<16> {
  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    if constexpr (kStep == 0) return hn::BitCast(DF(), hn::ShiftLeft<16>(word));
    else return hn::BitCast(DF(), hn::And(word, hn::Set(DU(), 0xffff0000u)));
  }
};

/// Codes without their scale.
struct Int8Decoder : WordDecoder<8> {
  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    const auto top = hn::BitCast(DI(), hn::ShiftLeft<24 - 8 * kStep>(word));
    return hn::ConvertTo(DF(), hn::ShiftRight<24>(top));
  }
};

/// Levels of a 16-entry table, without their scale.
struct TableDecoder : WordDecoder<4> {
  /// With 8 lanes the table takes two registers of 16, and each value two more on its way.
  static constexpr int kWanted = kN == 16 ? kAccumulators : 4;

  HWY_INLINE explicit TableDecoder(const float* table)
      : levels(table), low(hn::LoadU(DF(), table)), high(hn::LoadU(DF(), table + kLanes - kN)) {}

  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    constexpr int kShift = 8 * (kStep % 4) + 4 * (kStep / 4);
    const VU shifted = hn::ShiftRight<kShift>(word);
    if constexpr (kN == 16) {
      return lookup(low, shifted);
    } else if constexpr (kN == 8) {
      const VF bit3 = hn::BitCast(DF(), hn::ShiftLeft<28 - kShift>(word));  // as the sign
      return hn::IfNegativeThenElse(bit3, lookup(high, shifted), lookup(low, shifted));
    } else {
      const VU code = hn::And(shifted, hn::Set(DU(), 15));
      return hn::GatherIndex(DF(), levels, hn::BitCast(DI(), code));
    }
  }

  const float* levels;
  VF low;
  VF high;
};

/// Two neighbours per word, converted where they stand: a slot is N consecutive halves, even lanes
/// sum the even elements and odd lanes the odd ones until finish() adds neighbours.
struct F16Decoder {
  static constexpr int kPerWord = 2;
  static constexpr int kSlots = 2 * kVectors;
  static constexpr int kSteps = 1;
  static constexpr int kChains = 1;
  static constexpr int kWanted = kAccumulators;

  HWY_INLINE VF load(const std::uint8_t* line, int slot) const {
    return load_f16(line + 2 * kN * slot);
  }
  template <int kStep>
  HWY_INLINE VF value(VF loaded) const {
    return loaded;
  }
  template <int kStep>
  HWY_INLINE VF multiplier(const float* m) const {
    const hn::Repartition<double, DF> dd;
    double pair;
    std::memcpy(&pair, m, sizeof(pair));
    return hn::BitCast(DF(), hn::Set(dd, pair));
  }
  HWY_INLINE void finish(const VF* acc, VF* sum) const {
    KVCODEC_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const VF even = hn::ConcatEven(DF(), acc[2 * i + 1], acc[2 * i]);
      const VF odd = hn::ConcatOdd(DF(), acc[2 * i + 1], acc[2 * i]);
      sum[i] = hn::Add(even, odd);
    }
  }
};

// ---- The product ----

/// Where the lines of a pass stand: line j, word w at data + j * stride + w * kLineBytes.
struct Lines {
  const std::uint8_t* data;
  std::size_t stride;
  int n_words;
};

/// Multipliers of query i start at data + i * stride, in the order of the summed axis.
struct Multipliers {
  const float* data;
  std::size_t stride;
};

template <int kStep, class Decoder, int kQueries, int kSlots, int kChains, class Loaded>
HWY_INLINE void multiply_steps(const Decoder& decoder, const Loaded (&x)[kSlots], const float* m,
                               std::size_t m_stride, VF (&acc)[kChains][kQueries][kSlots]) {
  constexpr int kChain = kStep % kChains;
  VF values[kSlots];
  KVCODEC_UNROLL
  for (int s = 0; s < kSlots; ++s) values[s] = decoder.template value<kStep>(x[s]);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const VF multiplier =
        decoder.template multiplier<kStep>(m + static_cast<std::size_t>(i) * m_stride);
    KVCODEC_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      acc[kChain][i][s] = hn::MulAdd(multiplier, values[s], acc[kChain][i][s]);
    }
  }
  if constexpr (kStep + 1 < Decoder::kSteps) {
    multiply_steps<kStep + 1>(decoder, x, m, m_stride, acc);
  }
}

/// sum[i][kVectors * j ..] = lane sums of line j for query i.
template <class Decoder, int kQueries, int kSums>
HWY_INLINE void multiply_lines(const Decoder& decoder, const Lines& lines, const Multipliers& m,
                               VF (&sum)[kQueries][kSums]) {
  constexpr int kLineCount = kSums / kVectors;
  constexpr int kSlots = kLineCount * Decoder::kSlots;
  using Loaded = decltype(decoder.load(lines.data, 0));
  VF acc[Decoder::kChains][kQueries][kSlots];
  KVCODEC_UNROLL
  for (int c = 0; c < Decoder::kChains; ++c) {
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      KVCODEC_UNROLL
      for (int s = 0; s < kSlots; ++s) acc[c][i][s] = hn::Zero(DF());
    }
  }
  const std::uint8_t* line = lines.data;
  const float* multipliers = m.data;
  for (int w = 0; w < lines.n_words; ++w, line += kLineBytes, multipliers += Decoder::kPerWord) {
    Loaded x[kSlots];
    KVCODEC_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      const std::size_t offset = static_cast<std::size_t>(s / Decoder::kSlots) * lines.stride;
      x[s] = decoder.load(line + offset, s % Decoder::kSlots);
    }
    multiply_steps<0>(decoder, x, multipliers, m.stride, acc);
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int c = 1; c < Decoder::kChains; ++c) {
      KVCODEC_UNROLL
      for (int s = 0; s < kSlots; ++s) acc[0][i][s] = hn::Add(acc[0][i][s], acc[c][i][s]);
    }
    KVCODEC_UNROLL
    for (int j = 0; j < kLineCount; ++j) {
      decoder.finish(&acc[0][i][j * Decoder::kSlots], &sum[i][j * kVectors]);
    }
  }
}

// ---- Shape of a pass ----

/// Queries that share one decoding. At 4 the arithmetic outweighs it.
template <class Decoder>
constexpr int max_queries() {
  return 4 * Decoder::kSlots * Decoder::kChains <= kAccumulators ? 4 : 2;
}

/// Lines of a pass of kQueries queries.
template <class Decoder, int kQueries>
constexpr int lines_per_pass() {
  constexpr int lines = Decoder::kWanted / (kQueries * Decoder::kSlots * Decoder::kChains);
  return lines >= 4 ? 4 : lines >= 2 ? 2 : 1;
}

/// Scales of one head: segment s covers `length` channels, the last one perhaps fewer; its plane of
/// f16, one per row, stands at data + s * kScalePlaneBytes. Null data: values have no scale.
struct Scales {
  const std::uint8_t* data;
  int n;
  int length;
};

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
