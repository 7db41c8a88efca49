#include "examples/llama/model.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "examples/llama/kernels.hpp"
#include "examples/llama/rope.hpp"
#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

// Rows normalised or activated per task.
constexpr std::int64_t kRowsPerTask = 32;

template <class F>
void for_rows(const kvcodec::Executor& executor, std::int64_t n, F&& fn) {
  executor.parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int) {
    const std::int64_t end = std::min(n, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) fn(row);
  });
}

void grow(std::vector<float>& buffer, std::int64_t size) {
  if (buffer.size() < static_cast<std::size_t>(size)) buffer.resize(static_cast<std::size_t>(size));
}

}  // namespace

PackedMatrix Model::load_fused(const TensorStore& tensors, const std::vector<std::string>& names,
                               const std::vector<std::int64_t>& sizes, std::int64_t n_in,
                               bool bias) {
  std::vector<float> weight, biases;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::vector<float> part = tensors.load(names[i] + ".weight", {sizes[i], n_in});
    weight.insert(weight.end(), part.begin(), part.end());
    if (!bias) continue;
    const std::vector<float> shift = tensors.load(names[i] + ".bias", {sizes[i]});
    biases.insert(biases.end(), shift.begin(), shift.end());
  }
  n_parameters_ += static_cast<std::int64_t>(weight.size() + biases.size());
  const std::int64_t n_out = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  PackedMatrix matrix = PackedMatrix::from_weight(weight.data(), n_out, n_in, n_in);
  matrix.set_bias(biases);
  return matrix;
}

Model::Layer Model::load_layer(const TensorStore& tensors, std::int32_t index) {
  const Config& c = config_;
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::string attn = prefix + "self_attn.", mlp = prefix + "mlp.";
  const std::int64_t hidden = c.hidden_size, inner = c.intermediate_size;
  const std::int64_t q_size = std::int64_t{c.n_q_heads} * c.head_dim;
  const std::int64_t kv_size = std::int64_t{c.n_kv_heads} * c.head_dim;
  Layer layer;
  layer.attention_norm = tensors.load(prefix + "input_layernorm.weight", {hidden});
  layer.mlp_norm = tensors.load(prefix + "post_attention_layernorm.weight", {hidden});
  layer.qkv = load_fused(tensors, {attn + "q_proj", attn + "k_proj", attn + "v_proj"},
                         {q_size, kv_size, kv_size}, hidden, c.qkv_bias);
  layer.o = load_fused(tensors, {attn + "o_proj"}, {hidden}, q_size, c.o_bias);
  layer.gate_up =
      load_fused(tensors, {mlp + "gate_proj", mlp + "up_proj"}, {inner, inner}, hidden, false);
  layer.down = load_fused(tensors, {mlp + "down_proj"}, {hidden}, inner, false);
  n_parameters_ += 2 * hidden;
  return layer;
}

Model Model::load(const std::filesystem::path& folder, kvcodec::Executor executor) {
  Model m;
  m.config_ = read_config(folder);
  m.executor_ = executor;
  const Config& c = m.config_;
  const std::int64_t hidden = c.hidden_size, vocab = c.vocab_size;
  const TensorStore tensors = TensorStore::open(folder);
  m.frequencies_ = rope_frequencies(c.rope, c.head_dim);
  m.embedding_ = tensors.load("model.embed_tokens.weight", {vocab, hidden});
  m.final_norm_ = tensors.load("model.norm.weight", {hidden});
  m.n_parameters_ = vocab * hidden + hidden;
  for (std::int32_t i = 0; i < c.n_layers; ++i) m.layers_.push_back(m.load_layer(tensors, i));
  m.lm_head_ = c.tie_word_embeddings
                   ? PackedMatrix::from_weight(m.embedding_.data(), vocab, hidden, hidden)
                   : m.load_fused(tensors, {"lm_head"}, {vocab}, hidden, false);
  return m;
}

void Model::check_input(std::span<const std::int32_t> tokens,
                        std::span<const std::int32_t> positions) const {
  if (tokens.size() != positions.size()) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("forward", "positions.size()", positions.size(),
                           "tokens.size() = " + std::to_string(tokens.size())));
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      throw kvcodec::invalid_argument(kvcodec::bad_value(
          "forward", "token", token, "0.." + std::to_string(config_.vocab_size - 1)));
    }
  }
  for (const std::int32_t position : positions) {
    if (position < 0 || position >= config_.max_position) {
      throw kvcodec::invalid_argument(kvcodec::bad_value(
          "forward", "position", position, "0.." + std::to_string(config_.max_position - 1)));
    }
  }
}

void Model::normalize(const float* x, const std::vector<float>& weight, std::int64_t n,
                      float* out) const {
  const std::int64_t hidden = config_.hidden_size;
  for_rows(executor_, n, [&](std::int64_t r) {
    rms_norm(x + r * hidden, weight.data(), hidden, config_.rms_norm_eps, out + r * hidden);
  });
}

