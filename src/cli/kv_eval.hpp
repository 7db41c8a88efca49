// Plans on captured keys, values and queries: what attention loses, layer by layer, head by head.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "kvcodec/core/shape.hpp"
#include "src/cli/output.hpp"

namespace kvcodec::cli {

/// Arrays of a folder. Query head h uses KV head h / gqa_group(); every query sees all tokens.
struct Captured {
  HeadShape shape;
  std::int64_t n_layers = 0;
  std::int64_t n_tokens = 0;
  std::int64_t n_queries = 0;
  std::vector<float> k, v;  ///< [n_layers, n_kv_heads, n_tokens, head_dim]
  std::vector<float> q;     ///< [n_layers, n_queries, n_q_heads, head_dim]
};

/// Reads k.npy, v.npy and q.npy; the axis of layers may be missing in all three. Throws
/// invalid_argument or corrupt_data naming the array, its shape and what is allowed.
Captured read_captured(const std::filesystem::path& folder);

/// Errors of one query head of one layer over all queries, against float64 attention.
struct HeadError {
  double out = 0.0;        ///< |out - reference| / |reference|
  double logit_rms = 0.0;  ///< of the scaled scores of all tokens
  double logit_max = 0.0;
  double lse = 0.0;  ///< largest |lse - reference|
};

struct KvResult {
  std::string plan;
  double payload_bits = 0.0;     ///< bytes of pages over the values encoded in them
  double bits_all = 0.0;         ///< all bytes of the cache over all values
  std::vector<HeadError> heads;  ///< [n_layers, n_q_heads]
};

/// Runs one plan over all layers.
KvResult eval_captured(const Captured& data, const std::string& plan, const Executor& executor);

/// Means and worst heads.
Json to_json(const KvResult& result, const Captured& data);
std::string results_table(const std::vector<KvResult>& results, const Captured& data);

}  // namespace kvcodec::cli
