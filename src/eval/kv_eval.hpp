// Plans on captured keys, values and queries: what attention loses, layer by layer, head by head.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "src/eval/captured.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

using output::Json;

/// Errors of one query head of one layer over all queries, against float64 attention.
struct HeadError {
  double out = 0.0;  ///< |out - reference| / |reference|
  /// Of the scaled scores of all tokens; NaN in layers with a policy, which does not keep all, and with
  /// keys in a codebook, which are kept unrotated.
  double logit_rms = 0.0;
  double logit_max = 0.0;
  double lse = 0.0;  ///< largest |lse - reference|
};

struct KvResult {
  std::string plan;
  double payload_bits = 0.0;     ///< bytes of pages over the values encoded in them
  double bits_all = 0.0;         ///< all bytes of the cache over all values
  std::vector<HeadError> heads;  ///< [n_layers, n_q_heads]
};

/// Runs one plan over all layers. Policies that observe are shown the newest queries, of the newest
/// tokens. Throws what the plan or the cache throws, or invalid_argument where a policy wants to
/// observe more queries than there are.
KvResult eval_captured(const Captured& data, const std::string& plan, const Executor& executor);

/// Means and worst heads, and the errors of every head.
Json to_json(const KvResult& result, const Captured& data);
/// The output errors alone: means, worst, and a row of heads per layer.
Json attention_json(const KvResult& result, const Captured& data);
std::string results_table(const std::vector<KvResult>& results, const Captured& data);

}  // namespace kvcodec::eval
