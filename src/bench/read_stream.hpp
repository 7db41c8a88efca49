// The read bandwidth of this machine as a participant: what the others are a share of.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/page/page_memory.hpp"
#include "src/bench/participant.hpp"

namespace kvcodec::bench {

/// Reads the next `step_bytes` of a buffer as 64-bit words, in turn; every 1 MiB by one thread, which
/// prefetches ahead of itself.
class ReadStream : public Participant {
 public:
  /// Both are rounded up to whole MiB.
  ReadStream(std::size_t buffer_bytes, std::size_t step_bytes);

  void step(const Executor& executor) override;
  double bytes() const override;

 private:
  std::uint64_t* words() const;

  std::size_t n_words_;
  PageMemory memory_;  ///< as formats have theirs
  std::size_t step_words_;
  std::size_t at_ = 0;
};

}  // namespace kvcodec::bench
