// Transforms of single rows by the kernels of the instruction set in use: the bits of TransformChain's
// own functions.
#pragma once

#include "kvcodec/transform/chain.hpp"

namespace kvcodec::cpu {

/// x [head_dim] <- chain.forward, query or output of KV head `kv_head`.
void transform_forward(const TransformChain& chain, int head_dim, int kv_head, float* x) noexcept;
void transform_query(const TransformChain& chain, int head_dim, int kv_head, float* q) noexcept;
void transform_output(const TransformChain& chain, int head_dim, int kv_head, float* o) noexcept;

}  // namespace kvcodec::cpu
