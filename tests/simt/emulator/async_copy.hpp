// cp.async, mbarrier and cp.async.bulk, for cuda/core/ptx.cuh. Included by device_language.hpp.
//
// A copy lands as late as the instruction set allows: cp.async inside the wait that covers it, a
// bulk copy only when no thread can go on without it. From its issue on the destination holds 0xff
// (NaN): both reading it too early and issuing while others still read it show in the results, and
// as a race under TSan. The accesses are made by the code below, which is compiled with the kernel,
// so that sanitizers and counters see them; only the bookkeeping lies in async_copy.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <vector_types.h>

namespace kvcodec::simt {

struct AsyncCopy {
  void* shared;
  const void* global;
  std::uint32_t bytes;  // 0..16 read, the rest of 16 becomes zero
};

/// Checks and queues a copy of the running thread.
void issue_async_copy(const AsyncCopy& copy);
void cp_async_commit();
/// Takes a copy that a wait for all but `pending` groups must land; false when there is none left.
bool take_async_copy(int pending, AsyncCopy& copy);
/// Whether an access counter listens: poison is not the kernel's access then.
bool counting();
/// Writes 0xff unseen by sanitizers and counters.
void fill_unseen(void* p, std::size_t bytes);

void start_mbarrier(const std::uint64_t* mbarrier, std::uint32_t count);
void arrive_at_mbarrier(const std::uint64_t* mbarrier, std::uint32_t expected_bytes);
void wait_for_mbarrier(const std::uint64_t* mbarrier, std::uint32_t parity);
void issue_bulk_copy(void* shared, const void* global, std::uint32_t bytes,
                     const std::uint64_t* mbarrier);

/// `bytes` a multiple of 16.
inline void poison_destination(void* shared, std::uint32_t bytes) {
  if (counting()) {
    fill_unseen(shared, bytes);
    return;
  }
  auto* words = static_cast<uint4*>(shared);
  for (std::uint32_t i = 0; i < bytes / 16; ++i) words[i] = {~0u, ~0u, ~0u, ~0u};
}

inline void cp_async16(void* shared, const void* global, std::uint32_t bytes) {
  issue_async_copy({shared, global, bytes});
  poison_destination(shared, 16);
}

inline void cp_async_wait(int pending) {
  for (AsyncCopy copy{}; take_async_copy(pending, copy);) {
    uint4 v{0, 0, 0, 0};
    if (copy.bytes == 16) v = *static_cast<const uint4*>(copy.global);
    else if (copy.bytes > 0) std::memcpy(&v, copy.global, copy.bytes);
    *static_cast<uint4*>(copy.shared) = v;
  }
}

inline void cp_async_bulk(void* shared, const void* global, std::uint32_t bytes,
                          std::uint64_t* mbarrier) {
  poison_destination(shared, bytes / 16 * 16);
  issue_bulk_copy(shared, global, bytes, mbarrier);
}

// The state of an mbarrier is kept elsewhere. The word itself is written by its initialisation and
// read by every use, so that a missing barrier between the two is a race that TSan sees.

inline void touch_mbarrier(const std::uint64_t* mbarrier) {
  if (!counting()) static_cast<void>(*const_cast<const volatile std::uint64_t*>(mbarrier));
}

inline void mbarrier_init(std::uint64_t* mbarrier, std::uint32_t count) {
  if (!counting()) *mbarrier = count;
  start_mbarrier(mbarrier, count);
}

inline void mbarrier_arrive(std::uint64_t* mbarrier, std::uint32_t expected_bytes) {
  touch_mbarrier(mbarrier);
  arrive_at_mbarrier(mbarrier, expected_bytes);
}

/// Does not come back before the phase has ended: true.
inline bool mbarrier_try_wait(std::uint64_t* mbarrier, std::uint32_t parity) {
  touch_mbarrier(mbarrier);
  wait_for_mbarrier(mbarrier, parity);
  return true;
}

}  // namespace kvcodec::simt
