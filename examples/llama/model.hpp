// A Llama-style transformer (Llama, Mistral, Qwen2) in f32, with attention left to the caller.
//
// The model knows nothing of caches: forward() hands each layer's q, k and v to a function and
// takes back the attention output. forward_dense() gives it plain attention over the tokens of the
// call; Session (session.hpp) gives it a kvcodec cache. embed(), run_layers() and logits() are the
// three parts of forward(), for work on single layers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "examples/llama/config.hpp"
#include "examples/llama/matmul.hpp"
#include "examples/llama/safetensors.hpp"
#include "examples/llama/weight_format.hpp"
#include "kvcodec/core/executor.hpp"
#include "kvcodec/core/shape.hpp"

namespace llama {

/// Attention of one layer over n new rows, after position encoding; all arrays are dense.
///
///   q    [n, n_q_heads, head_dim]
///   k, v [n, n_kv_heads, head_dim]
///   out  [n, n_q_heads, head_dim] to be written
struct AttentionCall {
  std::int32_t layer = 0;
  std::int64_t n = 0;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* out = nullptr;
};

using Attention = std::function<void(const AttentionCall&)>;

/// Buffers of forward(), kept by the caller so that generation allocates nothing per token.
struct Workspace {
  std::vector<float> x, normed, angles, qkv, q, k, v, attended, gate_up, logits;
};

class Model {
 public:
  /// Throws what read_config(), TensorStore and check(WeightFormat) throw. `executor` must outlive
  /// the model.
  static Model load(const std::filesystem::path& folder, kvcodec::Executor executor = {},
                    const WeightFormat& format = {});

  const Config& config() const noexcept { return config_; }
  const kvcodec::Executor& executor() const noexcept { return executor_; }
  kvcodec::HeadShape head_shape() const noexcept {
    return {config_.n_q_heads, config_.n_kv_heads, config_.head_dim};
  }
  /// [head_dim / 2] radians per position of the pairs (i, i + head_dim / 2).
  const std::vector<double>& frequencies() const noexcept { return frequencies_; }
  std::int64_t n_parameters() const noexcept { return n_parameters_; }
  /// Memory of everything that is a parameter, as it is kept: a tied output matrix counts on top of
  /// the embedding, since it is packed for products.
  std::int64_t weight_bytes() const noexcept;
  /// The part of weight_bytes() that WeightFormat decides: the linear layers.
  std::int64_t linear_bytes() const noexcept;

  /// Whether any linear layer is in 4 bits.
  bool quantizes_weights() const noexcept;
  /// Replaces the linear layers of one layer by the 4-bit form of those of `source`, which must be the
  /// same model in f32. Throws what PackedMatrix::quantized throws, or invalid_argument.
  void quantize_layer(std::int32_t layer, const Model& source, std::int32_t group, float clip);

  /// Runs rows `tokens` [n] at `positions` [n], which may belong to several sequences. Returns
  /// logits [logit_rows.size(), vocab_size] of the rows asked for, valid until `work` is used
  /// again.
  /// Throws invalid_argument for a token or position out of range.
  std::span<const float> forward(std::span<const std::int32_t> tokens,
                                 std::span<const std::int32_t> positions,
                                 const Attention& attention,
                                 std::span<const std::int64_t> logit_rows, Workspace& work) const;

  /// Hidden states [n, hidden_size] that enter layer 0. Throws invalid_argument for a token out of
  /// range.
  std::vector<float> embed(std::span<const std::int32_t> tokens) const;

  /// Runs layers first..last-1 on `hidden` [n, hidden_size] in place, n = positions.size(). Throws
  /// invalid_argument for layers, a size or a position out of range.
  void run_layers(std::int32_t first, std::int32_t last, std::span<float> hidden,
                  std::span<const std::int32_t> positions, const Attention& attention,
                  Workspace& work) const;

  /// Logits [rows.size(), vocab_size] of rows of `hidden` after the last layer, valid until `work`
  /// is used again.
  std::span<const float> logits(std::span<const float> hidden, std::span<const std::int64_t> rows,
                                Workspace& work) const;

  /// Logits [n, vocab_size] of a whole sequence without any cache: attention in f32 over all rows.
  /// The engine's own definition, against which every cache is judged.
  std::vector<float> forward_dense(std::span<const std::int32_t> tokens) const;

  /// The same for the last token only, [vocab_size].
  std::vector<float> forward_dense_last(std::span<const std::int32_t> tokens) const;

 private:
  struct Layer {
    std::vector<float> attention_norm, mlp_norm;  // [hidden]
    PackedMatrix qkv;                             // hidden -> q heads, then k heads, then v heads
    PackedMatrix o;
    PackedMatrix gate_up;  // hidden -> gate, then up
    PackedMatrix down;
  };

  Layer load_layer(const TensorStore& tensors, std::int32_t index, const WeightFormat& format);
  void quantize(Layer& layer, const Layer& source, std::int32_t group, float clip) const;
  PackedMatrix load_fused(const TensorStore& tensors, const std::vector<std::string>& names,
                          const std::vector<std::int64_t>& sizes, std::int64_t n_in, bool bias);
  void check_tokens(std::span<const std::int32_t> tokens) const;
  void check_positions(std::span<const std::int32_t> positions) const;
  void copy_embeddings(std::span<const std::int32_t> tokens, std::vector<float>& out) const;
  void run_attention(const Layer& layer, AttentionCall call, const Attention& attention, float* x,
                     Workspace& work) const;
  void run_mlp(const Layer& layer, std::int64_t n, float* x, Workspace& work) const;
  void normalize(const float* x, const std::vector<float>& weight, std::int64_t n,
                 float* out) const;
  std::vector<float> dense(std::span<const std::int32_t> tokens,
                           std::span<const std::int64_t> logit_rows) const;

  Config config_;
  kvcodec::Executor executor_;
  std::vector<double> frequencies_;
  std::vector<float> embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  PackedMatrix lm_head_;
  std::int64_t n_parameters_ = 0;
};

/// Causal attention in f32 over the rows of the call alone; `window` as in Config.
void dense_attention(const AttentionCall& call, const kvcodec::HeadShape& shape,
                     std::int32_t window, const kvcodec::Executor& executor);

/// The same where a query sees its own row as it is in `call` and all earlier ones as past_k and
/// past_v [n, n_kv_heads, head_dim]: past-only quantization, without a cache.
void past_only_attention(const AttentionCall& call, const kvcodec::HeadShape& shape,
                         std::int32_t window, const float* past_k, const float* past_v,
                         const kvcodec::Executor& executor);

}  // namespace llama
