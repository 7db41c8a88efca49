// Coders: how f32 values become codes, one per kind of code (encode-inl.h packs them).
//
// with the members that packing needs:
//
//   kBits           bits of a code
//   kParams         parameters of a value: vectors p[0], p[1]
//   code(x, p)      codes in the low kBits bits of words; the others are zero
//
// The bits are those of the codecs' own functions: the same divisions and products, none fused.

#if defined(KVCODEC_CPU_CODERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_CODERS_INL_H_
#undef KVCODEC_CPU_CODERS_INL_H_
#else
#define KVCODEC_CPU_CODERS_INL_H_
#endif

#include "decoders-inl.h"
#include "encoding.hpp"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

inline constexpr float kInfinity = __builtin_huge_valf();
/// The magic of round_even(): a sum with it has the rounded number in its low bits.
inline constexpr float kRounder = 12582912.0f;

/// 2 * index, plus one where `more`.
template <class M>
HWY_INLINE VU next_index(VU index, M more) {
  const VU twice = hn::Add(index, index);
#if HWY_TARGET == HWY_AVX3
  return VU{_mm512_mask_add_epi32(twice.raw, more.raw, twice.raw, hn::Set(DU(), 1).raw)};
#else
  return hn::Sub(twice, hn::BitCast(DU(), hn::VecFromMask(DF(), more)));
#endif
}

/// 1 where `mask`.
template <class M>
HWY_INLINE VU one_where(M mask) {
  return hn::IfThenElseZero(hn::RebindMask(DU(), mask), hn::Set(DU(), 1));
}

/// code + step where `mask`.
template <int kStep, class M>
HWY_INLINE VU add_where(VU code, M mask) {
  const VU step = hn::Set(DU(), kStep);
#if HWY_TARGET == HWY_AVX3
  return VU{_mm512_mask_add_epi32(code.raw, mask.raw, code.raw, step.raw)};
#else
  return hn::Add(code, hn::IfThenElseZero(hn::RebindMask(DU(), mask), step));
#endif
}

/// Number of ascending thresholds [2^kBits - 1] below a value, by halving: level l of the tree has
/// the 2^l thresholds that decide bit kBits - 1 - l. Where a vector has an entry for every code, an entry
/// stands at the code that is known so far; else at the bits of it that are.
template <int kBits>
struct ThresholdTree {
  static constexpr bool kByCode = (1 << kBits) <= kN;

  HWY_INLINE explicit ThresholdTree(const float* thresholds) {
    for (int level = 0; level < kBits; ++level) {
      HWY_ALIGN float entries[kN];
      const int n = 1 << level;
      const int step = 1 << (kBits - level);
      for (int i = 0; i < kN; ++i) {
        const int known = kByCode ? i % (1 << kBits) / step : i % n;
        entries[i] = thresholds[known * step + step / 2 - 1];
      }
      of[level] = hn::Load(DF(), entries);
    }
  }

  HWY_INLINE VU count(VF x) const {
    if constexpr (kByCode) {
      const auto upper = hn::RebindMask(DU(), hn::Gt(x, of[0]));
      return decide<1>(x, hn::IfThenElseZero(upper, hn::Set(DU(), 1u << (kBits - 1))));
    } else {
      VU index = one_where(hn::Gt(x, of[0]));
      KVCODEC_UNROLL
      for (int level = 1; level < kBits; ++level) {
        index = next_index(index, hn::Gt(x, lookup(of[level], index)));
      }
      return index;
    }
  }

  VF of[kBits];

 private:
  template <int kLevel>
  HWY_INLINE VU decide(VF x, VU code) const {
    if constexpr (kLevel >= kBits) {
      return code;
    } else {
      constexpr int kStep = 1 << (kBits - 1 - kLevel);
      return decide<kLevel + 1>(x, add_where<kStep>(code, hn::Gt(x, lookup(of[kLevel], code))));
    }
  }
};

