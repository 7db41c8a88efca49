#include "examples/llama/kernels.hpp"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "examples/llama/kernels.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
// After highway.h, which it builds upon.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace llama {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that two vectors always fit into a panel.
using Lanes = hn::CappedTag<float, 16>;
constexpr Lanes kD;

// Four rows by two vectors: eight independent sums hide the latency of a multiply-add, and each
// loaded weight is used four times.
HWY_INLINE void four_rows(const float* HWY_RESTRICT x, std::int64_t x_stride, std::int64_t k,
                          const float* HWY_RESTRICT panel, const float* start,
                          std::int64_t start_stride, float* y, std::int64_t y_stride) {
  const auto lanes = hn::Lanes(kD);
  const float* start1 = start + start_stride;
  const float* start2 = start1 + start_stride;
  const float* start3 = start2 + start_stride;
  auto a0 = hn::LoadU(kD, start), a1 = hn::LoadU(kD, start + lanes);
  auto b0 = hn::LoadU(kD, start1), b1 = hn::LoadU(kD, start1 + lanes);
  auto c0 = hn::LoadU(kD, start2), c1 = hn::LoadU(kD, start2 + lanes);
  auto d0 = hn::LoadU(kD, start3), d1 = hn::LoadU(kD, start3 + lanes);
  const float* x1 = x + x_stride;
  const float* x2 = x1 + x_stride;
  const float* x3 = x2 + x_stride;
  for (std::int64_t i = 0; i < k; ++i) {
    const auto w0 = hn::LoadU(kD, panel + i * kPanelColumns);
    const auto w1 = hn::LoadU(kD, panel + i * kPanelColumns + lanes);
    const auto xa = hn::Set(kD, x[i]), xb = hn::Set(kD, x1[i]);
    const auto xc = hn::Set(kD, x2[i]), xd = hn::Set(kD, x3[i]);
    a0 = hn::MulAdd(xa, w0, a0);
    a1 = hn::MulAdd(xa, w1, a1);
    b0 = hn::MulAdd(xb, w0, b0);
    b1 = hn::MulAdd(xb, w1, b1);
    c0 = hn::MulAdd(xc, w0, c0);
    c1 = hn::MulAdd(xc, w1, c1);
    d0 = hn::MulAdd(xd, w0, d0);
    d1 = hn::MulAdd(xd, w1, d1);
  }
  hn::StoreU(a0, kD, y);
  hn::StoreU(a1, kD, y + lanes);
  hn::StoreU(b0, kD, y + y_stride);
  hn::StoreU(b1, kD, y + y_stride + lanes);
  hn::StoreU(c0, kD, y + 2 * y_stride);
  hn::StoreU(c1, kD, y + 2 * y_stride + lanes);
  hn::StoreU(d0, kD, y + 3 * y_stride);
  hn::StoreU(d1, kD, y + 3 * y_stride + lanes);
}

// One row by four vectors (16 lanes make that the whole panel).
HWY_INLINE void one_row(const float* HWY_RESTRICT x, std::int64_t k,
                        const float* HWY_RESTRICT panel, const float* start, float* y) {
  const auto lanes = hn::Lanes(kD);
  auto a0 = hn::LoadU(kD, start), a1 = hn::LoadU(kD, start + lanes);
  auto a2 = hn::LoadU(kD, start + 2 * lanes), a3 = hn::LoadU(kD, start + 3 * lanes);
  for (std::int64_t i = 0; i < k; ++i) {
    const float* w = panel + i * kPanelColumns;
    const auto xi = hn::Set(kD, x[i]);
    a0 = hn::MulAdd(xi, hn::LoadU(kD, w), a0);
    a1 = hn::MulAdd(xi, hn::LoadU(kD, w + lanes), a1);
    a2 = hn::MulAdd(xi, hn::LoadU(kD, w + 2 * lanes), a2);
    a3 = hn::MulAdd(xi, hn::LoadU(kD, w + 3 * lanes), a3);
  }
  hn::StoreU(a0, kD, y);
  hn::StoreU(a1, kD, y + lanes);
  hn::StoreU(a2, kD, y + 2 * lanes);
  hn::StoreU(a3, kD, y + 3 * lanes);
}

