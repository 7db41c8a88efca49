#include "examples/llama/session.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kvcodec/plan/plan.hpp"

namespace llama {
namespace {

kvcodec::CacheConfig checked(const Model& model, kvcodec::CacheConfig config) {
  const auto n_layers = static_cast<std::size_t>(model.config().n_layers);
  if (config.shape != model.head_shape() || config.layers.size() != n_layers) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("Engine", "config.layers.size()", config.layers.size(),
                           std::to_string(n_layers) + " layers, with the model's head shape"));
  }
  return config;
}

float sm_scale(const kvcodec::HeadShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
}

/// Codebooks of keys need to know how the model rotates.
kvcodec::CacheConfig with_frequencies(const Model& model, kvcodec::CacheConfig config) {
  if (config.rope_frequencies.empty()) config.rope_frequencies = model.frequencies();
  return config;
}

}  // namespace

Engine::Engine(const Model& model, kvcodec::CacheConfig config)
    : model_(model), cache_(checked(model, std::move(config))) {}

Engine::Engine(const Model& model, const std::string& plan, std::int64_t max_tokens,
               std::int32_t max_sequences)
    : Engine(model, with_frequencies(model, kvcodec::make_cache_config(
                                                plan, model.head_shape(), model.config().n_layers,
                                                max_tokens, max_sequences))) {}

Session Engine::open() { return {*this, cache_.open()}; }

void Engine::collect(std::span<const Chunk> chunks, Logits wanted) {
  seqs_.clear();
  lengths_.clear();
  prompt_left_.clear();
  logit_rows_.clear();
  tokens_.clear();
  positions_.clear();
  indptr_.assign(1, 0);
  for (const Chunk& chunk : chunks) {
    if (chunk.tokens.empty()) throw kvcodec::invalid_argument("Engine::run: a chunk is empty");
    if (std::find(seqs_.begin(), seqs_.end(), chunk.seq) != seqs_.end()) {
      throw kvcodec::invalid_argument(
          kvcodec::bad_value("Engine::run", "seq", chunk.seq, "every sequence once per pass"));
    }
    const std::int64_t length = cache_.n_tokens(chunk.seq);
    for (std::int32_t layer = 1; layer < cache_.n_layers(); ++layer) {
      if (cache_.n_tokens(chunk.seq, layer) != length) {
        throw kvcodec::invalid_argument(
            kvcodec::bad_value("Engine::run", "seq", chunk.seq,
                               "a sequence whose layers are equally long; close this one"));
      }
    }
    seqs_.push_back(chunk.seq);
    prompt_left_.push_back(chunk.prompt_left);
    lengths_.push_back(length);
    for (const std::int32_t token : chunk.tokens) {
      const auto row = static_cast<std::int64_t>(tokens_.size());
      if (wanted == Logits::all) logit_rows_.push_back(row);
      tokens_.push_back(token);
      positions_.push_back(static_cast<std::int32_t>(length + row - indptr_.back()));
    }
    indptr_.push_back(static_cast<std::int64_t>(tokens_.size()));
    if (wanted == Logits::last) logit_rows_.push_back(indptr_.back() - 1);
  }
}

void Engine::attend(const AttentionCall& call) {
  const kvcodec::HeadShape shape = model_.head_shape();
  kvcodec::Step step;
  step.seqs = seqs_;
  step.indptr = indptr_;
  step.q = kvcodec::dense_rows(call.q, call.n, shape.n_q_heads, shape.head_dim);
  step.k_new = kvcodec::dense_rows(call.k, call.n, shape.n_kv_heads, shape.head_dim);
  step.v_new = kvcodec::dense_rows(call.v, call.n, shape.n_kv_heads, shape.head_dim);
  kvcodec::AttendOptions options;
  options.sm_scale = sm_scale(shape);
  options.window = model_.config().window[static_cast<std::size_t>(call.layer)];
  kvcodec::attend(cache_, call.layer, step, call.out, nullptr, options, attend_work_,
                  model_.executor());
}

void Engine::append(const AttentionCall& call) {
  const kvcodec::HeadShape shape = model_.head_shape();
  const std::int64_t width = std::int64_t{shape.n_kv_heads} * shape.head_dim;
  for (std::size_t s = 0; s < seqs_.size(); ++s) {
    const std::int64_t first = indptr_[s], n = indptr_[s + 1] - first;
    const auto rows = [&](const float* data) {
      return kvcodec::dense_rows(data + first * width, n, shape.n_kv_heads, shape.head_dim);
    };
    cache_.append(seqs_[s], call.layer, rows(call.k), rows(call.v));
    if (prompt_left_[s] < 0) continue;
    const std::int64_t n_seen =
        std::clamp<std::int64_t>(cache_.observed_rows(call.layer) - prompt_left_[s], 0, n);
    const float* q = call.q + (first + n - n_seen) * shape.n_q_heads * shape.head_dim;
    cache_.observe(seqs_[s], call.layer,
                   kvcodec::dense_rows(q, n_seen, shape.n_q_heads, shape.head_dim),
                   sm_scale(shape));
  }
}

void Engine::restore() noexcept {
  for (std::size_t s = 0; s < seqs_.size(); ++s) {
    // Where this fails, the next run() refuses the sequence.
    static_cast<void>(cache_.truncate(seqs_[s], lengths_[s]));
  }
}

std::span<const float> Engine::run(std::span<const Chunk> chunks, Logits wanted) {
  collect(chunks, wanted);
  try {
    return model_.forward(
        tokens_, positions_,
        [this](const AttentionCall& call) {
          attend(call);
          append(call);
        },
        logit_rows_, work_);
  } catch (...) {
    restore();
    throw;
  }
}

Session::~Session() {
  if (engine_ != nullptr) engine_->cache().close(seq_);
}

Session::Session(Session&& other) noexcept
    : engine_(std::exchange(other.engine_, nullptr)), seq_(other.seq_) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(engine_, other.engine_);
  std::swap(seq_, other.seq_);
  return *this;
}

std::span<const float> Session::prefill(std::span<const std::int32_t> tokens,
                                        std::int64_t chunk_size, Logits wanted, Prompt prompt) {
  if (chunk_size < 1) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("prefill", "chunk_size", chunk_size, "1 and above"));
  }
  if (wanted == Logits::all) {
    throw kvcodec::invalid_argument("prefill: wanted = all, allowed: none, last; see Engine::run");
  }
  std::span<const float> logits;
  while (!tokens.empty()) {
    const auto n = std::min(tokens.size(), static_cast<std::size_t>(chunk_size));
    Chunk chunk{seq_, tokens.first(n)};
    tokens = tokens.subspan(n);
    if (prompt == Prompt::complete) chunk.prompt_left = std::ssize(tokens);
    logits = engine_->run({&chunk, 1}, tokens.empty() ? wanted : Logits::none);
  }
  if (prompt == Prompt::complete) engine_->cache().end_prompt(seq_);
  return logits;
}

std::span<const float> Session::step(std::int32_t token) {
  const Chunk chunk{seq_, {&token, 1}};
  return engine_->run({&chunk, 1}, Logits::last);
}

Session Session::fork() const { return {*engine_, engine_->cache().fork(seq_)}; }

kvcodec::Status Session::truncate(std::int64_t n_tokens) noexcept {
  return engine_->cache().truncate(seq_, n_tokens);
}

}  // namespace llama
