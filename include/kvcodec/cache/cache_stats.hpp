// What a cache holds and what it has done: plain numbers, read in one call.
//
// Gauges tell the present and may fall. Counters only rise while the cache lives, closed sequences
// included, so that differences of two readings are rates.
#pragma once

#include <cstdint>

#include "kvcodec/cache/cache_config.hpp"

namespace kvcodec {

/// Calls and the time they took, by the monotonic clock of the thread that made them.
struct CallTimes {
  std::int64_t calls = 0;
  std::int64_t nanoseconds = 0;

  CallTimes& operator+=(const CallTimes& other) noexcept {
    calls += other.calls;
    nanoseconds += other.nanoseconds;
    return *this;
  }
  friend bool operator==(const CallTimes&, const CallTimes&) = default;
};

/// A reading of Cache::stats().
///
/// A row is K and V of one token in one KV head of one layer. A token counts once per layer that it
/// was appended to. Where query heads of a group keep different rows (SpindleKV), a row is kept while
/// one of them sees it.
struct CacheStats {
  // Gauges.
  CacheBytes bytes;                 ///< as Cache::bytes()
  std::int64_t sequences_open = 0;  ///< now
  std::int64_t sequences_max = 0;   ///< CacheConfig::max_sequences
  std::int64_t tokens = 0;          ///< of open sequences, over all layers, evicted ones included
  std::int64_t rows_encoded = 0;    ///< of open sequences, in pages
  std::int64_t rows_raw = 0;        ///< of open sequences: sinks, newest rows, rows on their way
  std::int64_t rows_evicted = 0;    ///< of open sequences: what a policy left out
  std::int64_t pages_total = 0;     ///< over all pools
  std::int64_t pages_free = 0;      ///< over all pools
  std::int64_t layers_held = 0;     ///< (sequence, layer) under Cache::hold_raw
  std::int64_t layers_not_evicting = 0;  ///< (sequence, layer) under Cache::stop_evicting

  // Counters.
  std::int64_t sequences_opened = 0;  ///< by open() and fork()
  std::int64_t sequences_forked = 0;  ///< by fork() alone
  std::int64_t sequences_closed = 0;
  std::int64_t tokens_appended = 0;   ///< by calls that succeeded; a fork appends nothing
  std::int64_t tokens_truncated = 0;  ///< taken back, over all layers
  std::int64_t rows_dropped = 0;      ///< that a policy left out, since the cache was made
  std::int64_t tiles_encoded = 0;     ///< K and V tile of one KV head, 64 rows, written to a page
  std::int64_t appends_refused = 0;   ///< calls of append that failed
  /// Calls of append and try_append that succeeded, flushes included.
  CallTimes append;
  /// Times that rows left the window of a layer; the time that policy, codec and pages took.
  CallTimes flush;
  /// Attention of a layer. A cache is const to attention and does not know: add the
  /// AttendWorkspace::times of the threads that attend.
  CallTimes attend;

  /// Of open sequences.
  std::int64_t rows_kept() const noexcept { return rows_encoded + rows_raw; }
};

}  // namespace kvcodec
