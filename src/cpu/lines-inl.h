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

#include "hwy/highway.h"
#include "kvcodec/core/config.hpp"
#include "prefetch.hpp"

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
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return VF{_mm512_permutexvar_ps(index.raw, table.raw)};
#elif HWY_TARGET == HWY_AVX2
  return VF{_mm256_permutevar8x32_ps(table.raw, index.raw)};
#else
  const VU reduced = hn::And(index, hn::Set(DU(), kN - 1));
  return hn::TableLookupLanes(table, hn::IndicesFromVec(DF(), hn::BitCast(DI(), reduced)));
#endif
}

/// Bits of `yes` where `mask` is 1, of `no` elsewhere.
HWY_INLINE VU select_bits(VU mask, VU yes, VU no) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return VU{_mm512_ternarylogic_epi32(mask.raw, yes.raw, no.raw, 0xca)};
#else
  return hn::Or(hn::And(mask, yes), hn::AndNot(mask, no));
#endif
}

// ---- The product ----

/// Where the lines of a pass stand: line j, word w at data + j * stride + w * kLineBytes. Codes of 3
/// bits have their high bits in lines of their own, whose words hold twice as many elements; word w
/// belongs to the (first_word + w)-th half of such a word.
struct Lines {
  const std::uint8_t* data;
  std::size_t stride;
  int n_words;
  const std::uint8_t* high;
  std::size_t high_stride;
  int first_word;
  Ahead* ahead = nullptr;  ///< what to fetch meanwhile
};

/// Fetches ahead, kBytes per step of a kernel; a local copy of the cursor lives in registers.
template <std::size_t kBytes>
class Fetch {
 public:
  HWY_INLINE explicit Fetch(Ahead* ahead) : ahead_(ahead), at_(nullptr), end_(nullptr) {
    if (ahead == nullptr) return;
    ahead->turn();
    at_ = ahead->at;
    end_ = ahead->end;
  }

  HWY_INLINE void step() {
    if (at_ >= end_) return;
    KVCODEC_UNROLL
    for (std::size_t i = 0; i < kBytes; i += kCacheLine) __builtin_prefetch(at_ + i, 0, 2);
    at_ += kBytes;
  }

  HWY_INLINE void finish() {
    if (ahead_ != nullptr) ahead_->at = at_;
  }

 private:
  Ahead* ahead_;
  const std::byte* at_;
  const std::byte* end_;
};

/// Bytes from the start of a line to the vector of lane `lane`, a multiple of N; 0 for the first of a line.
HWY_INLINE std::size_t vector_offset(int lane) {
  return kVectors == 1 ? 0 : static_cast<std::size_t>(static_cast<unsigned>(lane) % kLanes * 4);
}

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

/// The same where a decoder brings four steps of a slot at once.
template <int kStep, class Decoder, int kQueries, int kSlots, class Loaded>
HWY_INLINE void multiply_fours(const Decoder& decoder, const Loaded (&x)[kSlots], const float* m,
                               std::size_t m_stride, VF (&acc)[1][kQueries][kSlots]) {
  KVCODEC_UNROLL
  for (int s = 0; s < kSlots; ++s) {
    VF values[4];
    decoder.template four_values<kStep>(x[s], values);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const float* of_query = m + static_cast<std::size_t>(i) * m_stride + kStep;
      KVCODEC_UNROLL
      for (int k = 0; k < 4; ++k) {
        acc[0][i][s] = hn::MulAdd(hn::Set(DF(), of_query[k]), values[k], acc[0][i][s]);
      }
    }
  }
  if constexpr (kStep + 4 < Decoder::kSteps) {
    multiply_fours<kStep + 4>(decoder, x, m, m_stride, acc);
  }
}

/// Accumulators per vector of lanes and query.
template <class Decoder>
inline constexpr int kSlotsPerVector = Decoder::kSlots / kVectors;

