// A model that runs on a kvcodec cache: sequences, chunked prefill, ragged batches, forks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "examples/llama/model.hpp"
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cache/cache.hpp"

namespace llama {

/// Rows of a pass whose logits are wanted.
enum class Logits : std::uint8_t {
  none,
  last,  ///< the last token of every chunk
  all,
};

/// New tokens of one sequence.
struct Chunk {
  kvcodec::SeqId seq = 0;
  std::span<const std::int32_t> tokens;
  /// Tokens of the prompt that follow in later passes, so that eviction policies are told of the
  /// attention of the prompt's last ones (Cache::observe); -1: policies are told nothing.
  std::int64_t prompt_left = -1;
};

/// What a piece of prompt is.
enum class Prompt : std::uint8_t {
  goes_on,
  complete,  ///< its last piece: policies that judge the whole prompt do so behind it
};

class Session;

/// One model, one cache and the working memory that all of its sequences share.
///
/// Not thread-safe: one pass at a time, which itself uses the model's executor. Sessions refer to
/// their engine, so it neither moves nor dies before them.
class Engine {
 public:
  /// Throws what kvcodec::Cache throws, or invalid_argument if the config is not for this model.
  Engine(const Model& model, kvcodec::CacheConfig config);
  /// The same from a plan, e.g. "k=nqkv:g64,v=nqkv:g64,recent=32,sink=4".
  Engine(const Model& model, const std::string& plan, std::int64_t max_tokens,
         std::int32_t max_sequences = 1);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Model& model() const noexcept { return model_; }
  kvcodec::Cache& cache() noexcept { return cache_; }
  const kvcodec::Cache& cache() const noexcept { return cache_; }

  /// A new empty sequence.
  Session open();

  /// Runs new tokens of several sequences in one pass and appends their K and V to the cache.
  ///
  /// The tokens of a pass see each other's K and V exactly; what the codec loses is only what lies
  /// before them. Returns logits [rows, vocab_size] in the order of the chunks, valid until the
  /// next pass. Throws invalid_argument or out_of_pages; the sequences are then as before, except
  /// that a codec which cannot truncate may leave one that can only be closed.
  std::span<const float> run(std::span<const Chunk> chunks, Logits wanted);

 private:
  void collect(std::span<const Chunk> chunks, Logits wanted);
  void attend(const AttentionCall& call);
  void append(const AttentionCall& call);
  void restore() noexcept;

  const Model& model_;
  kvcodec::Cache cache_;
  Workspace work_;
  kvcodec::AttendWorkspace attend_work_;
  // The pass in progress.
  std::vector<kvcodec::SeqId> seqs_;
  std::vector<std::int64_t> indptr_, lengths_, logit_rows_, prompt_left_;
  std::vector<std::int32_t> tokens_, positions_;
};

/// One sequence; closes it when it goes out of scope.
class Session {
 public:
  ~Session();
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;

  kvcodec::SeqId id() const noexcept { return seq_; }
  Engine& engine() const noexcept { return *engine_; }

  /// Tokens so far; the position of the next one.
  std::int64_t position() const { return engine_->cache().n_tokens(seq_); }

  /// Runs tokens in chunks of chunk_size >= 1 and returns the logits of the last one [vocab_size],
  /// or nothing. A last piece of a prompt (Prompt::complete) must hold all tokens whose attention the
  /// policies want to know (Cache::observed_rows). A smaller chunk makes more of the prompt see compressed rows.
  std::span<const float> prefill(std::span<const std::int32_t> tokens, std::int64_t chunk_size,
                                 Logits wanted = Logits::last, Prompt prompt = Prompt::complete);
  /// Runs one token and returns the logits of the next, [vocab_size].
  std::span<const float> step(std::int32_t token);

  /// An independent continuation of this sequence; pages are shared.
  Session fork() const;
  /// Forgets the newest tokens; see kvcodec::Cache::truncate.
  kvcodec::Status truncate(std::int64_t n_tokens) noexcept;

 private:
  friend class Engine;
  Session(Engine& engine, kvcodec::SeqId seq) noexcept : engine_(&engine), seq_(seq) {}

  Engine* engine_;  ///< null after a move
  kvcodec::SeqId seq_;
};

}  // namespace llama
