// The running launch: its threads, who waits for what, what went wrong. Internal to the emulator.
//
// Everything that runs on a fiber uses only fixed-size memory of the types below: in a TSan tree the
// emulator is compiled without TSan, but malloc, memset, memmove and any standard template that a
// kernel instantiates too are seen all the same, and would be reported as the kernel's races.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#include "tests/simt/emulator/async_copy.hpp"
#include "tests/simt/emulator/fiber.hpp"
#include "tests/simt/emulator/runtime.hpp"
#include "tests/simt/emulator/sanitizers.hpp"

namespace kvcodec::simt {

/// At most N elements, in place.
template <class T, unsigned N>
struct FixedList {
  T items[N];
  unsigned size = 0;

  bool full() const { return size == N; }
  void push(const T& item) { items[size++] = item; }
  void erase(unsigned i) {  // keeps the order
    for (--size; i < size; ++i) items[i] = items[i + 1];
  }
  T* begin() { return items; }
  T* end() { return items + size; }
};

/// A set of threads by their number in the CTA.
class ThreadSet {
 public:
  void clear() {
    for (std::uint64_t& word : words_) word = 0;
    count_ = 0;
  }
  unsigned count() const { return count_; }
  void add(unsigned i) {
    words_[i / 64] |= std::uint64_t{1} << (i % 64);
    ++count_;
  }
  /// Removes and returns the lowest, the highest, the n-th lowest; the set must not be empty.
  unsigned take_lowest();
  unsigned take_highest();
  unsigned take_nth(unsigned n);

 private:
  unsigned take(unsigned word, unsigned bit);
  std::uint64_t words_[kMaxThreads / 64] = {};
  unsigned count_ = 0;
};

enum class State : unsigned char { ready, in_warp, in_barrier, in_named, in_mbarrier, returned };

struct PendingCopy {
  AsyncCopy copy;
  unsigned group;
};

struct Thread {
  uint3 index;  // threadIdx
  unsigned linear, lane, warp;
  State state;
  const char* waits_in;           // name of the operation, while it waits
  unsigned mask;                  // of the warp collective it waits in
  void* operand;                  // its part of that collective
  unsigned barrier;               // the named barrier it waits in
  const std::uint64_t* mbarrier;  // the mbarrier it waits for, and the parity
  unsigned parity;
  unsigned open_group;  // number of the cp.async group not committed yet
  Fiber* fiber;
};

/// Acts on the operands of the lanes in `lanes`, once all have come.
using WarpAction = void (*)(void* const* operands, unsigned lanes);

/// A collective that some of its lanes have come to. A warp has several at once if their masks are
/// disjoint.
struct Rendezvous {
  unsigned mask, arrived;
  const char* what;
  WarpAction action;
  SyncPoint* order;
};

struct Warp {
  unsigned present, returned;  // lanes
  FixedList<Rendezvous, kWarpLanes> open;
  unsigned number;  // of the next rendezvous
  // One per rendezvous in turn: a lane that runs ahead to the next one must not look as if it had
  // come before the lanes that still wake up from the last.
  SyncPoint order[4];
};

struct NamedBarrier {
  unsigned expected, arrived, number;
  ThreadSet waiting;
  SyncPoint order[2];
};

struct Mbarrier {
  const std::uint64_t* address;
  unsigned count, pending;  // arrivals of a phase, and those still missing
  long long bytes;          // announced and not landed
  unsigned phase;
  SyncPoint order;
};

struct BulkCopy {
  void* shared;
  const void* global;
  std::uint32_t bytes;
  const std::uint64_t* mbarrier;
};

struct SharedVariable {
  const void* key;
  std::byte* address;
};

/// The first thing that went wrong. Text is made of it by the scheduler, off the fibers.
struct Fault {
  bool set;
  const char* what;
  const char* why;  // printf format of a and b
  unsigned a, b;
  const Thread* thread;
  char note[200];
};

struct Machine {
  // The launch.
  unsigned n_threads;
  void (*body)(void*);
  void* argument;
  Schedule schedule;
  std::uint64_t random_state;
  Fault fault;
  SyncPoint launched, ended;

  // The running CTA.
  Thread threads[kMaxThreads];
  FixedList<PendingCopy, 256> copies[kMaxThreads];  // cp.async in flight, oldest first
  Warp warps[kMaxThreads / kWarpLanes];
  Thread* running;
  ThreadSet ready;
  unsigned returned, at_barrier, barrier_number;
  int vote, vote_count, vote_result;
  SyncPoint barrier_order[2];
  NamedBarrier named[16];
  FixedList<Mbarrier, 64> mbarriers;
  FixedList<BulkCopy, 256> bulk_copies;
  SyncPoint bulk_order, fence_order;

  // Its shared memory.
  std::byte* arena;
  std::byte* arena_top;
  std::size_t dynamic_bytes, static_bytes;
  FixedList<SharedVariable, 64> shared;
};
extern Machine machine;

inline Thread& self() { return *machine.running; }
std::uint64_t next_random();

/// Lets others run until somebody makes this thread ready; `what` is for the report of a deadlock.
void wait_in(State state, const char* what);
void make_ready(Thread& thread);
/// Lets others run; this thread stays ready.
void yield();
/// Remembers the first fault; the scheduler ends the launch.
void record_fault(const char* what, const char* why, unsigned a = 0, unsigned b = 0);

/// collectives.cpp: a collective of all 32 lanes that does not order memory.
void meet_all_lanes(const char* what, void* operand, WarpAction action);
/// What a returning thread means for those that wait.
void leave_collectives(Thread& thread);
void reset_collectives();
/// async_copy.cpp: lands one bulk copy, as the copy engine; false if there is none.
bool land_bulk_copy();
void check_copies_landed();
/// shared_memory.cpp: fresh shared memory for the CTA that runs as `sequence`-th.
void reset_shared_memory(std::size_t dynamic_bytes, std::uint64_t sequence);
/// CTAs that run before shared memory of an earlier one is used again. Within such a window there is
/// no order between CTAs in TSan's eyes.
inline constexpr unsigned kArenas = kTsan ? 16 : 1;

/// runtime_api.cpp: what cudaGetLastError returns next; returns its argument.
cudaError_t set_last_error(cudaError_t status);
void set_fault_text(const char* text);
/// What cudaGetErrorString says about cudaErrorLaunchFailure: with the newest fault.
const char* launch_failure_text();

/// Told about every point where the lanes of a warp stand together; access counters listen.
struct Observer {
  void (*converged)(unsigned warp);
  void (*cta_ended)();
};
extern const Observer* observer;
bool in_shared_memory(const void* p);
bool in_device_memory(const void* p);

}  // namespace kvcodec::simt
