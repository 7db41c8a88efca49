// Retrieval without a model: plans on synthetic contexts of any length, against exact attention.
//
// Every plan has a cache of one layer. A context is made chunk by chunk, each chunk once for all plans;
// exact attention runs along in float64. Then every query is asked on its own, seeing all tokens. Of
// what it asks for, a fact counts as retrieved if
//
//   - its share of the attention is at least half of an even share: 1/2 for one fact, 1/8 for each of
//     four, measured through the cache itself (its log-sum over the fact's position alone, less the
//     log-sum over all), 0 if the fact was evicted; and
//   - what attention returns points to it: of the values of all planted facts of the head, its cosine
//     with the output is the largest (multi-needle: among as many largest as there are needles). The
//     mean of all values is taken off first, and channels count in their standard deviations.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "src/eval/measure.hpp"
#include "src/eval/synthetic_kv.hpp"

namespace kvcodec::eval {

struct SyntheticOptions {
  std::string kv_model = "rope";
  std::vector<std::int64_t> lengths = {4096, 16384, 65536, 131072};
  std::int32_t contexts = 1;  ///< per length, 1..1000, each with numbers of its own
  std::uint64_t seed = 1;
  /// Codebooks grow with the context and are searched for every token: not run beyond.
  std::int64_t codebook_tokens = 16384;
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};  ///< tokens
};

/// Facts of one task at one length.
struct SyntheticScore {
  TaskKind task = TaskKind::needle;
  std::optional<double> depth;  ///< of needles: the middle of one of eight parts of the context
  std::int64_t right = 0, asked = 0;
  double mass = 0.0;  ///< mean share of the attention of the facts asked for together
};

/// One plan at one length.
struct SyntheticLength {
  std::int64_t length = 0;
  bool run = false;           ///< false: see SyntheticOptions::codebook_tokens; nothing else is set
  double payload_bits = 0.0;  ///< bytes of pages over all values appended, evicted ones included
  double bits_all = 0.0;      ///< all bytes over all values
  std::int64_t bytes = 0;     ///< all bytes of one layer and one context
  double out_err_mean = 0.0, out_err_worst = 0.0;  ///< |out - exact| / |exact| of a query in a head
  std::vector<SyntheticScore> scores;
};

struct SyntheticResult {
  std::string name, plan;
  std::vector<SyntheticLength> lengths;  ///< in the order of the options
};

/// Runs all plans; first comes exact attention itself, under the name "exact", with no bytes. The
/// result does not depend on the executor. Throws invalid_argument naming the option, and what a plan
/// throws.
std::vector<SyntheticResult> run_synthetic(const std::vector<NamedPlan>& plans,
                                           const SyntheticOptions& options,
                                           const Executor& executor);

}  // namespace kvcodec::eval
