// Which rows of a tile a query sees.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kvcodec/attend/attend.hpp"

namespace kvcodec {

/// Positions of up to kTileRows neighbouring rows: listed, or consecutive from `first`.
struct Positions {
  const std::int32_t* listed;
  std::int32_t first;
};

/// The n lowest bits; none for n <= 0, all for n >= 64.
inline std::uint64_t low_bits(std::int64_t n) noexcept {
  return n <= 0 ? 0 : n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

/// Bit r is set if row r of n_rows is visible to a query at position q_pos (see attend.hpp).
inline std::uint64_t visible_rows(const AttendOptions& options, const Positions& positions,
                                  int n_rows, std::int32_t q_pos) noexcept {
  if (positions.listed == nullptr) {
    // Consecutive positions: what is not in the future, and what the window drops, are runs.
    const std::int64_t first = positions.first;
    const std::uint64_t past = low_bits(std::min<std::int64_t>(n_rows, q_pos - first + 1));
    if (options.window <= 0) return past;
    const std::uint64_t too_old = low_bits(std::int64_t{q_pos} - options.window + 1 - first);
    return past & (~too_old | low_bits(options.window_sinks - first));
  }
  std::uint64_t rows = 0;
  for (int r = 0; r < n_rows; ++r) {
    const std::int64_t pos = positions.listed[r];
    const bool in_window = options.window <= 0 || pos > std::int64_t{q_pos} - options.window ||
                           pos < options.window_sinks;
    rows |= static_cast<std::uint64_t>(pos <= q_pos && in_window) << r;
  }
  return rows;
}

/// Rows of a tile that query head `g` of the group keeps; null masks: all.
inline std::uint64_t rows_kept_by(const KeepMask* masks, int n_rows, int g) noexcept {
  if (masks == nullptr) return ~std::uint64_t{0};
  std::uint64_t rows = 0;
  for (int r = 0; r < n_rows; ++r) rows |= static_cast<std::uint64_t>((masks[r] >> g) & 1) << r;
  return rows;
}

}  // namespace kvcodec
