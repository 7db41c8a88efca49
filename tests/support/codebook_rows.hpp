// Rows with neighbours, and a table that covers some: what the tests of the codebook share.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kvcodec/codec/codebook.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

inline constexpr int kCodebookDim = 64;

/// n rows around a few directions, closer to them or less so, of any length.
inline std::vector<float> clustered_rows(std::int64_t n, int n_clusters, std::uint64_t seed,
                                         int dim = kCodebookDim) {
  test::Random random(seed);
  const std::vector<float> centers = test::gauss_rows(n_clusters, dim, seed + 1);
  std::vector<float> x;
  for (std::int64_t row = 0; row < n; ++row) {
    const auto cluster = static_cast<std::size_t>(random.below(n_clusters) * dim);
    const double noise = 0.05 + 0.3 * random.uniform();
    const double length = std::exp(random.gauss());
    for (int c = 0; c < dim; ++c) {
      const double center = static_cast<double>(centers[cluster + static_cast<std::size_t>(c)]);
      x.push_back(static_cast<float>(length * (center + noise * random.gauss())));
    }
  }
  return x;
}

/// n rows all over a sphere in three of the dimensions: neighbours of neighbours, so that what leaves
/// the graph changes the degrees of what stays.
inline std::vector<float> sphere_rows(std::int64_t n, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<float> x(static_cast<std::size_t>(n * kCodebookDim));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(random.gauss() * (i % kCodebookDim < 3 ? 1.0 : 0.01));
  }
  return x;
}

inline double dot(const float* a, const float* b, int n = kCodebookDim) {
  double sum = 0.0;
  for (int c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

inline double norm(const float* x, int n = kCodebookDim) { return std::sqrt(dot(x, x, n)); }

inline double cosine(const float* a, const float* b) { return dot(a, b) / (norm(a) * norm(b)); }

/// A table and what cover() said about some rows.
struct Covered {
  Covered(const std::vector<float>& rows, float theta,
          const std::vector<std::int32_t>& weights = {}, CodebookMatch match = CodebookMatch::best)
      : table(kCodebookDim, theta, match) {
    add(rows, weights);
  }
  void add(const std::vector<float>& rows, const std::vector<std::int32_t>& weights = {}) {
    x = rows;
    index.assign(x.size() / kCodebookDim, 0);
    magnitude.assign(index.size(), -1.0f);
    table.cover(std::ssize(index), x.data(), weights.empty() ? nullptr : weights.data(),
                index.data(), magnitude.data());
  }
  const float* row(std::size_t i) const { return x.data() + i * kCodebookDim; }
  std::vector<float> entry(std::uint32_t i) const {
    std::vector<float> values;
    for (int c = 0; c < kCodebookDim; ++c)
      values.push_back(to_f32(table.entries()[i * kCodebookDim + c]));
    return values;
  }

  CodebookTable table;
  std::vector<float> x;
  std::vector<std::uint32_t> index;
  std::vector<float> magnitude;
};

}  // namespace kvcodec::test
