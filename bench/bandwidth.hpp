// The read bandwidth of this machine in this run: the ceiling that results are a share of.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "kvcodec/page/page_memory.hpp"

namespace kvcodec::bench {

/// Bytes per second of one thread that reads 192 MiB in turn as 64-bit words, half of the passes
/// with software prefetching: the best 2 MiB of ten passes, short enough to be undisturbed by other
/// work on the machine. The memory is that of pages. Measured at the first call.
inline double read_bandwidth() {
  static const double best = [] {
    constexpr std::size_t kWindow = (std::size_t{2} << 20) / sizeof(std::uint64_t);
    constexpr std::size_t kWords = 96 * kWindow;
    constexpr std::size_t kChunk = 1024;  // words
    const PageMemory memory = allocate_page_memory((kWords + kChunk) * sizeof(std::uint64_t));
    auto* const words = reinterpret_cast<std::uint64_t*>(memory.get());
    std::fill_n(words, kWords + kChunk, 1);
    double highest = 0.0;
    std::uint64_t sink = 0;
    for (std::size_t first = 0; first < 10 * kWords; first += kWindow) {
      const std::uint64_t* data = words + first % kWords;
      const bool prefetch = (first / kWords) % 2 != 0;
      const auto start = std::chrono::steady_clock::now();
      // Independent sums, so that the loads and not the additions are what takes time.
      std::uint64_t sum[8] = {};
      for (std::size_t i = 0; i < kWindow; i += kChunk) {
        for (std::size_t j = 0; prefetch && j < kChunk; j += 8) {
          __builtin_prefetch(data + i + kChunk + j);
        }
        for (std::size_t j = 0; j < kChunk; j += 8) {
          for (std::size_t k = 0; k < 8; ++k) sum[k] += data[i + j + k];
        }
      }
      for (const std::uint64_t s : sum) sink += s;
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      highest =
          std::max(highest, static_cast<double>(kWindow * sizeof(std::uint64_t)) / time.count());
    }
    volatile std::uint64_t keep = sink;
    (void)keep;
    return highest;
  }();
  return best;
}

}  // namespace kvcodec::bench
