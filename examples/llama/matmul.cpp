#include "examples/llama/matmul.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "examples/llama/kernels.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

// Rows of one task: enough to use a panel well, few enough to share a prompt among threads.
constexpr std::int64_t kRowTile = 64;

// Below this many multiply-adds, waking other threads costs more than they save.
constexpr std::int64_t kMinParallelWork = std::int64_t{1} << 20;

constexpr std::int64_t kMaxGroup = 128;

// Factors on a group's range that are tried; the best one of Gaussian weights is 0.9 to 0.95.
constexpr float kRangeFactors[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.65f, 0.6f};

using Columns = std::array<float, kPanelColumns>;

// Step and low end, as stored, of a range shrunk about its middle.
struct Ends {
  Columns step, low;
};

Ends shrunk(const Columns& low, const Columns& high, const Columns& factor) {
  Ends out{};
  for (std::size_t c = 0; c < low.size(); ++c) {
    const float middle = 0.5f * low[c] + 0.5f * high[c];
    const float half = factor[c] * (0.5f * high[c] - 0.5f * low[c]);
    const float end = kvcodec::clamp_finite(middle - half, kvcodec::kF16Max);
    out.low[c] = to_f32(kvcodec::to_f16(end));
    out.step[c] =
        to_f32(kvcodec::to_f16(kvcodec::clamp_finite(half * (2.0f / 15.0f), kvcodec::kF16Max)));
  }
  return out;
}

// 1 / step, or 0 where all weights are alike and get code 0.
Columns reciprocals(const Columns& step) {
  Columns out;
  for (std::size_t c = 0; c < step.size(); ++c) out[c] = step[c] > 0.0f ? 1.0f / step[c] : 0.0f;
  return out;
}

int code_of(float weight, float low, float reciprocal) {
  const float place = (weight - low) * reciprocal;
  return kvcodec::round_even(place > 0.0f ? std::min(place, 15.0f) : 0.0f);  // NaN gives 0
}

// Squared error of every column.
Columns errors(const float* weights, std::int64_t rows, const Ends& ends) {
  const Columns reciprocal = reciprocals(ends.step);
  Columns sum{};
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* w = weights + i * kPanelColumns;
    for (std::size_t c = 0; c < sum.size(); ++c) {
      const int code = code_of(w[c], ends.low[c], reciprocal[c]);
      const float rest = w[c] - (ends.low[c] + ends.step[c] * static_cast<float>(code));
      sum[c] += rest * rest;
    }
  }
  return sum;
}

