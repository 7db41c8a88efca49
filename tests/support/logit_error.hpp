// Errors of q . k for unit vectors with a given product, the quantity attention depends on.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

/// Statistics over many pairs of unit vectors q, k of `head_dim` values with q . k = product.
struct LogitError {
  double scaled_square = 0.0;  ///< head_dim * mean of (estimate - product)^2
  double bias = 0.0;           ///< mean of estimate - product
  double bias_sigma = 0.0;     ///< standard error of `bias`
  std::int64_t n = 0;

  void add(double error, int head_dim) noexcept {
    sum_ += error;
    square_ += error * error;
    ++n;
    const auto count = static_cast<double>(n);
    bias = sum_ / count;
    scaled_square = head_dim * square_ / count;
    bias_sigma = std::sqrt(std::fmax(square_ / count - bias * bias, 0.0) / count);
  }

 private:
  double sum_ = 0.0;
  double square_ = 0.0;
};

inline double dot(std::size_t n, const float* a, const float* b) noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// A unit vector q with q . k = product * |k|.
inline std::vector<double> query_at(double product, const float* k, int head_dim, Random& random) {
  const auto n = static_cast<std::size_t>(head_dim);
  const double kk = dot(n, k, k);
  std::vector<double> q(n);
  double along = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    q[i] = random.gauss();
    along += q[i] * static_cast<double>(k[i]);
  }
  double rest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    q[i] -= along / kk * static_cast<double>(k[i]);
    rest += q[i] * q[i];
  }
  for (std::size_t i = 0; i < n; ++i) {
    q[i] = std::sqrt((1.0 - product * product) / rest) * q[i] +
           product / std::sqrt(kk) * static_cast<double>(k[i]);
  }
  return q;
}

/// Hands fn(k, decoded k, q, random) pairs with q . k = product * |k|: Gaussian rows k as they come
/// out of a rotation, kPerKey queries each.
template <class F>
void for_each_pair(const AnyCodec& codec, int head_dim, double product, int n_tiles,
                   std::uint64_t seed, F&& fn) {
  constexpr int kPerKey = 4;
  Random random(seed);
  const auto d = static_cast<std::size_t>(head_dim);
  std::vector<std::byte> tile(codec.tile_bytes(head_dim));
  std::vector<float> decoded(kTileRows * d);
  for (int t = 0; t < n_tiles; ++t) {
    const std::vector<float> x = gauss_rows(kTileRows, head_dim, random.bits());
    codec.encode_tile(Side::key, head_dim, x.data(), tile.data());
    codec.decode_tile(Side::key, head_dim, tile.data(), decoded.data());
    for (std::size_t row = 0; row < kTileRows; ++row) {
      for (int i = 0; i < kPerKey; ++i) {
        fn(&x[row * d], &decoded[row * d], query_at(product, &x[row * d], head_dim, random),
           random);
      }
    }
  }
}

/// The error of a codec. `factor` multiplies every estimate: 1, or a wrong constant on purpose.
inline LogitError logit_error(const AnyCodec& codec, int head_dim, double product, int n_tiles,
                              std::uint64_t seed, double factor = 1.0) {
  LogitError error;
  const auto d = static_cast<std::size_t>(head_dim);
  for_each_pair(codec, head_dim, product, n_tiles, seed,
                [&](const float* k, const float* decoded, const std::vector<double>& q, Random&) {
                  double estimate = 0.0;
                  for (std::size_t c = 0; c < d; ++c) {
                    estimate += q[c] * static_cast<double>(decoded[c]);
                  }
                  estimate *= factor / std::sqrt(dot(d, k, k));
                  error.add(estimate - product, head_dim);
                });
  return error;
}

}  // namespace kvcodec::test
