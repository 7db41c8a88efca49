// The inner loops of the model, compiled once per instruction set and chosen at run time.
//
// Every output value is computed by the same operations in the same order however many rows are
// asked for at once, so a token's result does not depend on the chunk or batch it came in.
#pragma once

#include <cstdint>

namespace llama {

/// Columns of a panel: see PackedMatrix.
inline constexpr std::int64_t kPanelColumns = 64;

/// y [n, 64] = start [n, 64] + x [n, k] . panel [k, 64], summed from the first row of the panel to
/// the last. Strides count elements; start_stride 0 starts every row alike (a bias), start may be y
/// (the sum goes on).
void matmul_panel(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                  const float* panel, const float* start, std::int64_t start_stride, float* y,
                  std::int64_t y_stride);

/// out [k, 64] = low [64] + step [64] * codes [k, 64]. A row of codes is 32 bytes: byte i holds
/// column i in its low half and column i + 32 in its high half. Steps are f16 values, so that the
/// product is exact and out is rounded once.
void unpack_panel(const std::uint8_t* codes, std::int64_t k, const float* step, const float* low,
                  float* out);

/// out [n] = silu(gate [n]) * up [n].
void silu_multiply(const float* gate, const float* up, std::int64_t n, float* out);

/// x [n] <- exp(x - max(x)) / sum of the same; n >= 1.
void softmax(float* x, std::int64_t n);

/// out [n] = x / sqrt(mean(x^2) + eps) * weight.
void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out);

}  // namespace llama
