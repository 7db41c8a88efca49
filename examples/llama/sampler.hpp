// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace llama {

struct SamplerOptions {
  float temperature = 0.0f;  ///< 0: the most likely token, without chance
  std::int32_t top_k = 0;    ///< only the k most likely tokens; 0: all
  float top_p = 1.0f;        ///< only the smallest set of tokens with at least this probability
  std::uint64_t seed = 0;
};

/// The most likely token; the lowest id among equals.
std::int32_t argmax(std::span<const float> logits);

/// Deterministic: the same options and logits give the same tokens on every platform whose exp()
/// rounds alike.
class Sampler {
 public:
  /// Throws invalid_argument for an option out of range.
  explicit Sampler(SamplerOptions options = {});

  /// Throws invalid_argument if no logit is a number.
  std::int32_t next(std::span<const float> logits);

 private:
  double uniform();

  SamplerOptions options_;
  std::uint64_t state_;
  std::vector<std::int32_t> order_;
  std::vector<double> weights_;
};

}  // namespace llama
