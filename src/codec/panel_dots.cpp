// Highway compiles this file once per target: see foreach_target.h. KVCODEC_NO_SIMD: it is not needed.
#include "src/codec/panel_dots.hpp"

#if defined(KVCODEC_NO_SIMD)

void kvcodec::panel_dots(std::int64_t n, int dim, const float* x, const float* panel,
                         float* dots) noexcept {
  for (std::int64_t row = 0; row < n; ++row) {
    for (int j = 0; j < kPanelRows; ++j) {
      float sum = 0.0f;
      for (int c = 0; c < dim; ++c) sum += x[row * dim + c] * panel[c * kPanelRows + j];
      dots[row * kPanelRows + j] = sum;
    }
  }
}

#else

// Vectors without a fixed length cannot stand in arrays.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/codec/panel_dots.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// kRows rows at once: each value of the panel is loaded once for all of them.
template <int kRows>
HWY_INLINE void rows_times_panel(int dim, const float* x, const float* panel, float* dots) {
  const hn::CappedTag<float, kPanelRows> tag;
  constexpr int kLanesOfVector = static_cast<int>(hn::MaxLanes(tag));
  constexpr int kVectors = kPanelRows / kLanesOfVector;
  hn::VFromD<decltype(tag)> sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(tag);
  }
  for (int c = 0; c < dim; ++c, panel += kPanelRows) {
    for (int v = 0; v < kVectors; ++v) {
      const auto column = hn::LoadU(tag, panel + v * kLanesOfVector);
      for (int r = 0; r < kRows; ++r) {
        const auto value = hn::Set(tag, x[r * dim + c]);
        sum[r][v] = hn::Add(sum[r][v], hn::Mul(value, column));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[r][v], tag, dots + r * kPanelRows + v * kLanesOfVector);
    }
  }
}

void panel_dots(std::int64_t n, int dim, const float* x, const float* panel, float* dots) {
  constexpr int kRows = 4;
  std::int64_t row = 0;
  for (; row + kRows <= n; row += kRows) {
    rows_times_panel<kRows>(dim, x + row * dim, panel, dots + row * kPanelRows);
  }
  for (; row < n; ++row) {
    rows_times_panel<1>(dim, x + row * dim, panel, dots + row * kPanelRows);
  }
}

}  // namespace kvcodec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvcodec {

HWY_EXPORT(panel_dots);

void panel_dots(std::int64_t n, int dim, const float* x, const float* panel, float* dots) noexcept {
  HWY_DYNAMIC_DISPATCH(panel_dots)(n, dim, x, panel, dots);
}

}  // namespace kvcodec
#endif  // HWY_ONCE

#endif  // KVCODEC_NO_SIMD
