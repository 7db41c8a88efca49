// The just-in-time codebook of SpindleKV (arXiv 2507.06517, section 3.4): unit vectors that stand
// for rows of nearly the same direction.
//
// A row x is kept as (index of an entry, |x|) and read as |x| * entry. Entries are rows that came
// by, normalised, never averages. For n new rows:
//
//   1. unit_a = x_a / |x_a|. Rows whose |x| rounds to 0 in f16 get index kNone and magnitude 0.
//   2. A row whose cosine with an entry exceeds theta gets that entry: the best one, or the first.
//   3. The others form a graph, linked where their cosine exceeds theta (every row with itself).
//      Repeat until no row is left: take the row of the largest degree (sum of the weights of the
//      rows linked to it that are left, itself included; ties: lowest row), append it as an entry,
//      give the entry to all rows linked to it, remove these.
//
// A row's weight is the number of query heads that keep it. Weights give what repeating the row so
// often would give, without storing anything twice.
//
// So: any two entries of one cover() have a cosine of at most theta, every row has one above theta
// with its own entry, and |x - xhat| < |x| sqrt(2 - 2 theta), up to the rounding of entries to f16.
//
// Algorithm 1 of the paper sums rows of the similarity matrix, which never changes, so its loop
// would take one row forever; its equation 10 (the graph that is left) is meant. The paper leaves
// ties, the choice among several matching entries, and what happens after the prompt open.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec {

/// unit [dim] <- x / |x|; returns |x|, at most kF16Max. NaN counts as 0 and infinities as +-kF32Max.
/// If |x| rounds to 0 in f16, unit is 0 and so is the result.
///
/// Squares of f32 are exact in f64, so that no compiler's fused products change a bit. unit may be x.
KVCODEC_HD inline float normalise_row(int dim, const float* x, float* unit) noexcept {
  double square = 0.0;
  for (int c = 0; c < dim; ++c) {
    unit[c] = clamp_finite(x[c], kF32Max);
    square += static_cast<double>(unit[c]) * static_cast<double>(unit[c]);
  }
  const double norm = sqrt(square);
  const float magnitude = norm < static_cast<double>(kF16Max) ? static_cast<float>(norm) : kF16Max;
  const bool none = to_f16(magnitude).bits == 0;
  for (int c = 0; c < dim; ++c) {
    unit[c] = none ? 0.0f : static_cast<float>(static_cast<double>(unit[c]) / norm);
  }
  return none ? 0.0f : magnitude;
}

/// n rows and who is linked to whom: cosine > theta, or the same row. One bit per pair.
class CosineGraph {
 public:
  /// unit [n, dim] of length 1. Cosines are f32 sums in channel order, the same on every machine.
  /// Throws std::bad_alloc.
  CosineGraph(std::int64_t n, int dim, const float* unit, float theta);

  std::int64_t n() const noexcept { return n_; }
  std::int64_t words() const noexcept { return words_; }
  /// Bit b % 64 of word b / 64 says whether row b is linked to row a.
  const std::uint64_t* row(std::int64_t a) const noexcept {
    return bits_.data() + static_cast<std::size_t>(a * words_);
  }
  bool linked(std::int64_t a, std::int64_t b) const noexcept {
    return (row(a)[b / 64] >> (b % 64) & 1u) != 0;
  }
  /// degree[a] = sum of weights[b] over the rows b linked to a; null weights: all 1.
  std::vector<std::int64_t> degrees(const std::int32_t* weights) const;

 private:
  void link(std::int64_t a, std::int64_t b) noexcept;

  std::int64_t n_;
  std::int64_t words_;
  std::vector<std::uint64_t> bits_;
};

/// Which rows became entries, and whose entry each row got.
struct GreedyCover {
  std::vector<std::uint32_t> chosen;  ///< [n_chosen] rows in the order they were taken
  std::vector<std::int64_t> degree;   ///< [n_chosen] degree of each when it was taken
  std::vector<std::uint32_t> code;    ///< [n] place in `chosen`
};

/// Step 3 above. weights [n], 1 or more, or null for all 1. Throws std::bad_alloc.
GreedyCover cover_greedily(const CosineGraph& graph, const std::int32_t* weights);

/// Which of several matching entries a row gets.
enum class CodebookMatch : std::uint8_t { best, first };

/// The entries of one (sequence, layer, side), or of one KV head of it. A copy is independent.
///
/// Not thread-safe; const members may run at the same time as each other.
class CodebookTable {
 public:
  /// Index of rows that have no entry: they decode to 0.
  static constexpr std::uint32_t kNone = 0xffffffffu;
  /// Rows whose graph is built at once (128 MiB of bits); more are covered piece by piece in order,
  /// later pieces matched against the entries of earlier ones first.
  static constexpr std::int64_t kPieceRows = 32768;
  /// Above it a row might not match its own copy, for rounding.
  static constexpr float kMaxTheta = 0.9999f;

  /// head_dim 1..256; theta 0..kMaxTheta. Throws invalid_argument.
  CodebookTable(int head_dim, float theta, CodebookMatch match = CodebookMatch::best);

  int head_dim() const noexcept { return head_dim_; }
  float theta() const noexcept { return theta_; }
  std::uint32_t n_entries() const noexcept { return n_entries_; }
  /// [n_entries, head_dim]; valid until the next cover(), truncate() or assignment.
  const f16* entries() const noexcept { return entries_.data(); }
  /// Memory held: entries with what the vector reserves beyond them, and this object.
  std::int64_t bytes() const noexcept;

  /// Gives every row an entry, appending entries where none matches.
  ///
  /// x [n, head_dim], keys before position encoding; weights [n] of 1 or more, null: all 1;
  /// index [n], magnitude [n] out: magnitude is |x|, at most 65504, not yet rounded to f16.
  /// Throws invalid_argument, unsupported beyond 2^32 - 2 entries, std::bad_alloc; a call that
  /// throws leaves the table as it was, but index and magnitude undefined.
  void cover(std::int64_t n, const float* x, const std::int32_t* weights, std::uint32_t* index,
             float* magnitude);

  /// Forgets all entries but the first n. Throws invalid_argument if there are fewer.
  void truncate(std::uint32_t n);

 private:
  void cover_piece(std::int64_t n, const float* x, const std::int32_t* weights,
                   std::uint32_t* index, float* magnitude);
  void match_entries(std::int64_t n, const float* unit, const float* magnitude,
                     std::uint32_t* index) const;
  void append(std::size_t n, const std::uint32_t* rows, const float* unit);

  int head_dim_;
  float theta_;
  CodebookMatch match_;
  std::uint32_t n_entries_ = 0;
  std::vector<f16> entries_;
};

}  // namespace kvcodec
