// Measures a model on a cache: perplexity, recall, generation.
//
// Every function takes an Engine, whose cache must have room for the work (cache_needs() says how
// much), opens sequences of its own and closes them again.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "examples/llama/eval_data.hpp"
#include "examples/llama/sampler.hpp"
#include "examples/llama/session.hpp"

namespace llama {

/// Called now and then with tokens done and tokens to do; may be empty.
using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

struct EvalOptions {
  /// Tokens per pass. Tokens of one pass see each other exactly, so that a large chunk hides the
  /// loss of a codec from perplexity: small ones are slower and honest.
  std::int64_t chunk_size = 64;
  std::int64_t max_documents = 0;  ///< of EvalData::documents; 0: all
  std::int64_t max_contexts = 0;   ///< of EvalData::recall; 0: all
  std::int32_t batch = 24;         ///< questions answered at once, each in a fork of the context
  Progress progress = {};
  /// Perplexity also hands on the logits [n, vocab_size] that follow tokens first..first+n-1 of a
  /// document; may be empty.
  std::function<void(std::size_t document, std::int64_t first, std::span<const float> logits)>
      logits = {};
};

/// Room a cache needs for everything in an evaluation set.
struct CacheNeeds {
  std::int64_t max_tokens = 0;
  std::int32_t max_sequences = 0;
};
CacheNeeds cache_needs(const EvalData& data, const EvalOptions& options);

/// -log2 softmax(logits)[token]
double surprise_bits(std::span<const float> logits, std::int32_t token);

/// Mean surprise over a class of bytes.
struct Surprise {
  double bits = 0.0;  ///< sum
  std::int64_t n = 0;
  double bits_per_byte() const noexcept { return n == 0 ? 0.0 : bits / static_cast<double>(n); }
};

/// What one run of text cost.
struct Cost {
  std::int64_t n_tokens = 0;
  double seconds = 0.0;
  double tokens_per_second() const noexcept {
    return seconds > 0.0 ? static_cast<double>(n_tokens) / seconds : 0.0;
  }
};

/// Takes the logits [n, vocab_size] that follow tokens first..first+n-1 of a document; they are
/// gone after the call.
using TakeLogits = std::function<void(std::int64_t first, std::span<const float> logits)>;

/// Runs all tokens of a document but the last, which predicts nothing that is known, through a new
/// sequence of the cache, one pass at a time. Policies that judge at the end of a prompt do so in
/// the middle, so that only the second half can suffer.
class DocumentPasses {
 public:
  /// `tokens` must stay. Throws invalid_argument for a chunk_size below 1, and what Engine::open
  /// throws.
  DocumentPasses(Engine& engine, std::span<const std::int32_t> tokens, std::int64_t chunk_size);

  bool done() const noexcept { return position_ >= n_; }
  std::int64_t position() const noexcept { return position_; }  ///< tokens run
  /// Runs the next tokens and returns the logits behind each of them, valid until the engine's next
  /// pass; nothing when done. Throws what Engine::run throws.
  std::span<const float> next();
  const Cost& cost() const noexcept { return cost_; }
  kvcodec::CacheBytes bytes() const;  ///< of the sequence as it is now

 private:
  Session session_;
  std::span<const std::int32_t> tokens_;
  std::int64_t chunk_size_, n_, prompt_, position_ = 0;
  Cost cost_;
};

struct Perplexity {
  Surprise all;  ///< every byte but the first of each document
  Surprise filler;
  Surprise answers;
  std::int64_t n_top1 = 0;  ///< bytes that were the most likely ones
  Cost cost;
  kvcodec::CacheBytes bytes;           ///< of the longest document at its end; zero without a cache
  double perplexity() const noexcept;  ///< 2 ^ all.bits_per_byte()
};

/// Scores the documents through the cache, each by DocumentPasses.
Perplexity measure_perplexity(Engine& engine, const EvalData& data, const EvalOptions& options);
/// The same without a cache, by forward_dense().
Perplexity measure_perplexity(const Model& model, const EvalData& data, const EvalOptions& options);

struct Answer {
  Question question;
  std::string given;
  std::int32_t context = 0;  ///< index into EvalData::recall
  bool correct() const noexcept { return given == question.answer; }
};

struct Recall {
  std::vector<Answer> answers;
  std::int64_t n_correct = 0;
  Cost prefill;               ///< the contexts
  Cost answering;             ///< the questions and answers
  kvcodec::CacheBytes bytes;  ///< of the longest context
  double accuracy() const noexcept;
};

/// Asks every question in a fork of its context and continues greedily.
Recall measure_recall(Engine& engine, const EvalData& data, const EvalOptions& options);

struct Generated {
  std::vector<std::int32_t> tokens;
  Cost prefill;
  Cost decode;
};

/// Continues tokens by n_new, with a cache.
Generated generate(Engine& engine, const std::vector<std::int32_t>& prompt, std::int64_t n_new,
                   Sampler sampler, std::int64_t chunk_size = 256);
/// The same without any cache: the whole text is computed anew for every token.
Generated generate(const Model& model, const std::vector<std::int32_t>& prompt, std::int64_t n_new,
                   Sampler sampler);

}  // namespace llama
