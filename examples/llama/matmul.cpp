#include "examples/llama/matmul.hpp"

#include <algorithm>
#include <array>

#include "examples/llama/kernels.hpp"

namespace llama {
namespace {

// Rows of one task: enough to use a panel well, few enough to share a prompt among threads.
constexpr std::int64_t kRowTile = 64;

// Below this many multiply-adds, waking other threads costs more than they save.
constexpr std::int64_t kMinParallelWork = std::int64_t{1} << 20;

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

void PackedMatrix::set_bias(const std::vector<float>& bias) {
  std::copy(bias.begin(), bias.end(), bias_.begin());
}

void PackedMatrix::multiply(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                            std::int64_t columns, float* y, std::int64_t y_stride,
                            const kvcodec::Executor& executor) const {
  const std::int64_t n_panels = (columns + kPanelColumns - 1) / kPanelColumns;
  const std::int64_t n_tiles = (n + kRowTile - 1) / kRowTile;
  const auto task = [&](std::int64_t index, int) {
    const std::int64_t column = index / n_tiles * kPanelColumns;
    const std::int64_t row = index % n_tiles * kRowTile;
    const std::int64_t rows = std::min(kRowTile, n - row);
    const float* panel = panels_.data() + column * n_in_;
    const float* from = x + row * x_stride;
    float* to = y + row * y_stride + column;
    if (column + kPanelColumns <= columns) {
      matmul_panel(from, x_stride, rows, k, panel, bias_.data() + column, to, y_stride);
      return;
    }
    // The kernel writes whole panels.
    std::array<float, kRowTile * kPanelColumns> whole;
    matmul_panel(from, x_stride, rows, k, panel, bias_.data() + column, whole.data(),
                 kPanelColumns);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(whole.data() + r * kPanelColumns, columns - column, to + r * y_stride);
    }
  };
  const bool small = n * k * columns < kMinParallelWork;
  (small ? kvcodec::Executor{} : executor).parallel_for(n_panels * n_tiles, task);
}

}  // namespace llama