/// Slot s of a pass at word w; `line` is the first line's word.
template <class Decoder>
HWY_INLINE typename Decoder::Loaded load_slot(const Decoder& decoder, const Lines& lines, int w,
                                              const std::uint8_t* line, int s) {
  const auto j = static_cast<std::size_t>(s / Decoder::kSlots);
  if constexpr (Decoder::kHighPlane) {
    const int half = lines.first_word + w;
    return decoder.load(line + j * lines.stride,
                        lines.high + j * lines.high_stride + half / 2 * kLineBytes, half % 2,
                        s % Decoder::kSlots);
  } else {
    return decoder.load(line + j * lines.stride, s % Decoder::kSlots);
  }
}

/// sum[i][v] = sums of the lanes of vector v for query i: of whole lines, or of one vector.
template <class Decoder, int kQueries, int kSums>
HWY_INLINE void multiply_lines_here(const Decoder& decoder, const Lines& lines,
                                    const Multipliers& m, VF (&sum)[kQueries][kSums]) {
  constexpr int kSlots = kSums * kSlotsPerVector<Decoder>;
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
  Fetch<static_cast<std::size_t>(kSums * kN * 4)> fetch(lines.ahead);
  for (int w = 0; w < lines.n_words; ++w, line += kLineBytes, multipliers += Decoder::kPerWord) {
    typename Decoder::Loaded x[kSlots];
    KVCODEC_UNROLL
    for (int s = 0; s < kSlots; ++s) x[s] = load_slot(decoder, lines, w, line, s);
    fetch.step();
    if constexpr (Decoder::kFours) multiply_fours<0>(decoder, x, multipliers, m.stride, acc);
    else multiply_steps<0>(decoder, x, multipliers, m.stride, acc);
  }
  fetch.finish();
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int c = 1; c < Decoder::kChains; ++c) {
      KVCODEC_UNROLL
      for (int s = 0; s < kSlots; ++s) acc[0][i][s] = hn::Add(acc[0][i][s], acc[c][i][s]);
    }
    KVCODEC_UNROLL
    for (int v = 0; v < kSums; ++v) {
      sum[i][v] = decoder.finish(&acc[0][i][v * kSlotsPerVector<Decoder>]);
    }
  }
}

/// The same, not inlined: with what its callers keep, compilers run out of registers in there (twice the
/// time with AVX2).
template <class Decoder, int kQueries, int kSums>
HWY_NOINLINE void multiply_lines(const Decoder& decoder, const Lines& lines, const Multipliers& m,
                                 VF (&sum)[kQueries][kSums]) {
  multiply_lines_here(decoder, lines, m, sum);
}

// ---- Shape of a pass ----

/// pass.run<n>(i) for queries i .. i + n - 1 of n_q, in passes of 8 and 4 where kMost allows them, and of 3,
/// 2 or 1 for the rest.
template <int kMost, class Pass>
HWY_INLINE void query_passes(int n_q, const Pass& pass) {
  int i = 0;
  if constexpr (kMost >= 8) {
    for (; n_q - i >= 8; i += 8) pass.template run<8>(i);
  }
  if constexpr (kMost >= 4) {
    for (; n_q - i >= 4; i += 4) pass.template run<4>(i);
    if (n_q - i == 3) {
      pass.template run<3>(i);
      return;
    }
  }
  for (; n_q - i >= 2; i += 2) pass.template run<2>(i);
  if (n_q - i == 1) pass.template run<1>(i);
}

/// Queries that share one decoding.
template <class Decoder>
constexpr int max_queries() {
  constexpr int sums = kSlotsPerVector<Decoder> * Decoder::kChains;
  return kN == 16 && 8 * sums <= kAccumulators ? 8 : 4 * sums <= kAccumulators ? 4 : 2;
}

/// Vectors of a pass of kQueries queries: those of 4, 2 or 1 lines, or one where a line has too many sums.
template <class Decoder, int kQueries>
constexpr int vectors_per_pass() {
  constexpr int of_line = kQueries * Decoder::kSlots * Decoder::kChains;
  constexpr int lines = Decoder::kWanted / of_line;
  if constexpr (lines == 0 && of_line > kAccumulators) return 1;
  return (lines >= 4 ? 4 : lines >= 2 ? 2 : 1) * kVectors;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
