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

template <Transform T>
__device__ __forceinline__ void forward_as(const PackedChain::Link& link, int head_dim, int kv_head,
                                           float* x) {
  T t;
  memcpy(&t, link.value, sizeof(T));
  if constexpr (PerHeadTransform<T>) t.forward(head_dim, kv_head, x);
  else t.forward(head_dim, x);
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

/// x [head_dim] <- the transformed row, by one thread.
__device__ __forceinline__ void forward(const PackedChain& chain, int head_dim, int kv_head,
                                        float* x) {
  for (int i = 0; i < chain.n; ++i) {
    detail::forward_any(BuiltinTransforms{}, chain.links[i], head_dim, kv_head, x);
  }
}

}  // namespace kvcodec::cuda
