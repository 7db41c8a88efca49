#include "kvcodec/codec/codebook_table.hpp"

#include <algorithm>
#include <bit>

#include "kvcodec/core/error.hpp"
#include "src/codec/panel_dots.hpp"

namespace kvcodec {
namespace {

/// Rows that share one pass over the panels, so that these stay in cache.
constexpr std::int64_t kStrip = 64;

/// Rows [n, dim] in panels: [ceil(n / kPanelRows)][dim][kPanelRows], padded with 0.
class Panels {
 public:
  Panels(std::int64_t n, int dim)
      : dim_(dim),
        n_((n + kPanelRows - 1) / kPanelRows),
        values_(static_cast<std::size_t>(n_ * kPanelRows * dim)) {}

  void put(std::int64_t row, const float* x) noexcept {
    float* to = values_.data() + row / kPanelRows * kPanelRows * dim_ + row % kPanelRows;
    for (int c = 0; c < dim_; ++c) to[c * kPanelRows] = x[c];
  }
  std::int64_t n() const noexcept { return n_; }
  const float* panel(std::int64_t i) const noexcept {
    return values_.data() + i * kPanelRows * dim_;
  }

 private:
  std::int64_t dim_;
  std::int64_t n_;
  std::vector<float> values_;
};

/// Calls use(row, first, dots[kPanelRows]) with the products of rows first.. of `panels`, in
/// ascending order of `first` for every row of x [n, dim]. `symmetric`: from the row's own strip on.
template <class Use>
void multiply(std::int64_t n, int dim, const float* x, const Panels& panels, bool symmetric,
              const Use& use) {
  float dots[kStrip * kPanelRows];
  for (std::int64_t strip = 0; strip < n; strip += kStrip) {
    const std::int64_t n_rows = std::min(kStrip, n - strip);
    for (std::int64_t p = symmetric ? strip / kPanelRows : 0; p < panels.n(); ++p) {
      panel_dots(n_rows, dim, x + strip * dim, panels.panel(p), dots);
      for (std::int64_t r = 0; r < n_rows; ++r) {
        use(strip + r, p * kPanelRows, dots + r * kPanelRows);
      }
    }
  }
}

std::int32_t weight_of(const std::int32_t* weights, std::int64_t row) noexcept {
  return weights == nullptr ? 1 : weights[row];
}

/// Calls use(b) for every set bit b of `words` words, `mask` applied if given.
template <class Use>
void for_each_bit(const std::uint64_t* row, const std::uint64_t* mask, std::int64_t words,
                  const Use& use) {
  for (std::int64_t w = 0; w < words; ++w) {
    std::uint64_t left = mask == nullptr ? row[w] : row[w] & mask[w];
    for (; left != 0; left &= left - 1) use(64 * w + std::countr_zero(left));
  }
}

}  // namespace

CosineGraph::CosineGraph(std::int64_t n, int dim, const float* unit, float theta)
    : n_(n), words_((n + 63) / 64), bits_(static_cast<std::size_t>(n * words_)) {
  Panels panels(n, dim);
  for (std::int64_t a = 0; a < n; ++a) panels.put(a, unit + a * dim);
  multiply(n, dim, unit, panels, true, [&](std::int64_t a, std::int64_t first, const float* dots) {
    for (int j = 0; j < kPanelRows; ++j) {
      // The padding's cosines are 0, which a theta of 0 does not exceed either.
      if (dots[j] > theta && first + j > a) link(a, first + j);
    }
  });
  for (std::int64_t a = 0; a < n; ++a) link(a, a);
}

void CosineGraph::link(std::int64_t a, std::int64_t b) noexcept {
  bits_[static_cast<std::size_t>(a * words_ + b / 64)] |= std::uint64_t{1} << (b % 64);
  bits_[static_cast<std::size_t>(b * words_ + a / 64)] |= std::uint64_t{1} << (a % 64);
}

std::vector<std::int64_t> CosineGraph::degrees(const std::int32_t* weights) const {
  std::vector<std::int64_t> degree(static_cast<std::size_t>(n_));
  for (std::int64_t a = 0; a < n_; ++a) {
    std::int64_t sum = 0;
    for_each_bit(row(a), nullptr, words_, [&](std::int64_t b) { sum += weight_of(weights, b); });
    degree[static_cast<std::size_t>(a)] = sum;
  }
  return degree;
}

GreedyCover cover_greedily(const CosineGraph& graph, const std::int32_t* weights) {
  const auto n = static_cast<std::size_t>(graph.n());
  GreedyCover cover;
  cover.code.resize(n);
  // Removed rows have degree 0, which is below every weight.
  std::vector<std::int64_t> degree = graph.degrees(weights);
  std::vector<std::uint64_t> left(static_cast<std::size_t>(graph.words()), ~std::uint64_t{0});
  std::vector<std::int64_t> removed;
  for (std::size_t n_left = n; n_left > 0; n_left -= removed.size()) {
    const auto best = std::max_element(degree.begin(), degree.end());  // the first of equal ones
    const auto row = best - degree.begin();
    cover.degree.push_back(*best);
    removed.clear();
    for_each_bit(graph.row(row), left.data(), graph.words(),
                 [&](std::int64_t b) { removed.push_back(b); });
    for (const std::int64_t b : removed) {
      cover.code[static_cast<std::size_t>(b)] = static_cast<std::uint32_t>(cover.chosen.size());
      left[static_cast<std::size_t>(b / 64)] &= ~(std::uint64_t{1} << (b % 64));
    }
    for (const std::int64_t b : removed) {
      const std::int64_t weight = weight_of(weights, b);
      for_each_bit(graph.row(b), left.data(), graph.words(),
                   [&](std::int64_t c) { degree[static_cast<std::size_t>(c)] -= weight; });
      degree[static_cast<std::size_t>(b)] = 0;
    }
    cover.chosen.push_back(static_cast<std::uint32_t>(row));
  }
  return cover;
}

CodebookTable::CodebookTable(int head_dim, float theta, CodebookMatch match)
    : head_dim_(head_dim), theta_(theta), match_(match) {
  if (head_dim < 1 || head_dim > kMaxHeadDim) {
    throw invalid_argument(bad_value("CodebookTable", "head_dim", head_dim, "1..256"));
  }
  if (!(theta >= 0.0f && theta <= kMaxTheta)) {
    throw invalid_argument(bad_value("CodebookTable", "theta", theta, "0..0.9999"));
  }
}

std::int64_t CodebookTable::bytes() const noexcept {
  return static_cast<std::int64_t>(entries_.capacity() * sizeof(f16) + sizeof *this);
}

void CodebookTable::truncate(std::uint32_t n) {
  if (n > n_entries_) {
    throw invalid_argument(
        bad_value("CodebookTable::truncate", "n", n, "0.." + std::to_string(n_entries_)));
  }
  entries_.resize(static_cast<std::size_t>(n) * static_cast<std::size_t>(head_dim_));
  n_entries_ = n;
}

void CodebookTable::cover(std::int64_t n, const float* x, const std::int32_t* weights,
                          std::uint32_t* index, float* magnitude) {
  if (n < 0) throw invalid_argument(bad_value("CodebookTable::cover", "n", n, "0 or more"));
  for (std::int64_t row = 0; row < n; ++row) {
    if (weight_of(weights, row) < 1) {
      throw invalid_argument(
          bad_value("CodebookTable::cover", "weights[]", weights[row], "1 or more"));
    }
  }
  const std::uint32_t before = n_entries_;
  try {
    for (std::int64_t row = 0; row < n; row += kPieceRows) {
      cover_piece(std::min(kPieceRows, n - row), x + row * head_dim_,
                  weights == nullptr ? nullptr : weights + row, index + row, magnitude + row);
    }
  } catch (...) {
    truncate(before);
    throw;
  }
}

void CodebookTable::cover_piece(std::int64_t n, const float* x, const std::int32_t* weights,
                                std::uint32_t* index, float* magnitude) {
  std::vector<float> unit(static_cast<std::size_t>(n * head_dim_));
  for (std::int64_t row = 0; row < n; ++row) {
    const std::int64_t at = row * head_dim_;
    magnitude[row] = normalise_row(head_dim_, x + at, unit.data() + at);
  }
  match_entries(n, unit.data(), magnitude, index);

  // The rows without an entry, moved to the front of `unit`.
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> row_weights;
  for (std::int64_t row = 0; row < n; ++row) {
    if (index[row] != kNone || magnitude[row] == 0.0f) continue;
    std::copy_n(unit.data() + row * head_dim_, head_dim_,
                unit.data() + static_cast<std::ptrdiff_t>(rows.size()) * head_dim_);
    rows.push_back(row);
    row_weights.push_back(weight_of(weights, row));
  }
  if (rows.empty()) return;
  const CosineGraph graph(static_cast<std::int64_t>(rows.size()), head_dim_, unit.data(), theta_);
  const GreedyCover cover = cover_greedily(graph, row_weights.data());
  const std::uint32_t first = n_entries_;
  append(cover.chosen.size(), cover.chosen.data(), unit.data());
  for (std::size_t i = 0; i < rows.size(); ++i) index[rows[i]] = first + cover.code[i];
}

void CodebookTable::match_entries(std::int64_t n, const float* unit, const float* magnitude,
                                  std::uint32_t* index) const {
  std::fill_n(index, n, kNone);
  if (n_entries_ == 0) return;
  // Entries were rounded to f16: they are brought back to length 1, or a copy of an entry's row
  // could have a cosine below theta with it.
  constexpr std::int64_t kEntries = 256;
  std::vector<float> best(static_cast<std::size_t>(n), theta_);
  float entry[kMaxHeadDim];
  for (std::int64_t begin = 0; begin < std::int64_t{n_entries_}; begin += kEntries) {
    const std::int64_t n_now = std::min(kEntries, std::int64_t{n_entries_} - begin);
    Panels panels(n_now, head_dim_);
    for (std::int64_t e = 0; e < n_now; ++e) {
      const f16* from = entries_.data() + (begin + e) * head_dim_;
      for (int c = 0; c < head_dim_; ++c) entry[c] = to_f32(from[c]);
      normalise_row(head_dim_, entry, entry);
      panels.put(e, entry);
    }
    multiply(n, head_dim_, unit, panels, false,
             [&](std::int64_t row, std::int64_t first, const float* dots) {
               if (magnitude[row] == 0.0f) return;
               float& above = best[static_cast<std::size_t>(row)];
               for (int j = 0; j < kPanelRows && first + j < n_now; ++j) {
                 if (match_ == CodebookMatch::first && index[row] != kNone) return;
                 if (!(dots[j] > above)) continue;
                 above = dots[j];
                 index[row] = static_cast<std::uint32_t>(begin + first + j);
               }
             });
  }
}

void CodebookTable::append(std::size_t n, const std::uint32_t* rows, const float* unit) {
  if (n >= kNone - n_entries_) {
    throw unsupported(bad_value("CodebookTable", "entries",
                                std::int64_t{n_entries_} + static_cast<std::int64_t>(n),
                                "up to 4294967294"));
  }
  const auto dim = static_cast<std::size_t>(head_dim_);
  const std::size_t needed = entries_.size() + n * dim;
  // Grows by an eighth at least: copies stay rare without doubling the memory.
  if (needed > entries_.capacity()) {
    entries_.reserve(std::max(needed, entries_.capacity() + entries_.capacity() / 8));
  }
  for (std::size_t i = 0; i < n; ++i) {
    const float* from = unit + rows[i] * dim;
    for (std::size_t c = 0; c < dim; ++c) entries_.push_back(to_f16(from[c]));
  }
  n_entries_ += static_cast<std::uint32_t>(n);
}

}  // namespace kvcodec
