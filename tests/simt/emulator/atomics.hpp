// Atomics under their CUDA names, relaxed as on the device. All threads share one host thread; the
// real atomic instructions are there for TSan. Included by device_language.hpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace kvcodec::simt {

/// *p <- next(*p) on the bits of *p; returns the value before.
template <class T, class F>
T atomic_update(T* p, F next) {
  using Word = std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
  static_assert(sizeof(T) == sizeof(Word));
  auto* word = reinterpret_cast<Word*>(p);
  Word before = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (;;) {
    T old;
    std::memcpy(static_cast<void*>(&old), &before, sizeof(T));
    const T updated = next(old);
    Word after;
    std::memcpy(&after, static_cast<const void*>(&updated), sizeof(T));
    if (__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return old;
    }
  }
}

}  // namespace kvcodec::simt

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  if constexpr (std::is_integral_v<T>) return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  else return kvcodec::simt::atomic_update(p, [v](T x) { return static_cast<T>(x + v); });
}
template <class T>
T atomicSub(T* p, std::type_identity_t<T> v) {
  return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return kvcodec::simt::atomic_update(p, [v](T x) { return v < x ? v : x; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return kvcodec::simt::atomic_update(p, [v](T x) { return x < v ? v : x; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return kvcodec::simt::atomic_update(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> v) {
  return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicXor(T* p, std::type_identity_t<T> v) {
  return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}
/// Wraps to 0 after `limit`: the ticket of "last CTA done".
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return kvcodec::simt::atomic_update(p, [limit](unsigned x) { return x >= limit ? 0 : x + 1; });
}
