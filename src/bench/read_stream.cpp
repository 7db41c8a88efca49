#include "src/bench/read_stream.hpp"

#include <algorithm>
#include <atomic>

namespace kvcodec::bench {
namespace {

constexpr std::size_t kPieceWords = (std::size_t{1} << 20) / sizeof(std::uint64_t);

/// Independent sums, so that the loads and not the additions are what takes time.
std::uint64_t sum_of(const std::uint64_t* x, std::size_t n) {
  constexpr std::size_t kAhead = 512;  // words: 4 KiB
  std::uint64_t sum[32] = {};
  for (std::size_t i = 0; i < n; i += 32) {
    for (std::size_t line = 0; line < 32; line += 8) __builtin_prefetch(x + i + kAhead + line);
    for (std::size_t k = 0; k < 32; ++k) sum[k] += x[i + k];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t s : sum) total += s;
  return total;
}

std::size_t pieces(std::size_t bytes) {
  return std::max<std::size_t>((bytes + (std::size_t{1} << 20) - 1) >> 20, 1);
}

}  // namespace

ReadStream::ReadStream(std::size_t buffer_bytes, std::size_t step_bytes)
    : n_words_(std::max(pieces(buffer_bytes), pieces(step_bytes)) * kPieceWords),
      memory_(allocate_page_memory(n_words_ * sizeof(std::uint64_t))),
      step_words_(pieces(step_bytes) * kPieceWords) {
  std::fill_n(words(), n_words_, 1);
}

std::uint64_t* ReadStream::words() const { return reinterpret_cast<std::uint64_t*>(memory_.get()); }

void ReadStream::step(const Executor& executor) {
  std::atomic<std::uint64_t> total{0};
  const std::size_t first = at_;
  executor.parallel_for(
      static_cast<std::int64_t>(step_words_ / kPieceWords), [&](std::int64_t i, int) {
        const std::size_t at = (first + static_cast<std::size_t>(i) * kPieceWords) % n_words_;
        total.fetch_add(sum_of(words() + at, kPieceWords), std::memory_order_relaxed);
      });
  at_ = (first + step_words_) % n_words_;
  const volatile std::uint64_t keep = total.load();
  (void)keep;
}

double ReadStream::bytes() const {
  return static_cast<double>(step_words_ * sizeof(std::uint64_t));
}

}  // namespace kvcodec::bench
