// Rows on their way into a cache or to attention: storage types, with clamping or as they are, and the
// Hadamard transform in registers.
// Bits are those of cache/raw_store.cpp's plain loops and of transform/hadamard.hpp.

#if defined(KVCODEC_CPU_TURN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_TURN_INL_H_
#undef KVCODEC_CPU_TURN_INL_H_
#else
#define KVCODEC_CPU_TURN_INL_H_
#endif

#include <cmath>

#include "coders-inl.h"
#include "rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Values limited to +-limit, NaN 0, and the largest magnitude's bits seen so far.
struct Clamp {
  HWY_INLINE explicit Clamp(float limit)
      : most(hn::Set(DF(), limit)), top(hn::Zero(DU())), limit_bits(limit) {}

  HWY_INLINE VF operator()(VF x) {
    top = hn::Max(top, hn::And(hn::BitCast(DU(), x), hn::Set(DU(), 0x7fffffffu)));
    const VF number = hn::IfThenElseZero(hn::Eq(x, x), x);
    return hn::Max(hn::Min(number, most), hn::Neg(most));
  }
  HWY_INLINE bool clamped() const {
    return hn::GetLane(hn::MaxOfLanes(DU(), top)) > __builtin_bit_cast(std::uint32_t, limit_bits);
  }

  VF most;
  VU top;
  float limit_bits;
};

/// A LoadRow.
template <DType kType>
void load_whole_row(const void* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += kN) hn::StoreU(load_row<kType>(from, i), DF(), to + i);
}

/// A LoadClamped.
template <DType kType>
bool load_clamped(const void* from, std::int64_t n, float limit, float* to) {
  Clamp clamp(limit);
  for (std::int64_t i = 0; i < n; i += kN) {
    hn::StoreU(clamp(load_row<kType>(from, i)), DF(), to + i);
  }
  return clamp.clamped();
}

/// A StoreClamped.
template <DType kType>
bool store_clamped(const float* from, std::int64_t n, void* to) {
  Clamp clamp(dtype_max(kType));
  for (std::int64_t i = 0; i < n; i += kN) {
    const VF x = clamp(hn::LoadU(DF(), from + i));
    const hn::Rebind<std::uint16_t, DF> d16;
    if constexpr (kType == DType::f32) {
      hn::StoreU(x, DF(), static_cast<float*>(to) + i);
    } else if constexpr (kType == DType::f16) {
      const hn::Rebind<hwy::float16_t, DF> df16;
      hn::StoreU(hn::BitCast(d16, hn::DemoteTo(df16, x)), d16, static_cast<std::uint16_t*>(to) + i);
    } else {
      const VU bits = bf16_bits(x);
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), bits)), d16,
                 static_cast<std::uint16_t*>(to) + i);
    }
  }
  return clamp.clamped();
}

// ---- Walsh-Hadamard ----

/// Lane i ^ kDistance of every lane i.
template <int kDistance>
HWY_INLINE VF partner(VF x) {
  if constexpr (kDistance == 1) return hn::Shuffle2301(x);
  else if constexpr (kDistance == 2) return hn::Shuffle1032(x);
  else if constexpr (2 * kDistance == kN) return hn::ConcatLowerUpper(DF(), x, x);
  else return hn::SwapAdjacentBlocks(x);
}

/// Sums in lanes whose bit kDistance is 0, differences in the others: x times +-1 is exact, so each is
/// rounded once.
template <int kDistance, int kCount>
HWY_INLINE void pair_lanes(VF (&x)[kCount]) {
  HWY_ALIGN float signs[kN];
  for (int i = 0; i < kN; ++i) signs[i] = (i & kDistance) != 0 ? -1.0f : 1.0f;
  const VF sign = hn::Load(DF(), signs);
  KVCODEC_UNROLL
  for (int j = 0; j < kCount; ++j) x[j] = hn::MulAdd(x[j], sign, partner<kDistance>(x[j]));
}

template <int kHalf, int kCount>
HWY_INLINE void pair_vectors(VF (&x)[kCount]) {
  KVCODEC_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if ((j & kHalf) != 0) continue;
    const VF a = x[j];
    const VF b = x[j + kHalf];
    x[j] = hn::Add(a, b);
    x[j + kHalf] = hn::Sub(a, b);
  }
  if constexpr (2 * kHalf < kCount) pair_vectors<2 * kHalf>(x);
}

/// x [kSize] <- signs, H x / sqrt(kSize), or with `back` H x / sqrt(kSize), signs. flips [kSize]: the
/// sign bit where a channel's sign turns, else 0; null: none turns.
template <int kSize>
HWY_NOINLINE void turn_piece(float* x, const std::uint32_t* flips, bool back) {
  constexpr int kCount = kSize / kN;
  VF v[kCount];
  const auto turned = [flips](VF value, int j) {
    return hn::BitCast(DF(), hn::Xor(hn::BitCast(DU(), value), hn::LoadU(DU(), flips + j * kN)));
  };
  KVCODEC_UNROLL
  for (int j = 0; j < kCount; ++j) {
    v[j] = hn::LoadU(DF(), x + j * kN);
    if (flips != nullptr && !back) v[j] = turned(v[j], j);
  }
  pair_lanes<1>(v);
  pair_lanes<2>(v);
  if constexpr (kN > 4) pair_lanes<4>(v);
  if constexpr (kN > 8) pair_lanes<8>(v);
  if constexpr (kCount > 1) pair_vectors<1>(v);
  const VF norm = hn::Set(DF(), 1.0f / std::sqrt(static_cast<float>(kSize)));
  KVCODEC_UNROLL
  for (int j = 0; j < kCount; ++j) {
    v[j] = hn::Mul(v[j], norm);
    if (flips != nullptr && back) v[j] = turned(v[j], j);
    hn::StoreU(v[j], DF(), x + j * kN);
  }
}

/// A HadamardRow: the pieces of Hadamard::for_each_piece.
inline void hadamard_row(int head_dim, const std::uint32_t* flips, bool back, float* x) {
  for (int first = 0, size = kMaxHeadDim; first < head_dim;) {
    if (head_dim - first < size) {
      size /= 2;
      continue;
    }
    const std::uint32_t* own = flips == nullptr ? nullptr : flips + first;
    switch (size) {
      case 256: turn_piece<256>(x + first, own, back); break;
      case 128: turn_piece<128>(x + first, own, back); break;
      case 64: turn_piece<64>(x + first, own, back); break;
      case 32: turn_piece<32>(x + first, own, back); break;
      default: turn_piece<16>(x + first, own, back); break;
    }
    first += size;
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
