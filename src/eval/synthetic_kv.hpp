// Keys, values and questions made by a formula: one layer of attention with facts planted in it.
//
// A key before position encoding is
//
//   mean + D (noise + topics)      D: one standard deviation per channel pair, a few of them large;
//                                  noise: heavy-tailed, unit variance; topics: low rank, drifting
//
// and is then rotated to its position. The first tokens are sinks: an outsized key in a fixed
// direction, a small value. A planted token is as large as any other, but a known u, stated after
// rotation, stands for its noise and topics; its value is one of the answers. A query for it is
//
//   gain D^-1 u + q_noise D^-1 n + a share of the sinks' direction and of the mean's
//
// so that its logit does not depend on the distance, and all channels weigh the same in it.
//
// How hard the questions are follows from f16 alone. With n tokens, logits of the others Gaussian of
// variance s^2 and a sink that weighs as much as all of them, exact attention gives
//
//   needle, multi-needle   share 0.98 to what is asked for: gain is the smallest number that does
//   key-value              a logit of 30, the largest in golden case realistic-kv, and 0.98 against
//                          the near-duplicates: their common cosine is the largest that leaves it
//
// in the mean of the logits. No codec plays a part in these numbers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/transform/rope.hpp"

namespace kvcodec::eval {

/// What the numbers look like. "rope" is the deep layer of golden case realistic-kv; "iid", "outliers",
/// "biased" and "lognormal" are models A to D of the structure test, without positions.
struct KvModel {
  std::string name;
  bool rope = true;
  double lognormal = 0.0;      ///< of D
  std::int32_t hot_pairs = 0;  ///< pairs of channels whose D is hot times larger
  double hot = 1.0;
  std::int32_t biased_pairs = 0;  ///< pairs with a mean, with positions the slowest ones
  double bias = 0.0;              ///< |mean| of such a channel
  double heavy = 0.0;             ///< share of noise values that are 3 times as wide
  double topic = 0.0;             ///< standard deviation of the topics, in that of the noise
  std::int32_t sinks = 0;
};

/// Throws invalid_argument listing the names.
KvModel kv_model(const std::string& name);
std::string kv_model_names();

enum class TaskKind : std::uint8_t { needle, multi_needle, key_value };
/// "needle", "multi_needle", "key_value"; static storage.
const char* to_string(TaskKind kind) noexcept;

/// One query row, asked in every head: each head has its own contents at the same positions.
struct Planted {
  TaskKind kind = TaskKind::needle;
  double depth = 0.0;               ///< of a needle: position / length
  std::vector<std::int32_t> facts;  ///< indices into SyntheticContext::positions()
};

/// A context of n_tokens, one head per KV head. Everything is a pure function of the arguments, row by
/// row: nothing of the size of the context is kept. Const members may run at the same time.
class SyntheticContext {
 public:
  /// n_tokens: 1024..1048576. Throws invalid_argument.
  SyntheticContext(const KvModel& model, std::int64_t n_tokens, std::uint64_t seed);

  static constexpr HeadShape kShape{2, 2, 128};
  static constexpr std::int32_t kNeedles = 32;  ///< of the task needle, one per query
  static constexpr std::int32_t kGroups = 8;    ///< queries of multi-needle
  static constexpr std::int32_t kPerGroup = 4;  ///< needles of each
  static constexpr std::int32_t kPairs = 64;    ///< near-duplicates, each asked once
  static constexpr double kShare = 0.98;        ///< of exact attention, by design
  static constexpr double kKeyValueLogit = 30.0;

  std::int64_t n_tokens() const noexcept { return n_tokens_; }
  /// Of facts, in the order of their numbers.
  const std::vector<std::int32_t>& positions() const noexcept { return positions_; }
  const std::vector<Planted>& queries() const noexcept { return queries_; }
  /// Radians per position; empty without positions.
  const std::vector<double>& frequencies() const noexcept { return frequencies_; }
  /// Cosine of the contents of two pairs.
  double duplicate_cosine() const noexcept { return cosine_; }

  /// k, v [n_kv_heads, n, head_dim]: rows first..first+n-1.
  void rows(std::int64_t first, std::int64_t n, float* k, float* v,
            const Executor& executor = {}) const;
  /// q [queries().size(), n_q_heads, head_dim]
  std::vector<float> query_rows() const;
  /// [n, n_q_heads, head_dim] queries like those of tokens that ask for nothing planted.
  std::vector<float> plain_queries(std::int64_t n) const;
  /// v [head_dim], a value or an average of values, less the mean of all values and in standard
  /// deviations of each channel.
  std::vector<double> in_deviations(std::int32_t head, const double* v) const;
  /// in_deviations() of a fact's value.
  std::vector<double> answer(std::int32_t head, std::int32_t fact) const;

 private:
  struct Head {
    std::vector<float> scale, mean, sink, v_mean, v_scale;  // [head_dim]
    std::vector<std::vector<float>> topics;                 // unit variance per channel
    std::vector<std::vector<float>> contents;               // u of every fact
  };

  Head make_head(std::int32_t head) const;
  void place_facts();
  /// Directions that contents keep clear of: what asks for a fact must not happen to ask for the sink as
  /// well, whose key is large, nor the other way round.
  std::vector<std::vector<float>> sink_directions(const Head& head) const;
  void plant(Head& head, std::int32_t index) const;
  void set_gains();
  void key_row(std::int32_t head, std::int64_t token, float* k) const;
  void value_row(std::int32_t head, std::int64_t token, float* v) const;
  void add_topics(const Head& head, std::int32_t index, std::int64_t token, float* x) const;
  void add_background(const Head& head, std::uint64_t seed, float* q) const;

  KvModel model_;
  std::int64_t n_tokens_;
  std::uint64_t seed_;
  std::vector<double> frequencies_;
  RopeTable rope_;
  std::vector<std::int32_t> positions_;
  std::vector<std::pair<std::int32_t, std::int32_t>> fact_at_;  ///< (position, fact), sorted
  std::vector<Planted> queries_;
  std::vector<Head> heads_;
  double gain_[3] = {0.0, 0.0, 0.0};  ///< by TaskKind
  double sink_gain_ = 0.0;
  double cosine_ = 0.0;
};

}  // namespace kvcodec::eval
