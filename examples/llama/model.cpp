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

Model::Layer Model::load_layer(const TensorStore& tensors, std::int32_t index,
                               const WeightFormat& format) {
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
  if (format.quantized()) {
    const float clip = format.clip.empty() ? 1.0f : format.clip[static_cast<std::size_t>(index)];
    quantize(layer, layer, format.group, clip);
  }
  return layer;
}

void Model::quantize(Layer& layer, const Layer& source, std::int32_t group, float clip) const {
  for (PackedMatrix Layer::*matrix : {&Layer::qkv, &Layer::o, &Layer::gate_up, &Layer::down}) {
    layer.*matrix = (source.*matrix).quantized(group, clip, executor_);
  }
}

void Model::quantize_layer(std::int32_t layer, const Model& source, std::int32_t group,
                           float clip) {
  if (layer < 0 || layer >= config_.n_layers) {
    throw kvcodec::invalid_argument(kvcodec::bad_value(
        "quantize_layer", "layer", layer, "0.." + std::to_string(config_.n_layers - 1)));
  }
  if (source.config_.n_layers != config_.n_layers || source.n_parameters_ != n_parameters_) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("quantize_layer", "source.n_parameters()", source.n_parameters_,
                           std::to_string(n_parameters_) + ", the same model"));
  }
  const auto index = static_cast<std::size_t>(layer);
  quantize(layers_[index], source.layers_[index], group, clip);
}

bool Model::quantizes_weights() const noexcept {
  return std::any_of(layers_.begin(), layers_.end(),
                     [](const Layer& layer) { return layer.qkv.is_quantized(); });
}

std::int64_t Model::linear_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const Layer& l : layers_) {
    bytes += l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
  }
  return bytes;
}

std::int64_t Model::weight_bytes() const noexcept {
  std::size_t values = embedding_.size() + final_norm_.size();
  for (const Layer& l : layers_) values += l.attention_norm.size() + l.mlp_norm.size();
  return linear_bytes() + lm_head_.bytes() + static_cast<std::int64_t>(values * sizeof(float));
}

Model Model::load(const std::filesystem::path& folder, kvcodec::Executor executor,
                  const WeightFormat& format) {
  Model m;
  m.config_ = read_config(folder);
  m.executor_ = executor;
  const Config& c = m.config_;
  check(format, c.n_layers);
  const std::int64_t hidden = c.hidden_size, vocab = c.vocab_size;
  const TensorStore tensors = TensorStore::open(folder);
  m.frequencies_ = llama::rope_frequencies(c.rope, c.head_dim);
  m.embedding_ = tensors.load("model.embed_tokens.weight", {vocab, hidden});
  m.final_norm_ = tensors.load("model.norm.weight", {hidden});
  m.n_parameters_ = vocab * hidden + hidden;
  for (std::int32_t i = 0; i < c.n_layers; ++i) {
    m.layers_.push_back(m.load_layer(tensors, i, format));
  }
  m.lm_head_ = c.tie_word_embeddings
                   ? PackedMatrix::from_weight(m.embedding_.data(), vocab, hidden, hidden)
                   : m.load_fused(tensors, {"lm_head"}, {vocab}, hidden, false);
  return m;
}

void Model::check_tokens(std::span<const std::int32_t> tokens) const {
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      throw kvcodec::invalid_argument(kvcodec::bad_value(
          "forward", "token", token, "0.." + std::to_string(config_.vocab_size - 1)));
    }
  }
}

