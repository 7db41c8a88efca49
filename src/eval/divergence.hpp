// What a plan does to the model's predictions: divergence from the logits of a baseline plan on the
// same tokens.
//
//   Baseline baseline(model, documents);             // runs them once with kv=f16
//   const Divergence d = baseline.score("kv=nqkv:g64");
//
// A plan that is scored on a few documents is scored by a Baseline that holds only those.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "examples/llama/session.hpp"
#include "kvcodec/core/executor.hpp"
#include "src/eval/documents.hpp"

namespace kvcodec::eval {

/// Differences between two sets of logits on the same tokens. P is the baseline's softmax, Q the
/// plan's.
struct Divergence {
  std::int64_t n_tokens = 0;
  double kl_mean = 0.0;  ///< nats per token: sum of P ln(P / Q)
  double kl_p99 = 0.0;   ///< the smallest that 99 % of the tokens do not exceed
  double kl_max = 0.0;
  double top1_agreement = 0.0;  ///< share of tokens with the same most likely one, 0..1
  /// Logits, each row shifted to mean 0, which changes no probability: root of the mean square of
  /// the differences, and the largest.
  double logit_rms = 0.0;
  double logit_max = 0.0;
};

/// Collects rows of logits.
class DivergenceSum {
 public:
  /// base, plan [n, vocab_size]. Throws invalid_argument where they differ in size or are no whole
  /// rows. The result does not depend on the executor nor on how rows are split over calls.
  void add(std::span<const float> base, std::span<const float> plan, std::int32_t vocab_size,
           const Executor& executor);

  /// Zeros without rows.
  Divergence result() const;

 private:
  struct Row {
    double kl, square, largest;
    bool agrees;
  };
  std::vector<Row> rows_;
  std::vector<Row> added_;
  std::int64_t n_values_ = 0;
};

struct BaselineOptions {
  std::string plan = "kv=f16";
  std::int64_t chunk_size = 64;  ///< tokens per pass, for baseline and plans
  /// Logits kept, 4 bytes each. Documents beyond are run again, in step with each plan that is
  /// scored: twice the time instead of the memory.
  std::int64_t max_bytes = std::int64_t{1} << 29;
  llama::Progress progress = {};  ///< of the constructor
};

/// The logits of a baseline plan on documents. Scoring does not change it; the model's executor is
/// used, so one call at a time.
class Baseline {
 public:
  /// Runs the documents that are kept. `model` must outlive it. Throws invalid_argument for a
  /// document of less than 2 tokens or a chunk_size below 1, and what the plan or the model throws.
  Baseline(const llama::Model& model, Documents documents, BaselineOptions options = {});

  const Documents& documents() const noexcept { return documents_; }
  const BaselineOptions& options() const noexcept { return options_; }
  const llama::Model& model() const noexcept { return model_; }
  /// Tokens of the longest document: the room that a cache needs.
  std::int64_t max_tokens() const noexcept;
  /// Documents from the first on whose logits are in memory.
  std::size_t n_kept() const noexcept { return kept_.size(); }

  /// Runs a plan on all documents. Throws what the plan, the cache or the model throws.
  Divergence score(const std::string& plan) const;
  /// The same on a cache of the caller's with room for one sequence of max_tokens().
  Divergence score(llama::Engine& engine) const;

 private:
  friend class BaselineReader;

  const llama::Model& model_;
  BaselineOptions options_;
  Documents documents_;
  std::vector<std::vector<float>> kept_;  // [n_kept()] of [tokens - 1, vocab_size]
};

/// Reads a baseline's logits in order, running what was not kept.
class BaselineReader {
 public:
  explicit BaselineReader(const Baseline& baseline) : baseline_(baseline) {}

  /// Logits [n, vocab_size] that follow tokens first..first+n-1, valid until the next call. Chunks
  /// of a document that is not kept must be asked for from its first one on, chunk after chunk of
  /// chunk_size tokens; throws invalid_argument otherwise.
  std::span<const float> rows(std::size_t document, std::int64_t first, std::int64_t n);

 private:
  const Baseline& baseline_;
  std::unique_ptr<llama::Engine> engine_;
  std::optional<llama::DocumentPasses> passes_;
  std::size_t document_ = 0;
};

}  // namespace kvcodec::eval
