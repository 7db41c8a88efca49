// Launches of the general path's kernels.
#pragma once

#include "cuda/attend/general/launchers.hpp"
#include "cuda/attend/general/scores.cuh"
#include "cuda/attend/general/sums.cuh"
#include "cuda/codec/slices.hpp"
#include "kvcodec/codec/make_codec.hpp"

namespace kvcodec::cuda {

/// Geometry of a launch over a wave.
inline LaunchShape wave_shape(const GeneralParams& g, std::size_t shared_bytes,
                              cudaStream_t stream) {
  const AttendParams& p = g.p;
  const std::int32_t left = p.n_page_splits - g.first_split;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(left < g.wave_splits ? left : g.wave_splits),
                    static_cast<unsigned>(p.view.shape.n_kv_heads * p.n_units),
                    static_cast<unsigned>(p.view.n_seq));
  shape.threads = dim3(kAttendThreads);
  shape.shared_bytes = shared_bytes;
  shape.stream = stream;
  return shape;
}

template <class Tiles>
cudaError_t launch_scores(const GeneralParams& g, const Tiles& tiles, cudaStream_t stream) {
  const LaunchShape shape = wave_shape(g, KeysOf<Tiles>::shared_bytes(g.p, tiles), stream);
  return launch(score_kernel<Tiles>, shape, GeneralJob<Tiles>{g, tiles});
}

template <class Tiles>
cudaError_t launch_sums(const GeneralParams& g, const Tiles& tiles, cudaStream_t stream) {
  const LaunchShape shape = wave_shape(g, plan_sums(g.p, tiles).shared_bytes(), stream);
  return launch(sum_kernel<Tiles>, shape, GeneralJob<Tiles>{g, tiles});
}

template <int kSlice>
cudaError_t launch_scores_slice(const GeneralParams& g, cudaStream_t stream) {
  cudaError_t status = cudaErrorNotSupported;
  for_each_of_slice<kSlice>(CacheCodecs{}, [&]<class C>() {
    const C* codec = g.p.view.k_codec.as<C>();
    if (codec != nullptr) status = launch_scores(g, CodecTiles<C>{*codec}, stream);
  });
  return status;
}

template <int kSlice>
cudaError_t launch_sums_slice(const GeneralParams& g, cudaStream_t stream) {
  cudaError_t status = cudaErrorNotSupported;
  for_each_of_slice<kSlice>(CacheCodecs{}, [&]<class C>() {
    if constexpr (!is_key_only<C>()) {
      const C* codec = g.p.view.v_codec.as<C>();
      if (codec != nullptr) status = launch_sums(g, CodecTiles<C>{*codec}, stream);
    }
  });
  return status;
}

}  // namespace kvcodec::cuda
