// Kernels in integers: with AMX, with AVX-512 VNNI and VBMI, and with AVX2. AVX-512 without them has none.
#include "integer.hpp"

#include <algorithm>
#include <cmath>

#include "kernels.hpp"
#include "matrix.hpp"

#if !defined(KVCODEC_NO_SIMD)

#define HWY_WANT_AVX3_DL 1
#if !defined(KVCODEC_AVX512_TARGET)  // this file includes itself
#define KVCODEC_AVX512_TARGET HWY_AVX3_DL
#endif
#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_integer.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
#include "integer_add-inl.h"
#include "integer_bits-inl.h"
#include "integer_score-inl.h"
#include "integer_sketch-inl.h"
#if HWY_TARGET == HWY_AVX3_DL
#include "integer_matrix-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// each.operator()<kind, Bytes>() for the kinds whose levels are bytes.
template <class Each>
void for_byte_kinds(const Each& each) noexcept {
  each.template operator()<kInt8, PlainBytes<true>>();
  each.template operator()<kUint8, PlainBytes<false>>();
  each.template operator()<kTable2, TableBytes<2>>();
  each.template operator()<kTable3, Table3Bytes>();
  each.template operator()<kTable4, TableBytes<4>>();
}

void fill_kernels(Kernels& table) noexcept {
  for_byte_kinds([&]<FormatKind kKind, class Bytes>() {
    table.prepare_integers[kKind] = prepare_integers<Bytes>;
    table.score_integers[kKind] = score_integers<Bytes>;
    table.add_integers[kKind] = add_integers<Bytes>;
    table.level_steps[kKind] = Bytes::kLevelSteps;
  });
  table.prepare_integers[kTable1] = prepare_signs;
  table.score_integers[kTable1] = score_signs_integers;
  table.prepare_sketch = prepare_sketch;
  table.score_sketch_integers = score_sketch_integers;
  table.score_run_integers[kTable2] = score_run_integers<TableBytes<2>>;
  table.score_run_integers[kTable4] = score_run_integers<TableBytes<4>>;
}

#if HWY_TARGET == HWY_AVX3_DL
/// To be called after fill_kernels().
void fill_matrix_kernels(Kernels& table) noexcept {
  for_byte_kinds([&]<FormatKind kKind, class Bytes>() {
    table.score_integers[kKind] = score_matrices<Bytes>;
    table.add_integers[kKind] = add_matrices<Bytes>;
  });
  table.begin_unit = begin_matrices;
  table.end_unit = end_matrices;
}
#endif

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD

#if defined(KVCODEC_NO_SIMD) || HWY_ONCE
namespace kvcodec::cpu {

void fill_integer_kernels([[maybe_unused]] Kernels& table, [[maybe_unused]] bool avx512) noexcept {
#if !defined(KVCODEC_NO_SIMD) && (HWY_TARGETS & HWY_AVX3_DL)
  if (avx512 && (hwy::SupportedTargets() & HWY_AVX3_DL) != 0) N_AVX3_DL::fill_kernels(table);
#endif
#if !defined(KVCODEC_NO_SIMD) && (HWY_TARGETS & HWY_AVX2)
  if (!avx512) N_AVX2::fill_kernels(table);
#endif
}

const Kernels* matrix_kernels() noexcept {
#if !defined(KVCODEC_NO_SIMD) && (HWY_TARGETS & HWY_AVX3_DL)
  static const Kernels table = [] {
    Kernels t = {};
    const bool known = (hwy::SupportedTargets() & HWY_AVX3_DL) != 0 && processor_has_matrices();
    const Kernels* vectors = known ? simd_kernels(HWY_AVX3) : nullptr;
    if (vectors == nullptr) return t;
    t = *vectors;
    t.isa = "amx";
    t.vectors = vectors;
    N_AVX3_DL::fill_matrix_kernels(t);
    return t;
  }();
  return table.vectors != nullptr ? &table : nullptr;
#else
  return nullptr;
#endif
}

namespace {

constexpr int kMostLevels = 16;

/// How many numbers of steps are tried: what instruction sets ask for is less than that above one where evenly
/// spaced levels, and for 4 bits those of 4-bit floats, are exact: a multiple of 3, 7 or 15, and of 12.
constexpr int kTried = 8;

/// To nearest, |x| <= 127. Calls of std::round would be most of the time of a short call of attention.
int rounded(float x) noexcept { return static_cast<int>(x + 256.5f) - 256; }

/// Of `most`, most - 1, .. steps to the largest of levels x [kMostLevels], the steps per 1 that lose least when levels
/// are rounded to them and four rows are averaged: single errors become smaller in that, their mean does not.
/// NF4 in 124 steps has the smallest squares, but a mean that is half of the error of a long attention's output.
float best_steps(const float* x, float largest, int most) noexcept {
  float scale[kTried];
  float unit[kTried];
  float sum[kTried] = {};
  float squares[kTried] = {};
  for (int t = 0; t < kTried; ++t) {
    scale[t] = static_cast<float>(most - t) / largest;
    unit[t] = 1.0f / scale[t];
  }
  for (int i = 0; i < kMostLevels; ++i) {
    for (int t = 0; t < kTried; ++t) {
      const float error = x[i] - static_cast<float>(rounded(x[i] * scale[t])) * unit[t];
      sum[t] += error;
      squares[t] += error * error;
    }
  }
  float loss[kTried];
  for (int t = 0; t < kTried; ++t) loss[t] = sum[t] * sum[t] + 4.0f * squares[t];
  return scale[std::min_element(loss, loss + kTried) - loss];
}

}  // namespace

IntegerLevels integer_levels(const TileFormat& f, int steps) noexcept {
  IntegerLevels out = {};
  if (f.level != TileFormat::Level::table) {
    out.unit = 1.0f;
    return out;
  }
  const int n = 1 << f.bits;
  const float center = f.zero_offset == 0 ? 0.0f : 0.5f * (f.table[0] + f.table[n - 1]);
  float x[kMostLevels];  // over and over
  float largest = 0.0f;
  for (int i = 0; i < kMostLevels; ++i) {
    x[i] = f.table[i % n] - center;
    largest = std::fmax(largest, std::fabs(x[i]));
  }
  const float best = best_steps(x, largest, steps);
  for (int i = 0; i < 64; ++i) {
    out.bytes[i] = static_cast<std::uint8_t>(steps + 1 + rounded(x[i % kMostLevels] * best));
  }
  out.unit = 1.0f / best;
  return out;
}

}  // namespace kvcodec::cpu
#endif
