// Decoders: how the words of a line become f32 values, one per kind of level (lines-inl.h multiplies).
//
//   kPerWord    values a lane's word holds
//   kSlots      accumulators per line and query
//   kSteps      values that load() brings per slot
//   kChains     sums that one accumulator is split into, step by step in turn
//   kWanted     accumulators of a pass to aim for
//   kHighPlane  whether load() also takes a line of high bits
//   kFours      whether values come by four_values<step>(loaded, values), kChains being 1
//   load(line, slot)       reads one slot of a line
//   value<step>(loaded)    f32 values of one step
//   multiplier<step>(m)    what they are multiplied with; m points at the word's first multiplier
//   finish(acc)            the kSlots / kVectors accumulators of a vector of lanes -> their sums
//
// What a decoder leaves out: a constant factor, level_factor(), and where there are zeros a constant
// term, level_center().

#if defined(KVCODEC_CPU_DECODERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_DECODERS_INL_H_
#undef KVCODEC_CPU_DECODERS_INL_H_
#else
#define KVCODEC_CPU_DECODERS_INL_H_
#endif

#include <cstring>

#include "kvcodec/codec/tile_format.hpp"
#include "lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// What decoders share whose slots are vectors of whole words.
template <int kBits>
struct WordDecoder {
  using Loaded = VU;
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kSlots = kVectors;
  static constexpr int kSteps = kPerWord;
  static constexpr int kChains = kSteps >= 2 && kN == 16 ? 2 : 1;
  static constexpr int kWanted = kAccumulators;
  static constexpr bool kHighPlane = false;
  static constexpr bool kFours = false;

  HWY_INLINE VU load(const std::uint8_t* line, int slot) const { return load_words(line, slot); }
  template <int kStep>
  HWY_INLINE VF multiplier(const float* m) const {
    return hn::Set(DF(), m[kStep]);
  }
  HWY_INLINE VF finish(const VF* acc) const { return acc[0]; }
};

struct F32Decoder : WordDecoder<32> {
  HWY_INLINE explicit F32Decoder(const TileFormat&) {}

  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    return hn::BitCast(DF(), word);
  }
};

struct Bf16Decoder : WordDecoder<16> {
  /// Words stay for two steps: with 16 registers, 8 of them and 8 sums are too many.
  static constexpr int kWanted = kN == 16 ? kAccumulators : 4;

  HWY_INLINE explicit Bf16Decoder(const TileFormat&) {}

  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    if constexpr (kStep == 0) return hn::BitCast(DF(), hn::ShiftLeft<16>(word));
    else return hn::BitCast(DF(), hn::And(word, hn::Set(DU(), 0xffff0000u)));
  }
};

/// What is taken off levels that come with a zero, and added to the zero: the middle of the levels.
/// Codes 0.. and their zero are large and cancel each other; those around 0 do not lose the digits.
HWY_INLINE float level_center(const TileFormat& f) {
  if (f.zero_offset == 0) return 0.0f;
  if (f.level == TileFormat::Level::uint8) return 128.0f;
  return f.level == TileFormat::Level::table ? 0.5f * (f.table[0] + f.table[(1 << f.bits) - 1])
                                             : 0.0f;
}

struct Int8Decoder : WordDecoder<8> {
  HWY_INLINE explicit Int8Decoder(const TileFormat&) {}

  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    const auto top = hn::BitCast(DI(), hn::ShiftLeft<24 - 8 * kStep>(word));
    return hn::ConvertTo(DF(), hn::ShiftRight<24>(top));
  }
};

/// Only for formats with zeros: code - 128.
struct Uint8Decoder : Int8Decoder {
  HWY_INLINE explicit Uint8Decoder(const TileFormat& f) : Int8Decoder(f) {}

  HWY_INLINE VU load(const std::uint8_t* line, int slot) const {
    return hn::Xor(load_words(line, slot), hn::Set(DU(), 0x80808080u));
  }
};

/// The first 2^kBits levels of a table, less their center, over and over, so that lookup() need not
/// mask the index where they fill a vector.
template <int kBits>
struct Levels {
  static constexpr int kCount = 1 << kBits;

  HWY_INLINE explicit Levels(const TileFormat& f) : center(level_center(f)), levels(f.table) {
    HWY_ALIGN float repeated[kLanes];
    for (int i = 0; i < kLanes; ++i) repeated[i] = f.table[i % kCount] - center;
    low = hn::Load(DF(), repeated);
  }

  /// Of codes that stand in the low bits of words; the others may be anything.
  HWY_INLINE VF operator()(VU code) const {
#if HWY_TARGET == HWY_AVX2
    if constexpr (kCount == 4) return VF{_mm256_permutevar_ps(low.raw, code.raw)};
#endif
    if constexpr (kCount <= kN) {
      return lookup(low, code);
    } else {
      const VU index = hn::And(code, hn::Set(DU(), kCount - 1));
      return hn::Sub(hn::GatherIndex(DF(), levels, hn::BitCast(DI(), index)),
                     hn::Set(DF(), center));
    }
  }

  float center;
  const float* levels;
  VF low;
};

template <int kBits>
struct TableDecoder : WordDecoder<kBits> {
  static constexpr int kWanted = kBits == 4 && kN < 16 ? 4 : kAccumulators;

  HWY_INLINE explicit TableDecoder(const TileFormat& f) : levels(f) {}

  template <int kStep>
  HWY_INLINE VF value(VU word) const {
    return levels(hn::ShiftRight<8 * (kStep % 4) + kBits*(kStep / 4)>(word));
  }

  Levels<kBits> levels;
};