// The ends that quantized() documents, for one group of one panel.
Ends best_ends(const float* weights, std::int64_t rows, float clip) {
  Columns low, high, factor, least;
  low.fill(std::numeric_limits<float>::infinity());
  high.fill(-std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* w = weights + i * kPanelColumns;
    for (std::size_t c = 0; c < low.size(); ++c) {
      low[c] = std::min(low[c], w[c]);
      high[c] = std::max(high[c], w[c]);
    }
  }
  factor.fill(1.0f);
  least.fill(std::numeric_limits<float>::infinity());
  for (const float candidate : kRangeFactors) {
    Columns all;
    all.fill(candidate);
    const Columns error = errors(weights, rows, shrunk(low, high, all));
    for (std::size_t c = 0; c < error.size(); ++c) {
      if (error[c] >= least[c]) continue;
      least[c] = error[c];
      factor[c] = candidate;
    }
  }
  for (float& f : factor) f *= clip;
  return shrunk(low, high, factor);
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t n_in, std::int64_t n_out) : n_in_(n_in), n_out_(n_out) {
  const std::int64_t padded = (n_out + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  panels_.resize(static_cast<std::size_t>(padded * n_in));
  bias_.resize(static_cast<std::size_t>(padded));
}

PackedMatrix PackedMatrix::from_weight(const float* weight, std::int64_t n_out, std::int64_t n_in,
                                       std::int64_t stride) {
  PackedMatrix m(n_in, n_out);
  for (std::int64_t o = 0; o < n_out; ++o) {
    float* to = m.panels_.data() + o / kPanelColumns * n_in * kPanelColumns + o % kPanelColumns;
    for (std::int64_t i = 0; i < n_in; ++i) to[i * kPanelColumns] = weight[o * stride + i];
  }
  return m;
}

PackedMatrix PackedMatrix::from_rows(const float* b, std::int64_t n_in, std::int64_t n_out,
                                     std::int64_t stride) {
  PackedMatrix m(n_in, n_out);
  for (std::int64_t first = 0; first < n_out; first += kPanelColumns) {
    const std::int64_t columns = std::min(kPanelColumns, n_out - first);
    for (std::int64_t i = 0; i < n_in; ++i) {
      std::copy_n(b + i * stride + first, columns,
                  m.panels_.data() + first * n_in + i * kPanelColumns);
    }
  }
  return m;
}

void PackedMatrix::quantize_panel(const float* panel, float clip, std::uint8_t* codes,
                                  std::uint16_t* ends) {
  constexpr std::int64_t kHalf = kPanelColumns / 2;
  for (std::int64_t first = 0; first < n_in_; first += group_) {
    const std::int64_t rows = std::min(group_, n_in_ - first);
    const float* weights = panel + first * kPanelColumns;
    const Ends best = best_ends(weights, rows, clip);
    const Columns reciprocal = reciprocals(best.step);
    for (const Columns* part : {&best.step, &best.low}) {
      for (const float value : *part) *ends++ = kvcodec::to_f16(value).bits;
    }
    for (std::int64_t i = 0; i < rows; ++i, codes += kHalf) {
      for (std::int64_t c = 0; c < kPanelColumns; ++c) {
        const auto at = static_cast<std::size_t>(c);
        const int code = code_of(weights[i * kPanelColumns + c], best.low[at], reciprocal[at]);
        std::uint8_t& byte = codes[c % kHalf];
        byte = static_cast<std::uint8_t>(c < kHalf ? code : byte | code << 4);
      }
    }
  }
}

PackedMatrix PackedMatrix::quantized(std::int32_t group, float clip,
                                     const kvcodec::Executor& executor) const {
  if (group != 32 && group != 64 && group != 128) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("quantized", "group", group, "32, 64 or 128"));
  }
  if (!(clip > 0.0f && clip <= 1.0f)) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("quantized", "clip", clip, "above 0, at most 1"));
  }
  if (is_quantized()) {
    throw kvcodec::invalid_argument("quantized: the matrix is in 4 bits, allowed: in f32");
  }
  PackedMatrix m;
  m.n_in_ = n_in_;
  m.n_out_ = n_out_;
  m.group_ = group;
  m.bias_ = bias_;
  const auto panels = static_cast<std::int64_t>(bias_.size()) / kPanelColumns;
  const std::int64_t code_bytes = n_in_ * kPanelColumns / 2;
  const std::int64_t n_ends = m.n_groups() * 2 * kPanelColumns;
  m.codes_.resize(static_cast<std::size_t>(panels * code_bytes));
  m.ends_.resize(static_cast<std::size_t>(panels * n_ends));
  executor.parallel_for(panels, [&](std::int64_t p, int) {
    m.quantize_panel(panels_.data() + p * n_in_ * kPanelColumns, clip,
                     m.codes_.data() + p * code_bytes, m.ends_.data() + p * n_ends);
  });
  return m;
}

void PackedMatrix::set_bias(const std::vector<float>& bias) {
  std::copy(bias.begin(), bias.end(), bias_.begin());
}

std::int64_t PackedMatrix::bytes() const noexcept {
  return static_cast<std::int64_t>((panels_.size() + bias_.size()) * sizeof(float) + codes_.size() +
                                   ends_.size() * sizeof(std::uint16_t));
}

