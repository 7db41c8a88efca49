// What the host side knows of the attention kernels: one launcher per pair of code kinds. Each is
// instantiated in a file of its own, instances/<key kind>_<value kind>.cu.
#pragma once

#include "cuda/attend/codes.cuh"
#include "cuda/attend/params.hpp"

namespace kvcodec::cuda {

/// Launches attend_kernel for `p`; cudaErrorNotSupported if the pair has no instantiation for the
/// shape. With `dry`, only says whether it has one.
template <CodeKind kKey, CodeKind kValue>
cudaError_t launch_tiles(const AttendParams& p, bool dry, cudaStream_t stream);

}  // namespace kvcodec::cuda
