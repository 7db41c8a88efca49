// The just-in-time codebook: the greedy cover and its laws, growth, look-ups.
#include "kvcodec/codec/codebook.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <vector>

#include "tests/support/codebook_rows.hpp"
#include "tests/support/inputs.hpp"

namespace {

constexpr std::int64_t kNoLimit = -1;
std::int64_t allocations_left = kNoLimit;  // kNoLimit: memory never runs out

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t n) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* p = std::malloc(n == 0 ? 1 : n);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace kvcodec {
namespace {

using test::clustered_rows, test::cosine, test::Covered, test::dot, test::norm, test::sphere_rows;

constexpr int kDim = test::kCodebookDim;
constexpr std::uint32_t kNone = CodebookTable::kNone;

/// The greedy rule written down once more: a matrix whose rows and columns are cleared.
struct PlainGreedy {
  PlainGreedy(const std::vector<float>& x, double theta) {
    const std::size_t n = x.size() / kDim;
    std::vector<std::vector<int>> graph(n, std::vector<int>(n));
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = 0; b < n; ++b) {
        graph[a][b] = a == b || cosine(x.data() + a * kDim, x.data() + b * kDim) > theta;
      }
    }
    code.assign(n, -1);
    for (;;) {
      std::size_t best = 0;
      int most = 0;
      for (std::size_t a = 0; a < n; ++a) {
        const int sum = std::accumulate(graph[a].begin(), graph[a].end(), 0);
        if (sum > most) best = a, most = sum;
      }
      if (most == 0) return;
      const std::vector<int> covered = graph[best];
      for (std::size_t b = 0; b < n; ++b) {
        if (covered[b] == 0) continue;
        code[b] = static_cast<int>(chosen.size());
        for (std::size_t a = 0; a < n; ++a) graph[a][b] = graph[b][a] = 0;
      }
      chosen.push_back(best);
      degree.push_back(most);
    }
  }

  std::vector<std::size_t> chosen;
  std::vector<int> degree;
  std::vector<int> code;
};

GreedyCover greedy(const std::vector<float>& x, float theta, const std::int32_t* weights,
                   std::vector<std::int64_t>* degrees = nullptr) {
  std::vector<float> unit(x.size());
  const auto n = std::ssize(x) / kDim;
  for (std::int64_t i = 0; i < n; ++i)
    normalise_row(kDim, x.data() + i * kDim, unit.data() + i * kDim);
  const CosineGraph graph(n, kDim, unit.data(), theta);
  if (degrees != nullptr) *degrees = graph.degrees(weights);
  return cover_greedily(graph, weights);
}

TEST(Codebook, CoverIsAMaximalIndependentSet) {
  for (const float theta : {0.0f, 0.6f, 0.9f, 0.95f, 0.98f}) {
    const std::vector<float> x = sphere_rows(301, 21);  // 301: panels and words not full
    std::vector<std::int64_t> degrees;
    const GreedyCover cover = greedy(x, theta, nullptr, &degrees);
    const double t = static_cast<double>(theta);
    for (std::size_t i = 0; i < cover.chosen.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        ASSERT_LE(cosine(&x[cover.chosen[i] * kDim], &x[cover.chosen[j] * kDim]), t + 1e-6);
      }
    }
    bool all_swapped = true;
    for (std::size_t row = 0; row < 301; ++row) {
      const std::size_t code = cover.code[row];
      ASSERT_GT(cosine(&x[row * kDim], &x[cover.chosen[code] * kDim]), t - 1e-6);
      const std::size_t other = cover.chosen[(code + 1) % cover.chosen.size()];
      all_swapped = all_swapped && cosine(&x[row * kDim], &x[other * kDim]) > t - 1e-6;
    }
    EXPECT_FALSE(all_swapped) << "a wrong entry would not be noticed";
    EXPECT_EQ(cover.degree[0], *std::max_element(degrees.begin(), degrees.end()));
    EXPECT_TRUE(std::is_sorted(cover.degree.rbegin(), cover.degree.rend()));
    EXPECT_GT(cover.chosen.size(), 1u);
    EXPECT_LT(cover.chosen.size(), 301u);
  }
}

TEST(Codebook, CoverMatchesThePlainRule) {
  for (const std::uint64_t seed : {31u, 32u, 33u}) {
    const std::vector<float> x = sphere_rows(150, seed);
    const PlainGreedy plain(x, 0.95);
    const GreedyCover cover = greedy(x, 0.95f, nullptr);
    ASSERT_EQ(cover.chosen.size(), plain.chosen.size()) << seed;
    for (std::size_t i = 0; i < plain.chosen.size(); ++i) {
      EXPECT_EQ(cover.chosen[i], plain.chosen[i]) << seed;
      EXPECT_EQ(cover.degree[i], plain.degree[i]) << seed;
    }
    for (std::size_t i = 0; i < 150; ++i) EXPECT_EQ(static_cast<int>(cover.code[i]), plain.code[i]);
  }
}