void Model::check_positions(std::span<const std::int32_t> positions) const {
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

// x += o(attention(norm(x)))
void Model::run_attention(const Layer& layer, AttentionCall call, const Attention& attention,
                          float* x, Workspace& work) const {
  const std::int64_t n = call.n, d = config_.head_dim;
  const std::int64_t n_q = config_.n_q_heads, n_kv = config_.n_kv_heads;
  normalize(x, layer.attention_norm, n, work.normed.data());
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
  for (std::int64_t i = 0; i < size; ++i) x[i] += work.normed.data()[i];
}

// x += down(silu(gate(norm(x))) * up(norm(x)))
void Model::run_mlp(const Layer& layer, std::int64_t n, float* x, Workspace& work) const {
  const std::int64_t inner = config_.intermediate_size;
  normalize(x, layer.mlp_norm, n, work.normed.data());
  layer.gate_up.multiply(work.normed.data(), n, work.gate_up.data(), executor_);
  for_rows(executor_, n, [&](std::int64_t r) {
    float* gate = work.gate_up.data() + r * 2 * inner;
    silu_multiply(gate, gate + inner, inner, gate);
  });
  layer.down.multiply(work.gate_up.data(), 2 * inner, n, inner, config_.hidden_size,
                      work.normed.data(), config_.hidden_size, executor_);
  const std::int64_t size = n * config_.hidden_size;
  for (std::int64_t i = 0; i < size; ++i) x[i] += work.normed.data()[i];
}

std::vector<float> Model::embed(std::span<const std::int32_t> tokens) const {
  check_tokens(tokens);
  std::vector<float> out;
  copy_embeddings(tokens, out);
  return out;
}

// out [at least n, hidden_size]
void Model::copy_embeddings(std::span<const std::int32_t> tokens, std::vector<float>& out) const {
  const std::int64_t hidden = config_.hidden_size;
  grow(out, std::ssize(tokens) * hidden);
  for (std::size_t r = 0; r < tokens.size(); ++r) {
    std::copy_n(embedding_.data() + tokens[r] * hidden, hidden,
                out.data() + static_cast<std::int64_t>(r) * hidden);
  }
}

void Model::run_layers(std::int32_t first, std::int32_t last, std::span<float> hidden,
                       std::span<const std::int32_t> positions, const Attention& attention,
                       Workspace& work) const {
  if (first < 0 || last > config_.n_layers || first > last) {
    throw kvcodec::invalid_argument(kvcodec::bad_value(
        "run_layers", "first, last", std::to_string(first) + ", " + std::to_string(last),
        "a range within 0.." + std::to_string(config_.n_layers)));
  }
  const std::int64_t n = std::ssize(positions), d = config_.head_dim;
  const std::int64_t n_q = config_.n_q_heads, n_kv = config_.n_kv_heads;
  if (std::ssize(hidden) != n * config_.hidden_size) {
    throw kvcodec::invalid_argument(kvcodec::bad_value(
        "run_layers", "hidden.size()", hidden.size(),
        std::to_string(n) + " positions of " + std::to_string(config_.hidden_size) + " values"));
  }
  check_positions(positions);
  grow(work.normed, n * config_.hidden_size);
  grow(work.angles, n * d);
  grow(work.qkv, n * (n_q + 2 * n_kv) * d);
  grow(work.q, n * n_q * d);
  grow(work.k, n * n_kv * d);
  grow(work.v, n * n_kv * d);
  grow(work.attended, n * n_q * d);
  grow(work.gate_up, n * 2 * config_.intermediate_size);
  rope_angles(frequencies_, positions, work.angles.data());
  for (std::int32_t i = first; i < last; ++i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    run_attention(layer, {.layer = i, .n = n}, attention, hidden.data(), work);
    run_mlp(layer, n, hidden.data(), work);
  }
}

std::span<const float> Model::logits(std::span<const float> hidden,
                                     std::span<const std::int64_t> rows, Workspace& work) const {
  const std::int64_t width = config_.hidden_size;
  const std::int64_t n = std::ssize(rows);
  grow(work.normed, n * width);
  grow(work.logits, n * config_.vocab_size);
  for (std::int64_t i = 0; i < n; ++i) {
    normalize(hidden.data() + rows[static_cast<std::size_t>(i)] * width, final_norm_, 1,
              work.normed.data() + i * width);
  }
  lm_head_.multiply(work.normed.data(), n, work.logits.data(), executor_);
  return {work.logits.data(), static_cast<std::size_t>(n * config_.vocab_size)};
}

std::span<const float> Model::forward(std::span<const std::int32_t> tokens,
                                      std::span<const std::int32_t> positions,
                                      const Attention& attention,
                                      std::span<const std::int64_t> logit_rows,
                                      Workspace& work) const {
  if (tokens.size() != positions.size()) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("forward", "positions.size()", positions.size(),
                           "tokens.size() = " + std::to_string(tokens.size())));
  }
  check_tokens(tokens);
  copy_embeddings(tokens, work.x);
  const std::span<float> x =
      std::span(work.x).first(tokens.size() * static_cast<std::size_t>(config_.hidden_size));
  run_layers(0, config_.n_layers, x, positions, attention, work);
  return logits(x, logit_rows, work);
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
  const std::span<const float> out = forward(tokens, positions, attention, logit_rows, work);
  return {out.begin(), out.end()};
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
