// When rows leave the window of newest rows for pages.
#pragma once

#include <cstdint>

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// The rule of a layer that keeps every row. Rows are counted without sinks.
struct WindowRule {
  std::int64_t keep = 0;                ///< newest rows that stay: n_recent + rollback_rows
  std::int64_t flush_rows = kTileRows;  ///< rows that leave together

  /// Rows the window holds at most, the one that makes others leave included.
  KVCODEC_HD constexpr std::int64_t capacity() const noexcept { return keep + flush_rows; }

  /// Encoded rows once `rows` rows have been appended, if `encoded` are now. A multiple of flush_rows
  /// unless nothing leaves.
  KVCODEC_HD constexpr std::int64_t encoded_after(std::int64_t rows,
                                                  std::int64_t encoded) const noexcept {
    const std::int64_t whole = rows >= keep ? (rows - keep) / flush_rows * flush_rows : 0;
    return whole > encoded ? whole : encoded;
  }
};

}  // namespace kvcodec
