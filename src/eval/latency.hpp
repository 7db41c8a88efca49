// Time to the first token and per further token, for several plans side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

struct LatencyOptions {
  std::vector<std::int64_t> lengths = {512, 1024, 2048};  ///< tokens in the cache, rising
  std::int64_t n_decoded = 48;                            ///< tokens timed behind each length
  std::int32_t repeats = 3;                               ///< prefills of each length
  std::int64_t chunk_size = 256;                          ///< tokens per pass of a prefill
  llama::Progress progress = {};                          ///< in tokens
};

struct PrefillTime {
  std::int64_t tokens = 0;
  double ms = 0.0;  ///< from the empty cache to the logits behind the last token; median
};

struct DecodeTime {
  std::int64_t context = 0;  ///< tokens in the cache before the first of those timed
  double p50_ms = 0.0, p99_ms = 0.0;
};

struct Latency {
  std::vector<PrefillTime> prefill;
  std::vector<DecodeTime> decode;
};

/// Tokens that measure_latency runs.
std::int64_t latency_tokens(const LatencyOptions& options, std::int64_t n_plans);

/// One result per plan, at batch 1. Plans take turns at every prefill and every token, so that a
/// slow moment of the machine hits all of them; their caches exist side by side. The same tokens are
/// fed whatever is predicted: `text` from its start, and again from there where it is too short.
/// Throws invalid_argument for an option out of range or an empty text, and what the plans or the
/// model throw.
std::vector<Latency> measure_latency(const llama::Model& model,
                                     const std::vector<std::string>& plans,
                                     const std::vector<std::int32_t>& text,
                                     const LatencyOptions& options);

output::Json ttft_json(const Latency& latency);
output::Json decode_json(const Latency& latency);

}  // namespace kvcodec::eval