TEST(Codebook, WeightsAreRepetitions) {
  const std::vector<float> x = sphere_rows(80, 41);
  test::Random random(42);
  std::vector<std::int32_t> weights;
  std::vector<float> repeated;
  std::vector<std::size_t> origin;
  for (std::size_t row = 0; row < 80; ++row) {
    weights.push_back(1 + static_cast<std::int32_t>(random.below(4)));
    for (std::int32_t i = 0; i < weights.back(); ++i) {
      repeated.insert(repeated.end(), x.begin() + static_cast<std::ptrdiff_t>(row * kDim),
                      x.begin() + static_cast<std::ptrdiff_t>((row + 1) * kDim));
      origin.push_back(row);
    }
  }
  const GreedyCover weighted = greedy(x, 0.95f, weights.data());
  const PlainGreedy plain(repeated, 0.95);
  ASSERT_EQ(weighted.chosen.size(), plain.chosen.size());
  for (std::size_t i = 0; i < plain.chosen.size(); ++i) {
    EXPECT_EQ(weighted.chosen[i], origin[plain.chosen[i]]);
    EXPECT_EQ(weighted.degree[i], plain.degree[i]);
  }
  for (std::size_t i = 0; i < origin.size(); ++i) {
    ASSERT_EQ(static_cast<int>(weighted.code[origin[i]]), plain.code[i]);
  }
  EXPECT_NE(greedy(x, 0.95f, nullptr).chosen, weighted.chosen) << "weights do not matter here";
}

TEST(Codebook, TiesGoToTheLowestRow) {
  // Four pairs of equal degree, then single rows.
  std::vector<float> x(10 * kDim);
  for (std::size_t row = 0; row < 10; ++row) x[row * kDim + (row < 8 ? row % 4 : row)] = 2.0f;
  const GreedyCover cover = greedy(x, 0.98f, nullptr);
  EXPECT_EQ(cover.chosen, (std::vector<std::uint32_t>{0, 1, 2, 3, 8, 9}));
  EXPECT_EQ(cover.degree, (std::vector<std::int64_t>{2, 2, 2, 2, 1, 1}));
  const std::vector<std::int32_t> weights = {1, 1, 1, 1, 1, 1, 1, 1, 3, 3};
  EXPECT_EQ(greedy(x, 0.98f, weights.data()).chosen,
            (std::vector<std::uint32_t>{8, 9, 0, 1, 2, 3}));
}

TEST(Codebook, ErrorBoundMagnitudesAndRepresentatives) {
  for (const float theta : {0.85f, 0.95f, 0.98f}) {
    const Covered c(clustered_rows(400, 15, 51), theta);
    const GreedyCover cover = greedy(c.x, theta, nullptr);
    ASSERT_EQ(c.table.n_entries(), cover.chosen.size());
    const double bound = std::sqrt(2.0 - 2.0 * static_cast<double>(theta));
    double worst = 0.0;
    for (std::size_t row = 0; row < c.index.size(); ++row) {
      ASSERT_EQ(c.index[row], cover.code[row]);
      const double length = norm(c.row(row));
      EXPECT_NEAR(static_cast<double>(c.magnitude[row]), length, 1e-6 * length);
      std::vector<float> difference = c.entry(c.index[row]);
      for (std::size_t i = 0; i < kDim; ++i) {
        difference[i] = difference[i] * c.magnitude[row] - c.row(row)[i];
      }
      const double error = norm(difference.data()) / length;
      EXPECT_LE(error, bound + 5e-4);
      worst = std::max(worst, error);
      if (cover.chosen[c.index[row]] == row) {
        EXPECT_LE(error, 5e-4) << "its own entry";
      }
    }
    EXPECT_GT(worst, 0.8 * bound) << "rows are too alike to test the bound";
  }
}

