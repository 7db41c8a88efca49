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
///
/// The 4-bit form keeps, per output and `group` consecutive inputs (the last group may be shorter),
/// an f16 step and an f16 low end, and per weight a code 0..15:
///
///   w = low + step * code           4 + 32 / group bits per weight
///
/// A product unpacks one group of a panel at a time into a buffer of group x 64 floats. Sums go in
/// the same order as with f32 weights, so the results are those of to_rows() in f32, bit by bit.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// From weights [n_out, n_in], the order of nn.Linear: y = x W^T. Strides count elements.
  static PackedMatrix from_weight(const float* weight, std::int64_t n_out, std::int64_t n_in,
                                  std::int64_t stride);
  /// From B [n_in, n_out].
  static PackedMatrix from_rows(const float* b, std::int64_t n_in, std::int64_t n_out,
                                std::int64_t stride);

  /// The 4-bit form of an f32 matrix, with the same bias.
  ///
  /// Every group's range is its own min..max, shrunk about its middle by the factor of a grid from
  /// 1 to 0.6 with the least squared error, and then by `clip` in (0, 1]. group: 32, 64 or 128.
  /// Throws invalid_argument for another value, or if this matrix is in 4 bits already.
  PackedMatrix quantized(std::int32_t group, float clip, const kvcodec::Executor& executor) const;

  /// bias [n_out]; without this call it is zero.
  void set_bias(const std::vector<float>& bias);

  std::int64_t n_in() const noexcept { return n_in_; }
  std::int64_t n_out() const noexcept { return n_out_; }
  bool is_quantized() const noexcept { return group_ != 0; }
  /// Memory of weights and bias, padding included.
  std::int64_t bytes() const noexcept;

  /// B [n_in, n_out] as products see it.
  std::vector<float> to_rows() const;

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

  std::int64_t n_groups() const noexcept { return (n_in_ + group_ - 1) / group_; }
  void quantize_panel(const float* panel, float clip, std::uint8_t* codes, std::uint16_t* ends);
  void unpack(std::int64_t panel, std::int64_t g, std::int64_t rows, float* out) const;
  void multiply_panel(const float* x, std::int64_t x_stride, std::int64_t n, std::int64_t k,
                      std::int64_t panel, float* y, std::int64_t y_stride) const;

  std::int64_t n_in_ = 0;
  std::int64_t n_out_ = 0;
  std::vector<float> panels_;        ///< the f32 form
  std::int64_t group_ = 0;           ///< 0: the f32 form
  std::vector<std::uint8_t> codes_;  ///< [panels, n_in, 32], see unpack_panel()
  std::vector<std::uint16_t> ends_;  ///< [panels, n_groups, 2, 64] f16: steps, then low ends
  std::vector<float> bias_;          ///< padded to whole panels
};

}  // namespace llama
