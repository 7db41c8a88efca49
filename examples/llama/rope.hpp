// Rotary position embedding in the convention of Hugging Face's `rotate_half`: channel i of the
// first half and channel i of the second half form a pair.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "examples/llama/config.hpp"

namespace llama {

/// Radians per token of each channel pair, [head_dim / 2].
std::vector<double> rope_frequencies(const RopeConfig& config, std::int32_t head_dim);

/// Rotation of one position: cosines, then sines, [head_dim] each row of `out`
/// [positions.size(), head_dim]. Angles are computed in double: at position 100,000 an f32 angle
/// would already be off by a hundredth of a radian.
void rope_angles(std::span<const double> frequencies, std::span<const std::int32_t> positions,
                 float* out);

/// out [head_dim] = x [head_dim] rotated by one row of rope_angles(). May not overlap.
void rope_rotate(const float* x, const float* angles, std::int32_t head_dim, float* out);

}  // namespace llama
