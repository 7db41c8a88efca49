// The read bandwidth of this machine in this run: the ceiling that results are a share of.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvcodec::bench {

/// Bytes per second of one thread that reads 256 MiB as 64-bit words; the best of nine passes.
/// Measured at the first call.
inline double read_bandwidth() {
  static const double best = [] {
    constexpr std::size_t kWords = std::size_t{256} * 1024 * 1024 / sizeof(std::uint64_t);
    const std::vector<std::uint64_t> memory(kWords, 1);
    double highest = 0.0;
    std::uint64_t sink = 0;
    for (int pass = 0; pass < 9; ++pass) {
      const auto start = std::chrono::steady_clock::now();
      // Independent sums, so that the loads and not the additions are what takes time.
      std::uint64_t sum[16] = {};
      for (std::size_t i = 0; i + 16 <= kWords; i += 16) {
        for (std::size_t j = 0; j < 16; ++j) sum[j] += memory[i + j];
      }
      for (const std::uint64_t s : sum) sink += s;
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      highest =
          std::max(highest, static_cast<double>(kWords * sizeof(std::uint64_t)) / time.count());
    }
    volatile std::uint64_t keep = sink;
    (void)keep;
    return highest;
  }();
  return best;
}

}  // namespace kvcodec::bench
