// Matrix products with a matrix that is packed once and used many times.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcodec/core/executor.hpp"

namespace llama {

/// B [n_in, n_out] as panels [n_out / 64, n_in, 64], the last one padded with zeros, and a bias.
///
/// A panel is read from its first to its last byte while its 64 outputs are summed, which suits
/// both one row (all of the time goes into reading weights) and many.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// From weights [n_out, n_in], the order of nn.Linear: y = x W^T. Strides count elements.
  static PackedMatrix from_weight(const float* weight, std::int64_t n_out, std::int64_t n_in,
                                  std::int64_t stride);
  /// From B [n_in, n_out].
  static PackedMatrix from_rows(const float* b, std::int64_t n_in, std::int64_t n_out,
                                std::int64_t stride);

  /// bias [n_out]; without this call it is zero.
  void set_bias(const std::vector<float>& bias);

  std::int64_t n_in() const noexcept { return n_in_; }
  std::int64_t n_out() const noexcept { return n_out_; }

  /// y [n, columns] = x [n, k] . B[0:k, 0:columns] + bias, with k <= n_in and columns <= n_out.
  void multiply(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                std::int64_t columns, float* y, std::int64_t y_stride,
                const kvcodec::Executor& executor) const;

  /// y [n, n_out] = x [n, n_in] . B + bias, all dense.
  void multiply(const float* x, std::int64_t n, float* y, const kvcodec::Executor& executor) const {
    multiply(x, n_in_, n, n_in_, n_out_, y, n_out_, executor);
  }

 private:
  PackedMatrix(std::int64_t n_in, std::int64_t n_out);

  std::int64_t n_in_ = 0;
  std::int64_t n_out_ = 0;
  std::vector<float> panels_;
  std::vector<float> bias_;  ///< padded to whole panels
};

}  // namespace llama
