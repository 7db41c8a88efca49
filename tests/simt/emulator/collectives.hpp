// Barriers and warp collectives under their CUDA names. Included by device_language.hpp.
//
// A collective is a rendezvous: a thread waits until all lanes of its mask have called the same one.
// Only __syncwarp and the barriers order memory, as CUDA specifies; shuffles and votes do not.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tests/simt/emulator/runtime.hpp"

namespace kvcodec::simt {

enum class ShuffleKind { index, up, down, exclusive_or };
enum class ReduceOp { add, min, max, bit_and, bit_or, bit_xor };
enum class BarrierVote { none, count, all, any };

/// `bits` of the lane that `kind` and `argument` point at, the caller's own if that lane lies
/// outside its segment of `width` lanes. A fault if the lane is not in the mask.
std::uint64_t shuffle(ShuffleKind kind, unsigned mask, std::uint64_t bits, unsigned argument,
                      int width, const char* what);
/// Bit l is set if lane l of the mask called with `predicate`.
unsigned ballot(unsigned mask, bool predicate, const char* what);
/// Lanes of the mask that called with the caller's `bits`.
unsigned match_any(unsigned mask, std::uint64_t bits, const char* what);
std::uint32_t reduce(ReduceOp op, bool is_signed, unsigned mask, std::uint32_t bits,
                     const char* what);
void sync_warp(unsigned mask);
/// __syncthreads and its voting forms: the number of threads with `predicate`, for `all` and `any`
/// 0 or 1.
int sync_threads(BarrierVote vote, bool predicate, const char* what);
/// bar.sync (`wait`) and bar.arrive.
void named_barrier(std::uint32_t id, std::uint32_t threads, bool wait);
void memory_fence();
/// Ends the launch with the fault "<what>: <why>".
[[noreturn]] void fail(const char* what, const char* why, unsigned a = 0, unsigned b = 0);

template <class T>
T shuffle_value(ShuffleKind kind, unsigned mask, T value, unsigned argument, int width,
                const char* what) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const void*>(&value), sizeof(T));
  bits = shuffle(kind, mask, bits, argument, width, what);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

template <class T>
T reduce_value(ReduceOp op, unsigned mask, T value, const char* what) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>,
                "__reduce_*_sync takes int or unsigned");
  return static_cast<T>(
      reduce(op, std::is_signed_v<T>, mask, static_cast<std::uint32_t>(value), what));
}

}  // namespace kvcodec::simt

// CUDA's names are reserved ones.
// NOLINTBEGIN(bugprone-reserved-identifier)

// ---- The whole CTA. ----

inline void __syncthreads() {
  kvcodec::simt::sync_threads(kvcodec::simt::BarrierVote::none, false, "__syncthreads");
}
inline int __syncthreads_count(int predicate) {
  return kvcodec::simt::sync_threads(kvcodec::simt::BarrierVote::count, predicate != 0,
                                     "__syncthreads_count");
}
inline int __syncthreads_and(int predicate) {
  return kvcodec::simt::sync_threads(kvcodec::simt::BarrierVote::all, predicate != 0,
                                     "__syncthreads_and");
}
inline int __syncthreads_or(int predicate) {
  return kvcodec::simt::sync_threads(kvcodec::simt::BarrierVote::any, predicate != 0,
                                     "__syncthreads_or");
}

// ---- Memory order without waiting. ----

inline void __threadfence() { kvcodec::simt::memory_fence(); }
inline void __threadfence_block() { kvcodec::simt::memory_fence(); }

// ---- One warp. ----

inline void __syncwarp(unsigned mask = 0xffffffffu) { kvcodec::simt::sync_warp(mask); }

/// Which lanes are active is an accident of the schedule: kernels pass their masks instead.
inline unsigned __activemask() {
  kvcodec::simt::fail("__activemask", "not emulated: pass the mask to the function that needs it");
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return kvcodec::simt::shuffle_value(kvcodec::simt::ShuffleKind::index, mask, value,
                                      static_cast<unsigned>(source), width, "__shfl_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return kvcodec::simt::shuffle_value(kvcodec::simt::ShuffleKind::up, mask, value, delta, width,
                                      "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return kvcodec::simt::shuffle_value(kvcodec::simt::ShuffleKind::down, mask, value, delta, width,
                                      "__shfl_down_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return kvcodec::simt::shuffle_value(kvcodec::simt::ShuffleKind::exclusive_or, mask, value,
                                      static_cast<unsigned>(lanes), width, "__shfl_xor_sync");
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return kvcodec::simt::ballot(mask, predicate != 0, "__ballot_sync");
}
inline int __any_sync(unsigned mask, int predicate) {
  return kvcodec::simt::ballot(mask, predicate != 0, "__any_sync") != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return kvcodec::simt::ballot(mask, predicate != 0, "__all_sync") == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const void*>(&value), sizeof(T));
  return kvcodec::simt::match_any(mask, bits, "__match_any_sync");
}

template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::add, mask, value,
                                     "__reduce_add_sync");
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::min, mask, value,
                                     "__reduce_min_sync");
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::max, mask, value,
                                     "__reduce_max_sync");
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::bit_and, mask, value,
                                     "__reduce_and_sync");
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::bit_or, mask, value,
                                     "__reduce_or_sync");
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return kvcodec::simt::reduce_value(kvcodec::simt::ReduceOp::bit_xor, mask, value,
                                     "__reduce_xor_sync");
}

// NOLINTEND(bugprone-reserved-identifier)