// The first `rows` rows of group g of a panel, [rows, 64].
void PackedMatrix::unpack(std::int64_t panel, std::int64_t g, std::int64_t rows, float* out) const {
  const std::uint16_t* ends = ends_.data() + (panel * n_groups() + g) * 2 * kPanelColumns;
  Columns step, low;
  for (std::size_t c = 0; c < step.size(); ++c) {
    step[c] = to_f32(kvcodec::f16{ends[c]});
    low[c] = to_f32(kvcodec::f16{ends[c + step.size()]});
  }
  unpack_panel(codes_.data() + (panel * n_in_ + g * group_) * (kPanelColumns / 2), rows,
               step.data(), low.data(), out);
}

std::vector<float> PackedMatrix::to_rows() const {
  std::vector<float> out(static_cast<std::size_t>(n_in_ * n_out_));
  std::array<float, kMaxGroup * kPanelColumns> buffer;
  for (std::int64_t column = 0; column < n_out_; column += kPanelColumns) {
    const std::int64_t columns = std::min(kPanelColumns, n_out_ - column);
    const std::int64_t step = is_quantized() ? group_ : std::max<std::int64_t>(1, n_in_);
    for (std::int64_t first = 0; first < n_in_; first += step) {
      const std::int64_t rows = std::min(step, n_in_ - first);
      const float* from = panels_.data() + column * n_in_;
      if (is_quantized()) {
        unpack(column / kPanelColumns, first / group_, rows, buffer.data());
        from = buffer.data();
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        std::copy_n(from + i * kPanelColumns, columns, out.data() + (first + i) * n_out_ + column);
      }
    }
  }
  return out;
}

// y [n, 64] of one panel.
void PackedMatrix::multiply_panel(const float* x, std::int64_t x_stride, std::int64_t n,
                                  std::int64_t k, std::int64_t panel, float* y,
                                  std::int64_t y_stride) const {
  const float* bias = bias_.data() + panel * kPanelColumns;
  if (!is_quantized()) {
    matmul_panel(x, x_stride, n, k, panels_.data() + panel * n_in_ * kPanelColumns, bias, 0, y,
                 y_stride);
    return;
  }
  alignas(64) std::array<float, kMaxGroup * kPanelColumns> weights;
  for (std::int64_t first = 0; first < k; first += group_) {
    const std::int64_t rows = std::min(group_, k - first);
    unpack(panel, first / group_, rows, weights.data());
    matmul_panel(x + first, x_stride, n, rows, weights.data(), first == 0 ? bias : y,
                 first == 0 ? 0 : y_stride, y, y_stride);
  }
}

void PackedMatrix::multiply(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                            std::int64_t columns, float* y, std::int64_t y_stride,
                            const kvcodec::Executor& executor) const {
  const std::int64_t n_panels = (columns + kPanelColumns - 1) / kPanelColumns;
  const std::int64_t n_tiles = (n + kRowTile - 1) / kRowTile;
  const auto task = [&](std::int64_t index, int) {
    const std::int64_t panel = index / n_tiles, column = panel * kPanelColumns;
    const std::int64_t row = index % n_tiles * kRowTile;
    const std::int64_t rows = std::min(kRowTile, n - row);
    const float* from = x + row * x_stride;
    float* to = y + row * y_stride + column;
    if (column + kPanelColumns <= columns) {
      multiply_panel(from, x_stride, rows, k, panel, to, y_stride);
      return;
    }
    // The kernel writes whole panels.
    std::array<float, kRowTile * kPanelColumns> whole;
    multiply_panel(from, x_stride, rows, k, panel, whole.data(), kPanelColumns);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(whole.data() + r * kPanelColumns, columns - column, to + r * y_stride);
    }
  };
  const bool small = n * k * columns < kMinParallelWork;
  (small ? kvcodec::Executor{} : executor).parallel_for(n_panels * n_tiles, task);
}

}  // namespace llama
