// Transforms as kernels take them: values beside their place on the list, in place of functions.
#pragma once

#include <cstddef>
#include <cstring>

#include "cuda/core/device.cuh"
#include "kvcodec/transform/builtin.hpp"
#include "kvcodec/transform/chain.hpp"

namespace kvcodec::cuda {

/// A TransformChain of built-in transforms.
struct PackedChain {
  struct Link {
    int type = 0;  ///< place in BuiltinTransforms
    alignas(8) std::byte value[32] = {};
  };
  Link links[TransformChain::kMaxLinks];
  int n = 0;
};

namespace detail {

template <Transform T>
bool pack_as(const AnyTransform& any, int type, PackedChain& chain) noexcept {
  const T* value = any.as<T>();
  if (value == nullptr) return false;
  PackedChain::Link& link = chain.links[chain.n++];
  link.type = type;
  std::memcpy(link.value, value, sizeof(T));
  return true;
}

template <class... Ts>
bool pack_any(TypeList<Ts...>, const AnyTransform& any, PackedChain& chain) noexcept {
  int type = 0;
  return (pack_as<Ts>(any, type++, chain) || ...);
}

/// t.forward by all lanes of a warp, the same operations on every value; __syncwarp before and after.
template <Transform T>
__device__ void forward_by_warp(const T& t, int head_dim, int kv_head, float* x) {
  if (threadIdx.x % 32 != 0) return;
  if constexpr (PerHeadTransform<T>) t.forward(head_dim, kv_head, x);
  else t.forward(head_dim, x);
}

__device__ inline void forward_by_warp(const Hadamard& t, int head_dim, int, float* x) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int c = lane; t.seed != 0 && c < head_dim; c += 32) {
    if (Hadamard::negative(t.seed, c)) x[c] = -x[c];
  }
  __syncwarp();
  Hadamard::for_each_piece(head_dim, [&](int first, int size) {
    float* piece = x + first;
    for (int half = 1; half < size; half *= 2) {
      for (int i = lane; i < size / 2; i += 32) {
        const int at = i / half * 2 * half + i % half;
        const float a = piece[at];
        const float b = piece[at + half];
        piece[at] = a + b;
        piece[at + half] = a - b;
      }
      __syncwarp();
    }
    const float norm = 1.0f / sqrtf(static_cast<float>(size));
    for (int i = lane; i < size; i += 32) piece[i] *= norm;
  });
}

__device__ inline void forward_by_warp(const ChannelAffine& t, int head_dim, int kv_head,
                                       float* x) {
  const float* s = t.scales.scale + kv_head * head_dim;
  for (int c = static_cast<int>(threadIdx.x % 32); c < head_dim; c += 32) x[c] = x[c] / s[c];
}

template <Transform T>
__device__ __forceinline__ void forward_as(const PackedChain::Link& link, int head_dim, int kv_head,
                                           float* x) {
  T t;
  memcpy(&t, link.value, sizeof(T));
  forward_by_warp(t, head_dim, kv_head, x);
}

template <class... Ts>
__device__ __forceinline__ void forward_any(TypeList<Ts...>, const PackedChain::Link& link,
                                            int head_dim, int kv_head, float* x) {
  int type = 0;
  ((type++ == link.type ? forward_as<Ts>(link, head_dim, kv_head, x) : void()), ...);
}

}  // namespace detail

/// False if a transform is not on the list.
inline bool pack(TransformChain chain, PackedChain& packed) noexcept {
  packed = {};
  bool known = true;
  chain.for_each([&](const AnyTransform& t) {
    known = known && detail::pack_any(BuiltinTransforms{}, t, packed);
  });
  return known;
}

/// x [head_dim] in shared memory <- the transformed row, by all lanes of a warp, which are in step before
/// and after.
__device__ __forceinline__ void forward(const PackedChain& chain, int head_dim, int kv_head,
                                        float* x) {
  for (int i = 0; i < chain.n; ++i) {
    detail::forward_any(BuiltinTransforms{}, chain.links[i], head_dim, kv_head, x);
    __syncwarp();
  }
}

}  // namespace kvcodec::cuda
