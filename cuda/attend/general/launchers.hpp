// What the host side knows of the kernels of the general path. Each launches over a wave.
#pragma once

#include "cuda/attend/general/params.hpp"
#include "cuda/core/device.cuh"
#include "kvcodec/codec/tile_format.hpp"

namespace kvcodec::cuda {

/// With tiles that `format` describes; instantiated in formatted.cu.
cudaError_t launch_formatted_scores(const GeneralParams& g, const TileFormat& format,
                                    cudaStream_t stream);
cudaError_t launch_formatted_sums(const GeneralParams& g, const TileFormat& format,
                                  cudaStream_t stream);

/// With tiles of the view's key codec, or value codec, if it belongs to the slice; else
/// cudaErrorNotSupported. Instantiated in slice_<i>.cu.
template <int kSlice>
cudaError_t launch_scores_slice(const GeneralParams& g, cudaStream_t stream);
template <int kSlice>
cudaError_t launch_sums_slice(const GeneralParams& g, cudaStream_t stream);

}  // namespace kvcodec::cuda
