// Keys, values and queries of a model's run: read from files, captured from the engine, written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "examples/llama/model.hpp"
#include "kvcodec/core/shape.hpp"

namespace kvcodec::eval {

/// Rows of one sequence, after position encoding. Query head h uses KV head h / gqa_group(); every
/// query sees all tokens within its layer's window.
struct Captured {
  HeadShape shape;
  std::int64_t n_layers = 0;
  std::int64_t n_tokens = 0;
  std::int64_t n_queries = 0;
  std::vector<float> k, v;               ///< [n_layers, n_kv_heads, n_tokens, head_dim]
  std::vector<float> q;                  ///< [n_layers, n_queries, n_q_heads, head_dim]
  std::vector<std::int32_t> window;      ///< [n_layers] as in llama::Config; empty: no windows
  std::vector<double> rope_frequencies;  ///< of the model, for codebooks of keys; empty: unknown
};

/// Reads k.npy, v.npy and q.npy of a folder, or the tensors k, v and q of one .safetensors file (F32,
/// F16 or BF16), in the layouts of Captured; the axis of layers may be missing in all three. Throws
/// invalid_argument, unsupported or corrupt_data naming the array, its shape and what is allowed.
Captured read_captured(const std::filesystem::path& source);

/// Runs `tokens` without a cache and keeps K and V of all of them and Q of the newest n_queries (of
/// all, if there are fewer). Throws invalid_argument for no tokens or n_queries below 1, and what
/// the model throws.
Captured capture(const llama::Model& model, std::span<const std::int32_t> tokens,
                 std::int64_t n_queries);

/// Writes k.npy, v.npy and q.npy in f32, so that read_captured gives them back; makes the folder.
/// Throws error if it cannot be written.
void write_captured(const Captured& data, const std::filesystem::path& folder);

}  // namespace kvcodec::eval
