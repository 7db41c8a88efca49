// What encode_rows and append_rows share on the host. `call` is the public function, for messages.
#pragma once

#include "cuda/codec/launch.cuh"

namespace kvcodec::cuda {

/// Throws unless tiles of the codec can be encoded on the device.
void require_encoder(const char* call, const AnyCodec& codec, Side side, int head_dim);

/// Whether a CTA has a tile of the codec in shared memory, beside its values.
bool holds_tile(const AnyCodec& codec, int head_dim) noexcept;

/// The transforms as kernels take them; `name`: "k" or "v". Throws unsupported.
PackedChain packed_transform(const char* call, const char* name, const TransformChain& transform,
                             int head_dim);

/// Throws unless pages of the format fit the stride and vectors of 16 bytes can be written to them.
void require_pages(const char* call, const PageFormat& format, const std::byte* pages,
                   std::int64_t page_stride);

/// Encodes codec[0] and source[0] as keys, those at 1 as values. Changes the job. Throws cuda_error.
void launch_both_sides(AnyEncodeJob& job, const char* call);

}  // namespace kvcodec::cuda
