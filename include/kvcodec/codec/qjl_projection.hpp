// The projection S of the QJL codec: sketch_dim vectors s_i of head_dim values.
//
// Source   QJL, arXiv 2406.03482: Definition 3.1 (independent Gaussian entries), section 4.1 (rows
//          orthogonalised by QR in every experiment).
// gauss    s_ic ~ N(0, 1), independent.
// orthogonal (default)   the same draws, cut into pieces of head_dim rows; the rows of a piece are
//          orthogonalised in order and given the norm sqrt(head_dim). The last piece may be narrower.
//          Without that norm the estimator's constant sqrt(pi / 2) / m would be wrong by
//          sqrt(head_dim): a well-known mistake of ports that silently removes the whole term.
//
// S is a pure function of (seed, sketch_dim, head_dim, kind), and row i does not depend on
// sketch_dim: S with fewer rows is the beginning of S with more. Draws come from a counter through
// splitmix64 and the polar method with a logarithm of our own, all of it in float64 additions,
// products, quotients and square roots, rounded once to f32: no compiler or C library changes a bit.
#pragma once

#include <cstdint>
#include <vector>

namespace kvcodec {

/// How the rows of S relate.
enum class QjlKind : std::uint8_t { orthogonal, gauss };

/// Most rows of S.
inline constexpr int kMaxSketchDim = 1024;

/// S as kernels read it; trivially copyable, owns nothing.
struct QjlTables {
  const float* rows = nullptr;  ///< [sketch_dim, head_dim]: row i is s_i; read by decoders
  const float* columns =
      nullptr;  ///< [head_dim, sketch_dim]: its transpose; read by encoders, queries
  std::int32_t sketch_dim = 0;
  std::int32_t head_dim = 0;
};

/// Owns one S in both layouts; immutable.
class QjlProjection {
 public:
  /// Draws S. seed: any; sketch_dim: 1..1024; head_dim: 2..256. Throws invalid_argument otherwise.
  ///
  /// Costs 2 * sketch_dim * min(sketch_dim, head_dim) * head_dim multiply-adds when orthogonal.
  static QjlProjection generate(std::uint32_t seed, int sketch_dim, int head_dim,
                                QjlKind kind = QjlKind::orthogonal);

  /// S given row by row, rows [sketch_dim, head_dim]: one trained or drawn elsewhere. The limits of
  /// generate() hold; the estimate is unbiased only if rows look like those of generate().
  static QjlProjection from_rows(const float* rows, int sketch_dim, int head_dim);

  /// generate(), once per process and argument list; lives as long as the process. Thread-safe.
  static const QjlProjection& shared(std::uint32_t seed, int sketch_dim, int head_dim,
                                     QjlKind kind);

  /// Valid as long as this object, also after it was moved from one place to another.
  QjlTables tables() const noexcept {
    return {rows_.data(), columns_.data(), sketch_dim_, head_dim_};
  }
  int sketch_dim() const noexcept { return sketch_dim_; }
  int head_dim() const noexcept { return head_dim_; }

 private:
  QjlProjection(std::vector<float> rows, int sketch_dim, int head_dim);

  std::vector<float> rows_;
  std::vector<float> columns_;
  std::int32_t sketch_dim_;
  std::int32_t head_dim_;
};

/// c_d = sqrt(d / 2) Gamma(d / 2) / Gamma((d + 1) / 2) = 1 + 1 / (4 d) + ...: the estimate with an
/// orthogonal S has the mean c_d * q.k (with a Gaussian one, q.k). head_dim: even, at least 2.
double qjl_bias(int head_dim) noexcept;

}  // namespace kvcodec