/// A word of low bits and the half word of high bits that belongs to it.
struct Word3 {
  VU low;
  VU high;
};

struct Table3Decoder : WordDecoder<2> {
  using Loaded = Word3;
  static constexpr bool kHighPlane = true;

  HWY_INLINE explicit Table3Decoder(const TileFormat& f) : levels(f) {}

  /// Elements 16.. of a word of one bit stand 4 bits above elements 0...
  HWY_INLINE Word3 load(const std::uint8_t* line, const std::uint8_t* high, int half,
                        int slot) const {
    return {load_words(line, slot), hn::ShiftRightSame(load_words(high, slot), 4 * half)};
  }
  template <int kStep>
  HWY_INLINE VF value(const Word3& word) const {
    constexpr int kByte = 8 * (kStep % 4);
    constexpr int kBit = kByte + kStep / 4;
    const VU low = hn::ShiftRight<kByte + 2 * (kStep / 4)>(word.low);
#if HWY_TARGET == HWY_AVX2
    // A lookup of 4 entries for either high bit costs half of one of 8.
    const __m256 quarter[2] = {
        _mm256_permutevar_ps(_mm256_permute2f128_ps(levels.low.raw, levels.low.raw, 0x00), low.raw),
        _mm256_permutevar_ps(_mm256_permute2f128_ps(levels.low.raw, levels.low.raw, 0x11),
                             low.raw)};
    const VU sign = hn::ShiftLeft<31 - kBit>(word.high);
    return VF{_mm256_blendv_ps(quarter[0], quarter[1], _mm256_castsi256_ps(sign.raw))};
#endif
    VU high = word.high;
    if constexpr (kBit > 2) high = hn::ShiftRight<kBit - 2>(high);
    if constexpr (kBit < 2) high = hn::ShiftLeft<2 - kBit>(high);
    return levels(select_bits(hn::Set(DU(), 3), low, high));
  }

  Levels<3> levels;
};

/// Neighbours of a word, converted to pairs where they stand: a slot is N consecutive halves, even
/// lanes sum the even elements and odd lanes the odd ones until finish() adds neighbours.
struct PairDecoder {
  static constexpr int kSlots = 2 * kVectors;
  static constexpr int kChains = 1;
  static constexpr int kWanted = kAccumulators;
  static constexpr bool kHighPlane = false;
  static constexpr bool kFours = false;

  template <int kStep>
  HWY_INLINE VF multiplier(const float* m) const {
    const hn::Repartition<double, DF> dd;
    double pair;
    std::memcpy(&pair, m + 2 * kStep, sizeof(pair));
    return hn::BitCast(DF(), hn::Set(dd, pair));
  }
  HWY_INLINE VF finish(const VF* acc) const {
    return hn::Add(hn::ConcatEven(DF(), acc[1], acc[0]), hn::ConcatOdd(DF(), acc[1], acc[0]));
  }
};

struct F16Decoder : PairDecoder {
  using Loaded = VF;
  static constexpr int kPerWord = 2;
  static constexpr int kSteps = 1;

  HWY_INLINE explicit F16Decoder(const TileFormat&) {}

  HWY_INLINE VF load(const std::uint8_t* line, int slot) const {
    return load_f16(line + 2 * kN * slot);
  }
  template <int kStep>
  HWY_INLINE VF value(VF loaded) const {
    return loaded;
  }
};

/// e4m3 bits in the upper byte of 16-bit words -> 2^-8 of their values: s eeee mmm moves to
/// s 0eeee mmm0000000, an f16 with another exponent bias. Subnormals are right, and f16 converts
/// them without the penalty that subnormals of f32 have.
template <class V16>
HWY_INLINE VF e4m3_of_upper(V16 upper) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const hn::Rebind<std::int16_t, DF> di16;
  const hn::Rebind<hwy::float16_t, DF> df16;
  const auto moved = hn::BitCast(d16, hn::ShiftRight<1>(hn::BitCast(di16, upper)));
  return hn::PromoteTo(DF(), hn::BitCast(df16, hn::And(moved, hn::Set(d16, 0xbf80))));
}

struct E4m3Decoder : PairDecoder {
  using D16 = hn::Rebind<std::uint16_t, DF>;
  using D8 = hn::Repartition<std::uint8_t, D16>;
  using Loaded = hn::Vec<D8>;
  static constexpr int kPerWord = 4;
  static constexpr int kSteps = 2;

  HWY_INLINE explicit E4m3Decoder(const TileFormat&) {}

  HWY_INLINE Loaded load(const std::uint8_t* line, int slot) const {
    return hn::LoadU(D8(), line + 2 * kN * slot);
  }
  /// Bytes 2 step and 2 step + 1 of every word go to the upper bytes of two halves.
  template <int kStep>
  HWY_INLINE VF value(Loaded words) const {
    HWY_ALIGN static constexpr std::uint8_t kOrder[2][16] = {
        {128, 0, 128, 1, 128, 4, 128, 5, 128, 8, 128, 9, 128, 12, 128, 13},
        {128, 2, 128, 3, 128, 6, 128, 7, 128, 10, 128, 11, 128, 14, 128, 15}};
    const auto order = hn::LoadDup128(D8(), kOrder[kStep]);
    return e4m3_of_upper(hn::BitCast(D16(), hn::TableLookupBytesOr0(words, order)));
  }
};

/// What levels must be multiplied with because their decoder leaves it out.
HWY_INLINE float level_factor(const TileFormat& f) {
  return f.level == TileFormat::Level::e4m3 ? 256.0f : 1.0f;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_TARGET == HWY_AVX2
#include "table4_avx2-inl.h"
#endif

#endif  // include guard
