// From a codec chosen at run time to a launch of its kernel, slice by slice (slices.hpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/codec/decode.cuh"
#include "cuda/codec/encode.cuh"
#include "cuda/codec/slices.hpp"
#include "kvcodec/codec/make_codec.hpp"

namespace kvcodec::cuda {

/// What encode_kernel wants, before the codec's type is known. One or two sides.
struct AnyEncodeJob {
  int n_sides = 1;
  AnyCodec codec[2];  ///< of one type
  Side side[2] = {Side::key, Side::value};
  EncodeSource source[2];
  EncodeTarget target;
  int head_dim = 0;
  std::int64_t n_ctas = 0;
  cudaStream_t stream = nullptr;
};

struct AnyDecodeJob {
  AnyCodec codec;
  Side side = Side::key;
  int head_dim = 0;
  std::int64_t n_tiles = 0;
  const std::byte* tiles = nullptr;
  void* x = nullptr;
  DType dtype = DType::f32;
  cudaStream_t stream = nullptr;
};

/// Launches the job if its codec belongs to the slice; else cudaErrorNotSupported.
template <int kSlice>
cudaError_t launch_encode_slice(const AnyEncodeJob& job);
template <int kSlice>
cudaError_t launch_decode_slice(const AnyDecodeJob& job);

namespace detail {

template <Codec C>
cudaError_t launch_encode(const AnyEncodeJob& any, const C& first) {
  EncodeJob<C> job{{first, first}, {}, {}, any.target, any.head_dim};
  std::size_t shared = 0;
  for (int i = 0; i < any.n_sides; ++i) {
    job.codec[i] = *any.codec[i].template as<C>();
    job.side[i] = any.side[i];
    job.source[i] = any.source[i];
    shared = std::max(shared, plan_tile(job.codec[i], any.head_dim).shared_bytes());
  }
  const dim3 grid(static_cast<unsigned>(any.n_ctas), 1, static_cast<unsigned>(any.n_sides));
  return launch(encode_kernel<C>, {grid, dim3(kTileThreads), shared, any.stream}, job);
}

template <Codec C>
cudaError_t launch_decode(const AnyDecodeJob& any, const C& codec) {
  const dim3 grid(static_cast<unsigned>(any.n_tiles));
  const std::size_t shared = plan_tile(codec, any.head_dim).shared_bytes();
  return launch(decode_kernel<C>, {grid, dim3(kTileThreads), shared, any.stream},
                DecodeJob<C>{codec, any.side, any.head_dim, any.tiles, any.x, any.dtype});
}

}  // namespace detail

template <int kSlice>
cudaError_t launch_encode_slice(const AnyEncodeJob& job) {
  cudaError_t status = cudaErrorNotSupported;
  for_each_of_slice<kSlice>(BuiltinCodecs{}, [&]<class C>() {
    if (const C* codec = job.codec[0].as<C>()) status = detail::launch_encode(job, *codec);
  });
  return status;
}

template <int kSlice>
cudaError_t launch_decode_slice(const AnyDecodeJob& job) {
  cudaError_t status = cudaErrorNotSupported;
  for_each_of_slice<kSlice>(CacheCodecs{}, [&]<class C>() {
    if (const C* codec = job.codec.as<C>()) status = detail::launch_decode(job, *codec);
  });
  return status;
}

// Instantiated in slice_<i>.cu.
extern template cudaError_t launch_encode_slice<0>(const AnyEncodeJob&);
extern template cudaError_t launch_encode_slice<1>(const AnyEncodeJob&);
extern template cudaError_t launch_encode_slice<2>(const AnyEncodeJob&);
extern template cudaError_t launch_encode_slice<3>(const AnyEncodeJob&);
extern template cudaError_t launch_decode_slice<0>(const AnyDecodeJob&);
extern template cudaError_t launch_decode_slice<1>(const AnyDecodeJob&);
extern template cudaError_t launch_decode_slice<2>(const AnyDecodeJob&);
extern template cudaError_t launch_decode_slice<3>(const AnyDecodeJob&);

}  // namespace kvcodec::cuda
