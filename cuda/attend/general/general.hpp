// Host side of the general path.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/attend/general/params.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::cuda {

/// Why a view's codecs have no kernels on the general path, or "".
std::string why_not_general(const KvView& view);
/// The same of its keys alone.
std::string why_not_general_keys(const KvView& view);

/// How encoded rows are cut into waves of splits, whose logits stand in memory at a time.
struct Waves {
  std::int32_t tiles_per_split;
  std::int32_t wave_splits;
  std::size_t bytes;  ///< of the logits, a multiple of 256
};
Waves plan_waves(const AttendParams& p, const AttendLimits& limits) noexcept;

/// Logits of the wave that begins with g.first_split.
cudaError_t launch_scores(const GeneralParams& g, cudaStream_t stream);

/// The format that AttendParams::k and v have there: values as they are.
TileFormat general_format(std::int32_t head_dim) noexcept;

/// States of all splits: two launches per wave of encoded rows, one for rows that are not encoded.
/// logits: bytes of plan_waves(); sketch: of the queries, for QJL keys. Throws cuda_error.
void launch_general(const AttendParams& p, const AttendLimits& limits, const float* sketch,
                    float* logits, cudaStream_t stream);

}  // namespace kvcodec::cuda
