// Host side of the general path.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/attend/general/params.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::cuda {

/// Why a view's codecs have no kernels on the general path, or "".
std::string why_not_general(const KvView& view);

/// The format that AttendParams::k and v have there: values as they are.
TileFormat general_format(std::int32_t head_dim) noexcept;

/// Bytes of the logits of a wave, a multiple of 256; p: everything but pointers.
std::size_t logits_bytes(const AttendParams& p, const AttendLimits& limits) noexcept;

/// States of all splits: two launches per wave of encoded rows, one for rows that are not encoded.
/// logits: logits_bytes; sketch: of the queries, for QJL keys. Throws cuda_error.
void launch_general(const AttendParams& p, const AttendLimits& limits, const float* sketch,
                    float* logits, cudaStream_t stream);

}  // namespace kvcodec::cuda