void matmul_panel(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                  const float* panel, const float* start, std::int64_t start_stride, float* y,
                  std::int64_t y_stride) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
  const std::int64_t n4 = n - n % 4;
  for (std::int64_t c = 0; c < kPanelColumns; c += 2 * lanes) {
    for (std::int64_t r = 0; r < n4; r += 4) {
      four_rows(x + r * x_stride, x_stride, k, panel + c, start + r * start_stride + c,
                start_stride, y + r * y_stride + c, y_stride);
    }
  }
  for (std::int64_t r = n4; r < n; ++r) {
    for (std::int64_t c = 0; c < kPanelColumns; c += 4 * lanes) {
      one_row(x + r * x_stride, k, panel + c, start + r * start_stride + c, y + r * y_stride + c);
    }
  }
}

void unpack_panel(const std::uint8_t* codes, std::int64_t k, const float* step, const float* low,
                  float* out) {
  const hn::Rebind<std::int32_t, Lanes> ints;
  const hn::Rebind<std::uint8_t, Lanes> bytes;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
  constexpr std::int64_t kHalf = kPanelColumns / 2;
  for (std::int64_t c = 0; c < kHalf; c += lanes) {
    const auto step0 = hn::LoadU(kD, step + c), step1 = hn::LoadU(kD, step + kHalf + c);
    const auto low0 = hn::LoadU(kD, low + c), low1 = hn::LoadU(kD, low + kHalf + c);
    for (std::int64_t i = 0; i < k; ++i) {
      const auto both = hn::PromoteTo(ints, hn::LoadU(bytes, codes + i * kHalf + c));
      const auto code0 = hn::ConvertTo(kD, hn::And(both, hn::Set(ints, 15)));
      const auto code1 = hn::ConvertTo(kD, hn::ShiftRight<4>(both));
      float* row = out + i * kPanelColumns + c;
      hn::StoreU(hn::MulAdd(code0, step0, low0), kD, row);
      hn::StoreU(hn::MulAdd(code1, step1, low1), kD, row + kHalf);
    }
  }
}

void silu_multiply(const float* gate, const float* up, std::int64_t n, float* out) {
  const auto one = hn::Set(kD, 1.0f);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto g = hn::LoadU(kD, gate + i);
    const auto denominator = hn::Add(one, hn::Exp(kD, hn::Neg(g)));
    hn::StoreU(hn::Mul(hn::Div(g, denominator), hn::LoadU(kD, up + i)), kD, out + i);
  }
  for (; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void softmax(float* x, std::int64_t n) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
  const float top = *std::max_element(x, x + n);
  const auto tops = hn::Set(kD, top);
  auto sums = hn::Zero(kD);
  float sum = 0.0f;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto e = hn::Exp(kD, hn::Sub(hn::LoadU(kD, x + i), tops));
    sums = hn::Add(sums, e);
    hn::StoreU(e, kD, x + i);
  }
  for (; i < n; ++i) {
    x[i] = std::exp(x[i] - top);
    sum += x[i];
  }
  sum += hn::GetLane(hn::SumOfLanes(kD, sums));
  for (i = 0; i < n; ++i) x[i] /= sum;
}

void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
  auto sums = hn::Zero(kD);
  float sum = 0.0f;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(kD, x + i);
    sums = hn::MulAdd(v, v, sums);
  }
  for (; i < n; ++i) sum += x[i] * x[i];
  sum += hn::GetLane(hn::SumOfLanes(kD, sums));
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  for (i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace llama
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llama {

HWY_EXPORT(matmul_panel);
HWY_EXPORT(unpack_panel);
HWY_EXPORT(silu_multiply);
HWY_EXPORT(softmax);
HWY_EXPORT(rms_norm);

void matmul_panel(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                  const float* panel, const float* start, std::int64_t start_stride, float* y,
                  std::int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(matmul_panel)
  (x, x_stride, n, k, panel, start, start_stride, y, y_stride);
}

void unpack_panel(const std::uint8_t* codes, std::int64_t k, const float* step, const float* low,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(unpack_panel)(codes, k, step, low, out);
}

void silu_multiply(const float* gate, const float* up, std::int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(silu_multiply)(gate, up, n, out);
}

void softmax(float* x, std::int64_t n) { HWY_DYNAMIC_DISPATCH(softmax)(x, n); }

void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(x, weight, n, eps, out);
}

}  // namespace llama
#endif  // HWY_ONCE
