// Fetching a tile before it is needed.
#pragma once

#include <cstddef>

namespace kvcodec::cpu {

inline constexpr std::size_t kCacheLine = 64;

/// The part of a tile that is wanted in the second-level cache and has not been asked for yet.
///
/// A kernel asks for a line of it per line of its own tile (lines-inl.h): it reads several lines at a
/// time, which the hardware's own prefetching does not follow, and pages of one head are not neighbours.
/// All at once they would take every place for lines on their way, and the kernel's own reads would wait
/// behind them. Not into the first level, which has fewer such places.
struct Ahead {
  const std::byte* at = nullptr;
  const std::byte* end = nullptr;

  /// Asks for what is left: what a kernel reads beside codes, or all, where it does not ask itself.
  void finish() noexcept {
    for (; at < end; at += kCacheLine) __builtin_prefetch(at, 0, 2);
  }
};

}  // namespace kvcodec::cpu
