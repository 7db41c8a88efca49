// Whoever takes part in a round of measurements: our formats, the plain read, peers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"

namespace kvcodec::bench {

/// One decode step of one layer: n_seq sequences, one query token each.
struct Shape {
  int head_dim = 128;
  int n_kv_heads = 8;
  int gqa = 4;                ///< query heads per KV head
  std::int64_t n_tokens = 0;  ///< cached, of each sequence
  int n_seq = 1;

  int n_q_heads() const { return n_kv_heads * gqa; }
};

class Participant {
 public:
  virtual ~Participant() = default;

  /// One step; the next one reads other memory, so that every step reads DRAM.
  virtual void step(const Executor& executor) = 0;
  /// Bytes a step reads.
  virtual double bytes() const = 0;
  /// Output of the last step, [n_seq, n_q_heads, head_dim]; empty: there is none.
  virtual std::vector<float> output() const { return {}; }
  /// Seconds after a step for which its threads may still be awake: whoever is next waits so long.
  virtual double seconds_awake() const { return 0.0; }
};

}  // namespace kvcodec::bench