/// p: divisor, infinite in groups without a scale: their quotients are 0.
template <int kBitsOfCode>
struct TableCoder {
  static constexpr int kBits = kBitsOfCode;
  static constexpr int kParams = 1;

  HWY_INLINE explicit TableCoder(const TileEncoding& e) : tree(e.thresholds) {}
  HWY_INLINE VU code(VF x, const VF* p) const { return tree.count(hn::Div(x, p[0])); }

  ThresholdTree<kBits> tree;
};

/// For tables where the code of 0 is not that of groups without a scale. p[1]: the least quotient, -inf or
/// in such groups one that gives their code.
struct FloorTableCoder : TableCoder<4> {
  static constexpr int kParams = 2;

  HWY_INLINE explicit FloorTableCoder(const TileEncoding& e) : TableCoder<4>(e) {}
  HWY_INLINE VU code(VF x, const VF* p) const {
    return tree.count(hn::Max(hn::Div(x, p[0]), p[1]));
  }
};

/// p: divisor, zero. The quotient is limited to 0..largest before it is rounded.
template <int kBitsOfCode>
struct AffineCoder {
  static constexpr int kBits = kBitsOfCode;
  static constexpr int kParams = 2;

  HWY_INLINE explicit AffineCoder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF* p) const {
    const VF largest = hn::Set(DF(), static_cast<float>((1 << kBits) - 1));
    const VF ratio = hn::Div(hn::Sub(x, p[1]), p[0]);
    const VF limited = hn::Min(hn::Max(ratio, hn::Zero(DF())), largest);
    const VF shifted = hn::Add(limited, hn::Set(DF(), kRounder));
    return hn::And(hn::BitCast(DU(), shifted), hn::Set(DU(), (1u << kBits) - 1u));
  }
};

/// Codes of "rabitq" by rule `fast`: floor(factor * |x| / rms), limited, and a sign.
template <int kBits>
struct MagnitudeCoder {
  HWY_INLINE explicit MagnitudeCoder(const TileEncoding& e) : factor(hn::Set(DF(), e.multiplier)) {}
  HWY_INLINE VU code(VF x, VF rms) const {
    constexpr int kHalf = 1 << (kBits - 1);
    const VF scaled = hn::Mul(factor, hn::Div(hn::Abs(x), rms));
    const VF limited = hn::Min(scaled, hn::Set(DF(), static_cast<float>(kHalf - 1)));
    const VU up = hn::BitCast(DU(), hn::Add(hn::ConvertTo(DI(), limited), hn::Set(DI(), kHalf)));
    const auto positive = hn::RebindMask(DU(), hn::Gt(x, hn::Zero(DF())));
    return hn::IfThenElse(positive, up, hn::Sub(hn::Set(DU(), 2 * kHalf - 1), up));
  }

  VF factor;
};

/// Of codes that stand in the values' place.
template <int kBitsOfCode>
struct KeptCoder {
  static constexpr int kBits = kBitsOfCode;
  static constexpr int kParams = 0;

  HWY_INLINE explicit KeptCoder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF*) const { return hn::BitCast(DU(), x); }
};

/// p: divisor. Scales are rounded up, so that a quotient is never beyond +-127.
struct Int8Coder {
  static constexpr int kBits = 8;
  static constexpr int kParams = 1;

  HWY_INLINE explicit Int8Coder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF* p) const {
    const VF shifted = hn::Add(hn::Div(x, p[0]), hn::Set(DF(), kRounder));
    return hn::And(hn::BitCast(DU(), shifted), hn::Set(DU(), 0xff));
  }
};

