// What the host side knows of the kernels of the general path, instantiated in slice_<i>.cu.
#pragma once

#include "cuda/attend/general/params.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::cuda {

/// One launch over a wave, if the key codec, or the value codec, belongs to the slice; else
/// cudaErrorNotSupported.
template <int kSlice>
cudaError_t launch_scores_slice(const GeneralParams& g, cudaStream_t stream);
template <int kSlice>
cudaError_t launch_sums_slice(const GeneralParams& g, cudaStream_t stream);

}  // namespace kvcodec::cuda
