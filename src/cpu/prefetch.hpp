// Fetching a tile before it is needed.
#pragma once

#include <cstddef>

namespace kvcodec::cpu {

/// Starts to bring a tile into the second-level cache and returns at once; any address is allowed.
///
/// To be called before a kernel runs, with the tile of the same kind that comes after its own. A
/// kernel reads several lines of its tile at a time, which the hardware's own prefetching does not
/// follow, and pages of one head are not neighbours: without this, the times of memory and of
/// arithmetic add up (Zen 5, 4-bit keys, 4 queries: 13.6 ns per key without, 4.2 with). Not into the first
/// level: a tile has more lines than may be on their way there, and the kernel's own reads would wait for
/// a place behind them (Zen 4, 16,384 keys of nqkv:g64, GQA 1: 10.6 ms that way, 6.1 ms this way).
inline void prefetch_tile(const std::byte* tile, std::size_t bytes) noexcept {
  constexpr std::size_t kCacheLine = 64;
  for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(tile + at, 0, 2);
}

}  // namespace kvcodec::cpu