TEST(Codebook, CopiesOfRowsMatchWhateverTheRounding) {
  test::Random random(61);
  Covered c(test::gauss_rows(600, kDim, 62), CodebookTable::kMaxTheta);
  ASSERT_EQ(c.table.n_entries(), 600u);
  int below = 0;  // cosines with entries as they are stored, not brought back to length 1
  for (std::size_t row = 0; row < 600; ++row) {
    below += dot(c.row(row), c.entry(c.index[row]).data()) / norm(c.row(row)) <=
             static_cast<double>(CodebookTable::kMaxTheta);
  }
  EXPECT_GT(below, 0) << "the rounding of entries does not matter here";
  std::vector<float> scaled = c.x;
  for (std::size_t row = 0; row < 600; ++row) {
    const auto scale = static_cast<float>(std::exp(3.0 * random.gauss()));
    for (std::size_t i = 0; i < kDim; ++i) scaled[row * kDim + i] *= scale;
  }
  const std::vector<std::uint32_t> before = c.index;
  c.add(scaled);
  EXPECT_EQ(c.index, before);
  EXPECT_EQ(c.table.n_entries(), 600u);
  // The same within one call.
  const Covered twice(std::vector<float>(5 * kDim, 0.37f), CodebookTable::kMaxTheta);
  EXPECT_EQ(twice.table.n_entries(), 1u);
}

TEST(Codebook, GrowsRowByRow) {
  Covered c(clustered_rows(200, 10, 71), 0.95f);
  const CodebookTable start = c.table;
  const std::vector<float> more = clustered_rows(60, 14, 71);
  for (std::size_t row = 0; row < 60; ++row) {
    const std::uint32_t n = c.table.n_entries();
    double best = -1.0;
    std::uint32_t nearest = 0;
    for (std::uint32_t e = 0; e < n; ++e) {
      const double similar = cosine(&more[row * kDim], c.entry(e).data());
      if (similar > best) best = similar, nearest = e;
    }
    c.add({more.begin() + static_cast<std::ptrdiff_t>(row * kDim),
           more.begin() + static_cast<std::ptrdiff_t>((row + 1) * kDim)});
    const bool grown = c.table.n_entries() == n + 1;
    EXPECT_EQ(grown, !(best > 0.95)) << row;
    EXPECT_EQ(c.index[0], grown ? n : nearest) << row;
  }
  EXPECT_GT(c.table.n_entries(), start.n_entries());
  for (std::size_t i = 0; i < std::size_t{start.n_entries()} * kDim; ++i) {
    ASSERT_EQ(c.table.entries()[i].bits, start.entries()[i].bits) << "old entries stay";
  }
}

TEST(Codebook, BestOrFirstMatch) {
  // Entries at 0, 30 and 15 degrees from the first axis; a row at 12 degrees matches all three.
  const auto at = [](double degrees) {
    std::vector<float> x(kDim);
    x[0] = static_cast<float>(std::cos(degrees * 0.017453292519943295));
    x[1] = static_cast<float>(std::sin(degrees * 0.017453292519943295));
    return x;
  };
  for (const CodebookMatch match : {CodebookMatch::best, CodebookMatch::first}) {
    Covered c(at(30.0), 0.99f, {}, match);
    c.add(at(0.0));
    c.add(at(15.0));
    ASSERT_EQ(c.table.n_entries(), 3u);
    Covered wide(at(30.0), 0.9f, {}, match);  // cos 30 = 0.87, cos 18 = 0.95, cos 12 = 0.98
    wide.add(at(0.0));
    ASSERT_EQ(wide.table.n_entries(), 2u);
    wide.add(at(12.0));
    EXPECT_EQ(wide.index[0], match == CodebookMatch::best ? 1u : 0u);
    wide.add(at(18.0));
    EXPECT_EQ(wide.index[0], 0u);
  }
}

TEST(Codebook, EqualMatchesGoToTheLowestEntry) {
  std::vector<float> x(2 * kDim);
  x[0] = 1.0f;
  x[kDim + 1] = 1.0f;
  Covered c(x, 0.7f);
  std::vector<float> between(kDim);
  between[0] = between[1] = 1.0f;  // cosine 0.7071 with both
  c.add(between);
  EXPECT_EQ(c.index[0], 0u);
  EXPECT_EQ(c.table.n_entries(), 2u);
}

