// Kernels in integers, for machines with AVX-512 VNNI and VBMI; others have none.
#include "integer.hpp"

#include <cmath>

#include "kernels.hpp"

#if !defined(KVCODEC_NO_SIMD)

// One target only: what AVX2 lacks makes integers no faster there than f32 (docs/performance.md).
#define HWY_WANT_AVX3_DL 1
#undef HWY_DISABLED_TARGETS
#if defined(__x86_64__) || defined(_M_X64)
#define HWY_DISABLED_TARGETS (~(HWY_AVX3_DL | HWY_EMU128 | HWY_SCALAR))
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_integer.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_DL
#include "integer_add-inl.h"
#include "integer_score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

template <FormatKind kKind, class Bytes>
void fill(Kernels& table) noexcept {
  table.prepare_integers[kKind] = prepare_integers<Bytes::kParts>;
  table.score_integers[kKind] = score_integers<Bytes>;
  table.add_integers[kKind] = add_integers<Bytes>;
}

void fill_kernels(Kernels& table) noexcept {
  fill<kInt8, PlainBytes<true>>(table);
  fill<kUint8, PlainBytes<false>>(table);
  fill<kTable2, TableBytes<2>>(table);
  fill<kTable3, Table3Bytes>(table);
  fill<kTable4, TableBytes<4>>(table);
  table.score_run_integers[kTable2] = score_run_integers<TableBytes<2>>;
  table.score_run_integers[kTable4] = score_run_integers<TableBytes<4>>;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD

#if defined(KVCODEC_NO_SIMD) || HWY_ONCE
namespace kvcodec::cpu {

void fill_integer_kernels([[maybe_unused]] Kernels& table) noexcept {
#if !defined(KVCODEC_NO_SIMD) && (HWY_TARGETS & HWY_AVX3_DL)
  if ((hwy::SupportedTargets() & HWY_AVX3_DL) != 0) N_AVX3_DL::fill_kernels(table);
#endif
}

namespace {

/// Sum of squares that is lost when levels are rounded to multiples of 1 / steps.
float rounding_loss(const float* x, int n, float steps) noexcept {
  float loss = 0.0f;
  for (int i = 0; i < n; ++i) {
    const float error = x[i] - std::round(x[i] * steps) / steps;
    loss += error * error;
  }
  return loss;
}

}  // namespace

IntegerLevels integer_levels(const TileFormat& f) noexcept {
  IntegerLevels out = {};
  if (f.level != TileFormat::Level::table) {
    out.unit = 1.0f;
    return out;
  }
  const int n = 1 << f.bits;
  const float center = f.zero_offset == 0 ? 0.0f : 0.5f * (f.table[0] + f.table[n - 1]);
  float x[16];
  float largest = 0.0f;
  for (int i = 0; i < n; ++i) {
    x[i] = f.table[i] - center;
    largest = std::fmax(largest, std::fabs(x[i]));
  }
  // Evenly spaced levels are exact with whole steps to 1.
  const float most = 127.0f / largest;
  const float whole = std::floor(most);
  const bool exact = whole >= 1.0f && rounding_loss(x, n, whole) <= rounding_loss(x, n, most);
  const float steps = exact ? whole : most;
  for (int i = 0; i < 64; ++i) {
    out.bytes[i] = static_cast<std::uint8_t>(128.0f + std::round(x[i % n] * steps));
  }
  out.unit = 1.0f / steps;
  return out;
}

}  // namespace kvcodec::cpu
#endif
