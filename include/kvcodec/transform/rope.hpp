// Rotary position encoding (RoPE) of stored rows: applied when a codebook entry is read, and undone
// when a key arrives.
//
//   (x_i, x_{i + d/2}) turns by the angle pos * frequency_i,   i = 0..d/2 - 1
//
// The frequencies come from the engine, in f64, so that every kind of scaling works. Cosine and
// sine of a position are a complex product of two table rows,
//
//   turn(pos) = coarse[pos / 256] * fine[pos % 256],
//
// each rounded once from f64: absolute error below 4e-7 at any position, and for 1M positions and
// d = 128 the tables take 2.2 MB instead of 512 MB.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// The tables of a RopeTable, by pointer: what kernels and codec values hold.
struct RopeView {
  static constexpr std::int32_t kFine = 256;

  const float* fine = nullptr;    ///< [kFine][2][half]: cosines, then sines
  const float* coarse = nullptr;  ///< [ceil(n_positions / kFine)][2][half]
  std::int32_t half = 0;          ///< pairs: head_dim / 2
  std::int32_t n_positions = 0;

  /// False for a view of nothing.
  KVCODEC_HD explicit operator bool() const noexcept { return fine != nullptr; }

  /// fn(pointer, n) for both tables, pointers by reference; nothing for a view of nothing.
  template <class F>
  void each_table(F&& fn) {
    if (fine == nullptr) return;
    const auto row = static_cast<std::size_t>(2 * half);
    fn(fine, row * kFine);
    fn(coarse, row * static_cast<std::size_t>((n_positions - 1) / kFine + 1));
  }

  /// x [2 * half] <- x as it is at position `pos`. Positions outside 0..n_positions-1 are taken for
  /// the nearest one: nothing outside the tables is read.
  KVCODEC_HD void rotate(std::int32_t pos, float* x) const noexcept { turn(pos, 1.0f, x); }

  /// The inverse of rotate().
  KVCODEC_HD void unrotate(std::int32_t pos, float* x) const noexcept { turn(pos, -1.0f, x); }

 private:
  KVCODEC_HD void turn(std::int32_t pos, float direction, float* x) const noexcept {
    pos = pos < 0 ? 0 : pos >= n_positions ? n_positions - 1 : pos;
    const float* low = fine + static_cast<std::ptrdiff_t>(pos % kFine) * 2 * half;
    const float* high = coarse + static_cast<std::ptrdiff_t>(pos / kFine) * 2 * half;
    for (std::int32_t i = 0; i < half; ++i) {
      const float cosine = high[i] * low[i] - high[half + i] * low[half + i];
      const float sine = direction * (high[half + i] * low[i] + high[i] * low[half + i]);
      const float a = x[i];
      const float b = x[half + i];
      x[i] = a * cosine - b * sine;
      x[half + i] = b * cosine + a * sine;
    }
  }
};

static_assert(std::is_trivially_copyable_v<RopeView>);

/// Owns the tables of one set of frequencies; immutable. A model needs one for all its layers.
class RopeTable {
 public:
  /// frequencies [head_dim / 2], radians per position, finite; positions 0..n_positions-1 follow.
  ///
  /// Throws invalid_argument, std::bad_alloc.
  RopeTable(std::span<const double> frequencies, std::int32_t n_positions)
      : half_(frequencies.size()), n_positions_(n_positions) {
    if (frequencies.empty() || frequencies.size() > kMaxHeadDim / 2) {
      throw invalid_argument(
          bad_value("RopeTable", "frequencies.size()", frequencies.size(), "1..128"));
    }
    for (const double f : frequencies) {
      if (!std::isfinite(f))
        throw invalid_argument(bad_value("RopeTable", "frequencies[]", f, "finite"));
    }
    if (n_positions < 1) {
      throw invalid_argument(bad_value("RopeTable", "n_positions", n_positions, "1 or more"));
    }
    fill(frequencies, 1, RopeView::kFine, fine_);
    fill(frequencies, RopeView::kFine, (n_positions - 1) / RopeView::kFine + 1, coarse_);
  }

  std::int32_t head_dim() const noexcept { return static_cast<std::int32_t>(2 * half_); }
  std::int32_t n_positions() const noexcept { return n_positions_; }
  std::int64_t bytes() const noexcept {
    return static_cast<std::int64_t>((fine_.capacity() + coarse_.capacity()) * sizeof(float));
  }

  /// Valid as long as the table lives and is not moved from.
  RopeView view() const noexcept {
    return {fine_.data(), coarse_.data(), static_cast<std::int32_t>(half_), n_positions_};
  }
  /// As RopeView's: x [head_dim] in place.
  void rotate(std::int32_t pos, float* x) const noexcept { view().rotate(pos, x); }
  void unrotate(std::int32_t pos, float* x) const noexcept { view().unrotate(pos, x); }

 private:
  static void fill(std::span<const double> frequencies, std::int32_t step, std::int32_t n_rows,
                   std::vector<float>& table) {
    const std::size_t half = frequencies.size();
    table.resize(static_cast<std::size_t>(n_rows) * 2 * half);
    float* row = table.data();
    for (std::int32_t r = 0; r < n_rows; ++r, row += 2 * half) {
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(r) * static_cast<double>(step) * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle));
        row[half + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  std::size_t half_;
  std::int32_t n_positions_;
  std::vector<float> fine_;
  std::vector<float> coarse_;
};

}  // namespace kvcodec
