// Rows for the cases of the device benchmark, 8 KV heads of 128 channels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "bench/cuda/device_tools.hpp"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/cuda/memory.hpp"

namespace kvcodec::bench {

inline constexpr int kHeadDim = 128;
inline constexpr int kKvHeads = 8;
inline constexpr std::int64_t kTemplateRows = 4 * kTileRows;  ///< different rows of a sequence

template <class T>
cuda::DeviceBuffer<T> on_device(const std::vector<T>& host) {
  return cuda::DeviceBuffer<T>(std::span<const T>(host));
}

inline std::vector<f16> gaussian(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<f16> x(n);
  for (f16& value : x) value = from_f32<f16>(normal(random));
  return x;
}

/// Dense f16 rows [n_tokens, kKvHeads, kHeadDim], the first few repeated.
inline cuda::DeviceBuffer<f16> rows_on_device(std::int64_t n_tokens, unsigned seed) {
  constexpr std::size_t kOfToken = std::size_t{kKvHeads} * kHeadDim;
  const auto few = static_cast<std::size_t>(std::min(n_tokens, kTemplateRows)) * kOfToken;
  cuda::DeviceBuffer<f16> rows(static_cast<std::size_t>(n_tokens) * kOfToken);
  const std::vector<f16> host = gaussian(few, seed);
  rows.upload(host);
  repeat_on_device(reinterpret_cast<std::byte*>(rows.data()), few * sizeof(f16), rows.bytes(),
                   nullptr);
  cuda::synchronize(nullptr);
  return rows;
}

}  // namespace kvcodec::bench