/// Bits of to_e4m3(x) for finite x.
HWY_INLINE VU e4m3_bits(VF x) {
  const VU bits = hn::BitCast(DU(), x);
  const VU sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(DU(), 0x80));
  const VF magnitude = hn::Min(hn::Abs(x), hn::Set(DF(), 448.0f));
  const VU rebased = hn::Sub(hn::BitCast(DU(), magnitude), hn::Set(DU(), 0x3c000000u));
  const VU odd = hn::And(hn::ShiftRight<20>(rebased), hn::Set(DU(), 1));
  const VU normal = hn::ShiftRight<20>(hn::Add(hn::Add(rebased, hn::Set(DU(), 0x7ffffu)), odd));
  // Below 2^-6 a unit is 2^-9.
  const VF units = hn::Add(hn::Mul(magnitude, hn::Set(DF(), 512.0f)), hn::Set(DF(), kRounder));
  const VU small = hn::And(hn::BitCast(DU(), units), hn::Set(DU(), 0xf));
  const auto is_small = hn::RebindMask(DU(), hn::Lt(magnitude, hn::Set(DF(), 0x1p-6f)));
  return hn::Or(sign, hn::IfThenElse(is_small, small, normal));
}

/// p: divisor, and all ones or, where every code is to be 0, all zeros.
struct E4m3Coder {
  static constexpr int kBits = 8;
  static constexpr int kParams = 2;

  HWY_INLINE explicit E4m3Coder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF* p) const {
    return hn::And(e4m3_bits(hn::Div(x, p[0])), hn::BitCast(DU(), p[1]));
  }
};

/// Bits of e2m1 codes by halving, as ThresholdTree, but thresholds are midpoints times the unit, and of
/// a value equal to one the code is even. p: unit, mask as for e4m3.
struct E2m1Coder {
  static constexpr int kBits = 4;
  static constexpr int kParams = 2;

  HWY_INLINE explicit E2m1Coder(const TileEncoding&) {
    HWY_ALIGN float entries[kN];
    for (int i = 0; i < kN; ++i) entries[i] = i % 2 == 0 ? 0.75f : 3.5f;
    middle = hn::Load(DF(), entries);
    constexpr float kEven[4] = {0.25f, 1.25f, 2.5f, 5.0f};
    for (int i = 0; i < kN; ++i) entries[i] = kEven[i % 4];
    last = hn::Load(DF(), entries);
  }
  HWY_INLINE VU code(VF x, const VF* p) const {
    const VF magnitude = hn::Abs(x);
    VU index = one_where(hn::Ge(magnitude, hn::Mul(hn::Set(DF(), 1.75f), p[0])));
    index = next_index(index, hn::Ge(magnitude, hn::Mul(lookup(middle, index), p[0])));
    index = next_index(index, hn::Gt(magnitude, hn::Mul(lookup(last, index), p[0])));
    const VU sign = hn::And(hn::ShiftRight<28>(hn::BitCast(DU(), x)), hn::Set(DU(), 8));
    return hn::And(hn::Or(sign, index), hn::BitCast(DU(), p[1]));
  }

  VF middle;
  VF last;
};

struct F16Coder {
  static constexpr int kBits = 16;
  static constexpr int kParams = 0;

  HWY_INLINE explicit F16Coder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF*) const {
    const hn::Rebind<std::uint16_t, DF> d16;
    const hn::Rebind<hwy::float16_t, DF> df16;
    return hn::PromoteTo(DU(), hn::BitCast(d16, hn::DemoteTo(df16, x)));
  }
};

/// Bits of to_bf16(x) for finite x.
HWY_INLINE VU bf16_bits(VF x) {
  const VU bits = hn::BitCast(DU(), x);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(DU(), 1));
  return hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(DU(), 0x7fff)), odd));
}

struct Bf16Coder {
  static constexpr int kBits = 16;
  static constexpr int kParams = 0;

  HWY_INLINE explicit Bf16Coder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF*) const { return bf16_bits(x); }
};

struct F32Coder {
  static constexpr int kBits = 32;
  static constexpr int kParams = 0;

  HWY_INLINE explicit F32Coder(const TileEncoding&) {}
  HWY_INLINE VU code(VF x, const VF*) const { return hn::BitCast(DU(), x); }
};

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