TEST(Codebook, ManyRowsArePiecesInOrder) {
  constexpr int dim = 4;
  const std::int64_t n = CodebookTable::kPieceRows + 1000;
  std::vector<float> x(static_cast<std::size_t>(n * dim));
  for (std::int64_t row = 0; row < n; ++row) x[static_cast<std::size_t>(row * dim)] = 1.0f;
  const auto turn = [&](std::int64_t row, int axis, float length = 3.0f) {
    x[static_cast<std::size_t>(row * dim)] = 0.0f;
    x[static_cast<std::size_t>(row * dim + axis)] = length;
  };
  constexpr std::int64_t second = CodebookTable::kPieceRows;
  turn(5, 1);           // becomes an entry in the first piece
  turn(second + 1, 1);  // is found again in the second
  turn(second + 2, 2);  // becomes an entry there, after
  turn(second + 3, 3);  // this one, which weighs more
  CodebookTable table(dim, 0.98f);
  std::vector<std::uint32_t> index(static_cast<std::size_t>(n));
  std::vector<float> magnitude(index.size());
  table.cover(1, x.data(), nullptr, index.data(), magnitude.data());
  std::vector<std::int32_t> weights(index.size(), 2);
  weights[second + 3] = 5;
  table.cover(n, x.data(), weights.data(), index.data(), magnitude.data());
  EXPECT_EQ(table.n_entries(), 4u);
  for (std::int64_t row = 0; row < n; ++row) {
    const std::uint32_t want = row == 5 || row == second + 1 ? 1u
                               : row == second + 2           ? 3u
                               : row == second + 3           ? 2u
                                                             : 0u;
    ASSERT_EQ(index[static_cast<std::size_t>(row)], want) << row;
    ASSERT_EQ(magnitude[static_cast<std::size_t>(row)], want == 0 ? 1.0f : 3.0f) << row;
  }
  // A call that fails anywhere, its second piece included, takes back what it added.
  turn(7, 1, -1.0f);
  turn(second + 7, 2, -1.0f);
  std::int64_t n_failures = 0;
  for (bool failed = true; failed; ++n_failures) {
    allocations_left = n_failures;
    try {
      table.cover(n, x.data(), weights.data(), index.data(), magnitude.data());
      failed = false;
    } catch (const std::bad_alloc&) {
    }
    allocations_left = kNoLimit;
    ASSERT_EQ(table.n_entries(), failed ? 4u : 6u) << n_failures << " allocations";
  }
  EXPECT_GT(n_failures, 10);
}

TEST(Codebook, ZeroTinyHugeAndNonFiniteRows) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(7 * kDim);
  x[0 * kDim] = -0.0f;
  x[1 * kDim] = 0x1p-26f;                                 // |x| rounds to 0 in f16
  x[2 * kDim] = std::numeric_limits<float>::quiet_NaN();  // counts as 0
  x[3 * kDim + 1] = inf;                                  // one direction is left
  x[4 * kDim + 1] = 1e30f;                                // the same one
  x[5 * kDim + 1] = -7e4f;                                // opposite: cosine -1
  x[6 * kDim + 2] = 0x1p-24f;                             // the smallest f16
  const Covered c(x, 0.98f);
  EXPECT_EQ(c.index, (std::vector<std::uint32_t>{kNone, kNone, kNone, 0, 0, 1, 2}));
  EXPECT_EQ(c.magnitude,
            (std::vector<float>{0.0f, 0.0f, 0.0f, kF16Max, kF16Max, kF16Max, 0x1p-24f}));
  for (std::uint32_t e = 0; e < 3; ++e) EXPECT_EQ(norm(c.entry(e).data()), 1.0);
}

TEST(Codebook, CopiesAreIndependentAndTruncateForgets) {
  Covered c(clustered_rows(100, 10, 81), 0.98f);
  const std::uint32_t n = c.table.n_entries();
  EXPECT_GE(c.table.bytes(), std::int64_t{n} * kDim * 2);
  EXPECT_LE(c.table.bytes(), std::int64_t{n} * kDim * 2 * 9 / 8 + 256);
  const CodebookTable child = c.table;
  const std::vector<std::uint32_t> before = c.index;
  c.add(test::gauss_rows(40, kDim, 85));
  EXPECT_EQ(c.table.n_entries(), n + 40);
  EXPECT_EQ(child.n_entries(), n);
  c.table.truncate(n);
  EXPECT_EQ(c.table.n_entries(), n);
  c.add(clustered_rows(100, 10, 81));
  EXPECT_EQ(c.index, before);
  EXPECT_THROW(c.table.truncate(n + 1), invalid_argument);
}

TEST(Codebook, RefusesBadArguments) {
  EXPECT_THROW(CodebookTable(0, 0.9f), invalid_argument);
  EXPECT_THROW(CodebookTable(257, 0.9f), invalid_argument);
  for (const float theta : {-0.1f, 1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THROW(CodebookTable(kDim, theta), invalid_argument);
  }
  Covered c(clustered_rows(10, 3, 91), 0.98f);
  const std::uint32_t n = c.table.n_entries();
  const std::vector<float> x = test::gauss_rows(1, kDim, 92);
  const std::int32_t none = 0;
  EXPECT_THROW(c.table.cover(1, x.data(), &none, c.index.data(), c.magnitude.data()),
               invalid_argument);
  EXPECT_THROW(c.table.cover(-1, x.data(), nullptr, c.index.data(), c.magnitude.data()),
               invalid_argument);
  EXPECT_EQ(c.table.n_entries(), n);
  EXPECT_NO_THROW(c.table.cover(0, nullptr, nullptr, nullptr, nullptr));
}

}  // namespace
}  // namespace kvcodec
