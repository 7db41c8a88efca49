// Fetching tiles before they are needed.
#pragma once

#include <cstddef>

namespace kvcodec::cpu {

inline constexpr std::size_t kCacheLine = 64;

/// What kernels fetch while they work: the next K tile and then the next V tile to the second-level cache, and
/// what is read right after this to the first.
///
/// Some of it all the time: a line per line of a kernel's own tile (lines-inl.h), which the hardware's own
/// prefetching does not follow, as kernels read several lines at a time and pages of one head are not
/// neighbours; or, in kernels that spend most of their time on something else, some lines per query. All at
/// once they would take every place for lines on their way, the kernel's own reads would wait behind
/// them, and memory would rest afterwards. Not all to the first level, which has fewer such places.
struct Ahead {
  const std::byte* at = nullptr;
  const std::byte* end = nullptr;
  const std::byte* then = nullptr;  ///< what follows, up to then_end
  const std::byte* then_end = nullptr;
  const std::byte* soon = nullptr;  ///< in the second level, wanted in the first, up to soon_end
  const std::byte* soon_end = nullptr;
  int pace = 0;  ///< lines of a step: 0, 1, 2 or 4

  /// Goes on to what follows, if anything does, where the first part has been asked for.
  void turn() noexcept {
    if (at < end || then == then_end) return;
    at = then;
    end = then_end;
    then = then_end;
  }

  /// Asks for some lines.
  void step() noexcept {
    if (soon < soon_end) {
      for (std::size_t i = 0; i < 4 * kCacheLine; i += kCacheLine) {
        __builtin_prefetch(soon + i, 0, 3);
      }
      soon += 4 * kCacheLine;
    }
    if (at >= end) {
      turn();
      if (at >= end) return;
    }
    const std::byte* line = at;
    if (pace >= 1) __builtin_prefetch(line, 0, 2);
    if (pace >= 2) __builtin_prefetch(line + kCacheLine, 0, 2);
    if (pace == 4) {
      __builtin_prefetch(line + 2 * kCacheLine, 0, 2);
      __builtin_prefetch(line + 3 * kCacheLine, 0, 2);
    }
    at = line + static_cast<std::size_t>(pace) * kCacheLine;
  }

  /// Asks for what is left of the first part: what a kernel reads beside codes, or all, where it does not ask
  /// itself.
  void finish() noexcept {
    for (; at < end; at += kCacheLine) __builtin_prefetch(at, 0, 2);
  }

  /// Asks for what is left of both parts.
  void finish_both() noexcept {
    finish();
    turn();
    finish();
  }
};

}  // namespace kvcodec::cpu
