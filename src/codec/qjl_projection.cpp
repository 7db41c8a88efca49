// Drawing and sharing of the projections of the QJL codec.
#include "kvcodec/codec/qjl_projection.hpp"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {
namespace {

/// Finaliser of splitmix64.
constexpr std::uint64_t mix(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15u;

/// ln(x) for normal x > 0: x = 2^e * y with y around 1, then the series of atanh. The error is
/// below 2 units in the last place, and the result the same wherever float64 is IEEE 754.
double natural_log(double x) noexcept {
  int exponent = 0;
  double y = std::frexp(x, &exponent);
  if (y < 0.70710678118654752) {
    y *= 2.0;
    --exponent;
  }
  const double f = (y - 1.0) / (y + 1.0);
  const double square = f * f;
  double sum = 0.0;
  for (int n = 23; n >= 1; n -= 2) sum = sum * square + 1.0 / n;
  return 2.0 * f * sum + exponent * 0.69314718055994531;
}

/// Uniform on (-1, 1), never 0.
double uniform(std::uint64_t bits) noexcept {
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-51 - 1.0;
}

/// The two Gaussian draws number `pair` of a row, by the polar method.
void draw_pair(std::uint32_t seed, int row, int pair, double* out) noexcept {
  std::uint64_t state = mix((static_cast<std::uint64_t>(seed) + 1) * kStep);
  state = mix(state + (static_cast<std::uint64_t>(row) << 20) + static_cast<std::uint64_t>(pair));
  for (;;) {
    const double u = uniform(mix(state += kStep));
    const double v = uniform(mix(state += kStep));
    const double square = u * u + v * v;
    if (square >= 1.0) continue;
    const double factor = std::sqrt(-2.0 * natural_log(square) / square);
    out[0] = u * factor;
    out[1] = v * factor;
    return;
  }
}

/// Sum in an order that does not depend on how wide the machine's registers are.
double dot(const double* a, const double* b, int n) noexcept {
  double part[8] = {};
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) part[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) part[i % 8] += a[i] * b[i];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

/// Makes row `last` orthogonal to unit rows 0..last-1 and a unit vector itself.
///
/// Modified Gram-Schmidt, done twice: the second pass removes what rounding left of the first when
/// a square Gaussian piece is badly conditioned.
void orthonormalize(double* rows, int last, int head_dim) noexcept {
  double* row = rows + static_cast<std::ptrdiff_t>(last) * head_dim;
  for (int pass = 0; pass < 2; ++pass) {
    for (int i = 0; i < last; ++i) {
      const double* unit = rows + static_cast<std::ptrdiff_t>(i) * head_dim;
      const double along = dot(row, unit, head_dim);
      for (int c = 0; c < head_dim; ++c) row[c] -= along * unit[c];
    }
    const double norm = std::sqrt(dot(row, row, head_dim));
    for (int c = 0; c < head_dim; ++c) row[c] /= norm;
  }
}

void check_shape(int sketch_dim, int head_dim) {
  if (sketch_dim < 1 || sketch_dim > kMaxSketchDim) {
    throw invalid_argument(bad_value("qjl projection", "sketch_dim", sketch_dim, "1..1024"));
  }
  if (head_dim < 2 || head_dim > kMaxHeadDim) {
    throw invalid_argument(bad_value("qjl projection", "head_dim", head_dim, "2..256"));
  }
}

}  // namespace

QjlProjection::QjlProjection(std::vector<float> rows, int sketch_dim, int head_dim)
    : rows_(std::move(rows)), columns_(rows_.size()), sketch_dim_(sketch_dim), head_dim_(head_dim) {
  for (int i = 0; i < sketch_dim; ++i) {
    for (int c = 0; c < head_dim; ++c) {
      columns_[static_cast<std::size_t>(c * sketch_dim + i)] =
          rows_[static_cast<std::size_t>(i * head_dim + c)];
    }
  }
}

QjlProjection QjlProjection::generate(std::uint32_t seed, int sketch_dim, int head_dim,
                                      QjlKind kind) {
  check_shape(sketch_dim, head_dim);
  const int padded = head_dim + head_dim % 2;  // draws come in pairs
  const double length = std::sqrt(static_cast<double>(head_dim));
  std::vector<float> rows(static_cast<std::size_t>(sketch_dim * head_dim));
  std::vector<double> piece(static_cast<std::size_t>(head_dim * head_dim + 1));
  for (int i = 0; i < sketch_dim; ++i) {
    const int in_piece = i % head_dim;
    double* row = piece.data() + static_cast<std::ptrdiff_t>(in_piece) * head_dim;
    for (int c = 0; c < padded; c += 2) {
      double drawn[2];
      draw_pair(seed, i, c / 2, drawn);
      row[c] = drawn[0];
      if (c + 1 < head_dim) row[c + 1] = drawn[1];
    }
    if (kind == QjlKind::orthogonal) orthonormalize(piece.data(), in_piece, head_dim);
    for (int c = 0; c < head_dim; ++c) {
      rows[static_cast<std::size_t>(i * head_dim + c)] =
          static_cast<float>(kind == QjlKind::orthogonal ? length * row[c] : row[c]);
    }
  }
  return {std::move(rows), sketch_dim, head_dim};
}

QjlProjection QjlProjection::from_rows(const float* rows, int sketch_dim, int head_dim) {
  check_shape(sketch_dim, head_dim);
  return {std::vector<float>(rows, rows + static_cast<std::ptrdiff_t>(sketch_dim) * head_dim),
          sketch_dim, head_dim};
}

const QjlProjection& QjlProjection::shared(std::uint32_t seed, int sketch_dim, int head_dim,
                                           QjlKind kind) {
  using Key = std::tuple<std::uint32_t, int, int, QjlKind>;
  struct Registry {
    std::mutex mutex;
    std::map<Key, std::unique_ptr<const QjlProjection>> projections;
  };
  // Never destroyed: codec values of other static objects may still point into it.
  static auto& registry = *new Registry;
  const std::lock_guard<std::mutex> lock(registry.mutex);
  auto& entry = registry.projections[{seed, sketch_dim, head_dim, kind}];
  if (entry == nullptr) {
    entry = std::make_unique<const QjlProjection>(generate(seed, sketch_dim, head_dim, kind));
  }
  return *entry;
}

double qjl_bias(int head_dim) noexcept {
  double ratio = 1.1283791670955126;  // Gamma(1) / Gamma(3/2) = 2 / sqrt(pi)
  for (int d = 2; d < head_dim; d += 2) ratio *= static_cast<double>(d) / (d + 1);
  return std::sqrt(0.5 * head_dim) * ratio;
}

}  // namespace kvcodec