// work.x += o(attention(norm(work.x)))
void Model::run_attention(const Layer& layer, AttentionCall call, const Attention& attention,
                          Workspace& work) const {
  const std::int64_t n = call.n, d = config_.head_dim;
  const std::int64_t n_q = config_.n_q_heads, n_kv = config_.n_kv_heads;
  normalize(work.x.data(), layer.attention_norm, n, work.normed.data());
  layer.qkv.multiply(work.normed.data(), n, work.qkv.data(), executor_);
  for_rows(executor_, n, [&](std::int64_t r) {
    const float* from = work.qkv.data() + r * (n_q + 2 * n_kv) * d;
    const float* angles = work.angles.data() + r * d;
    for (std::int64_t h = 0; h < n_q; ++h, from += d) {
      rope_rotate(from, angles, config_.head_dim, work.q.data() + (r * n_q + h) * d);
    }
    for (std::int64_t h = 0; h < n_kv; ++h, from += d) {
      rope_rotate(from, angles, config_.head_dim, work.k.data() + (r * n_kv + h) * d);
    }
    std::copy_n(from, n_kv * d, work.v.data() + r * n_kv * d);
  });
  call.q = work.q.data();
  call.k = work.k.data();
  call.v = work.v.data();
  call.out = work.attended.data();
  attention(call);
  layer.o.multiply(work.attended.data(), n, work.normed.data(), executor_);
  const std::int64_t size = n * config_.hidden_size;
  for (std::int64_t i = 0; i < size; ++i) work.x.data()[i] += work.normed.data()[i];
}

// work.x += down(silu(gate(norm(work.x))) * up(norm(work.x)))
void Model::run_mlp(const Layer& layer, std::int64_t n, Workspace& work) const {
  const std::int64_t inner = config_.intermediate_size;
  normalize(work.x.data(), layer.mlp_norm, n, work.normed.data());
  layer.gate_up.multiply(work.normed.data(), n, work.gate_up.data(), executor_);
  for_rows(executor_, n, [&](std::int64_t r) {
    float* gate = work.gate_up.data() + r * 2 * inner;
    silu_multiply(gate, gate + inner, inner, gate);
  });
  layer.down.multiply(work.gate_up.data(), 2 * inner, n, inner, config_.hidden_size,
                      work.normed.data(), config_.hidden_size, executor_);
  const std::int64_t size = n * config_.hidden_size;
  for (std::int64_t i = 0; i < size; ++i) work.x.data()[i] += work.normed.data()[i];
}

std::span<const float> Model::forward(std::span<const std::int32_t> tokens,
                                      std::span<const std::int32_t> positions,
                                      const Attention& attention,
                                      std::span<const std::int64_t> logit_rows,
                                      Workspace& work) const {
  check_input(tokens, positions);
  const auto n = static_cast<std::int64_t>(tokens.size());
  const std::int64_t hidden = config_.hidden_size, d = config_.head_dim;
  const std::int64_t n_q = config_.n_q_heads, n_kv = config_.n_kv_heads;
  grow(work.x, n * hidden);
  grow(work.normed, n * hidden);
  grow(work.angles, n * d);
  grow(work.qkv, n * (n_q + 2 * n_kv) * d);
  grow(work.q, n * n_q * d);
  grow(work.k, n * n_kv * d);
  grow(work.v, n * n_kv * d);
  grow(work.attended, n * n_q * d);
  grow(work.gate_up, n * 2 * config_.intermediate_size);
  rope_angles(frequencies_, positions, work.angles.data());
  for (std::int64_t r = 0; r < n; ++r) {
    std::copy_n(embedding_.data() + tokens[static_cast<std::size_t>(r)] * hidden, hidden,
                work.x.data() + r * hidden);
  }
  for (std::int32_t i = 0; i < config_.n_layers; ++i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    run_attention(layer, {.layer = i, .n = n}, attention, work);
    run_mlp(layer, n, work);
  }
  const auto n_logits = static_cast<std::int64_t>(logit_rows.size());
  grow(work.normed, n_logits * hidden);
  grow(work.logits, n_logits * config_.vocab_size);
  for (std::int64_t i = 0; i < n_logits; ++i) {
    normalize(work.x.data() + logit_rows[static_cast<std::size_t>(i)] * hidden, final_norm_, 1,
              work.normed.data() + i * hidden);
  }
  lm_head_.multiply(work.normed.data(), n_logits, work.logits.data(), executor_);
  return {work.logits.data(), static_cast<std::size_t>(n_logits * config_.vocab_size)};
}

std::vector<float> Model::dense(std::span<const std::int32_t> tokens,
                                std::span<const std::int64_t> logit_rows) const {
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  const auto attention = [this](const AttentionCall& call) {
    dense_attention(call, head_shape(), config_.window[static_cast<std::size_t>(call.layer)],
                    executor_);
  };
  Workspace work;
  const std::span<const float> logits = forward(tokens, positions, attention, logit_rows, work);
  return {logits.begin(), logits.end()};
}

std::vector<float> Model::forward_dense(std::span<const std::int32_t> tokens) const {
  std::vector<std::int64_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return dense(tokens, rows);
}

std::vector<float> Model::forward_dense_last(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) throw kvcodec::invalid_argument("forward_dense_last: tokens is empty");
  const std::int64_t last = static_cast<std::int64_t>(tokens.size()) - 1;
  return dense(tokens, {&last, 1});
}

}  // namespace llama
