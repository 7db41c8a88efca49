#include "tests/simt/emulator/collectives.hpp"

#include "tests/simt/emulator/device_language.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

// Calls f(lane) for each lane of the set, lowest first.
template <class F>
void for_each_lane(unsigned lanes, F&& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(static_cast<unsigned>(__builtin_ctz(lanes)));
}

bool same_text(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) {
    ++a;
    ++b;
  }
  return *a == *b;
}

Warp& own_warp() { return machine.warps[self().warp]; }

void check_mask(unsigned mask, const char* what) {
  const Thread& t = self();
  const Warp& warp = own_warp();
  if ((mask >> t.lane & 1u) == 0) fail(what, "mask 0x%08x lacks the calling lane %u", mask, t.lane);
  if ((mask & ~warp.present) != 0) {
    fail(what, "mask 0x%08x names lanes 0x%08x that the CTA does not have", mask,
         mask & ~warp.present);
  }
  if ((mask & warp.returned) != 0) {
    fail(what, "mask 0x%08x names lanes 0x%08x that have returned", mask, mask & warp.returned);
  }
}

// The rendezvous the caller belongs to, opened if it is the first to come.
Rendezvous& join(unsigned mask, const char* what, WarpAction action) {
  Warp& warp = own_warp();
  for (Rendezvous& r : warp.open) {
    if (r.mask == mask && r.action == action && same_text(r.what, what)) return r;
    if ((r.mask & mask) != 0) {
      fail(what, "mask 0x%08x overlaps lanes that wait in another collective with mask 0x%08x",
           mask, r.mask);
    }
  }
  warp.open.push({mask, 0, what, action, &warp.order[warp.number++ % 4]});
  return warp.open.items[warp.open.size - 1];
}

// Waits for all lanes of the mask; the last to come performs `action` on all operands.
void meet(unsigned mask, const char* what, void* operand, WarpAction action, bool orders_memory) {
  check_mask(mask, what);
  Thread& t = self();
  Warp& warp = own_warp();
  t.mask = mask;
  t.operand = operand;
  Rendezvous& r = join(mask, what, action);
  r.arrived |= 1u << t.lane;
  SyncPoint& order = *r.order;
  if (orders_memory) release(order);
  if (r.arrived != mask) {
    wait_in(State::in_warp, what);
  } else {
    warp.open.erase(static_cast<unsigned>(&r - warp.open.items));
    Thread* lanes = &machine.threads[t.warp * kWarpLanes];
    if (action != nullptr) {
      void* operands[kWarpLanes] = {};
      for_each_lane(mask, [&](unsigned lane) { operands[lane] = lanes[lane].operand; });
      action(operands, mask);
    }
    if (observer != nullptr && mask == warp.present) observer->converged(t.warp);
    for_each_lane(mask & ~(1u << t.lane), [&](unsigned lane) { make_ready(lanes[lane]); });
    yield();
  }
  if (orders_memory) acquire(order);
}

struct ShuffleOperand {
  std::uint64_t bits, result;
  unsigned source;
  bool inside;  // the segment
  const char* what;
};

void exchange(void* const* operands, unsigned lanes) {
  for_each_lane(lanes, [&](unsigned lane) {
    auto& own = *static_cast<ShuffleOperand*>(operands[lane]);
    own.result = own.bits;
    if (!own.inside) return;
    if ((lanes >> own.source & 1u) == 0) {
      fail(own.what, "lane %u reads lane %u, which is not in the mask", lane, own.source);
    }
    own.result = static_cast<const ShuffleOperand*>(operands[own.source])->bits;
  });
}

struct BallotOperand {
  bool predicate;
  unsigned result;
};

void count_votes(void* const* operands, unsigned lanes) {
  unsigned set = 0;
  for_each_lane(lanes, [&](unsigned lane) {
    if (static_cast<const BallotOperand*>(operands[lane])->predicate) set |= 1u << lane;
  });
  for_each_lane(lanes,
                [&](unsigned lane) { static_cast<BallotOperand*>(operands[lane])->result = set; });
}

struct MatchOperand {
  std::uint64_t bits;
  unsigned result;
};

void find_matches(void* const* operands, unsigned lanes) {
  for_each_lane(lanes, [&](unsigned lane) {
    auto& own = *static_cast<MatchOperand*>(operands[lane]);
    own.result = 0;
    for_each_lane(lanes, [&](unsigned other) {
      if (static_cast<const MatchOperand*>(operands[other])->bits == own.bits) {
        own.result |= 1u << other;
      }
    });
  });
}

struct ReduceOperand {
  ReduceOp op;
  bool is_signed;
  std::uint32_t bits, result;
};

std::uint32_t combine(const ReduceOperand& how, std::uint32_t a, std::uint32_t b) {
  const bool less =
      how.is_signed ? static_cast<std::int32_t>(a) < static_cast<std::int32_t>(b) : a < b;
  switch (how.op) {
    case ReduceOp::add: return a + b;
    case ReduceOp::min: return less ? a : b;
    case ReduceOp::max: return less ? b : a;
    case ReduceOp::bit_and: return a & b;
    case ReduceOp::bit_or: return a | b;
    case ReduceOp::bit_xor: return a ^ b;
  }
  return 0;
}

void reduce_all(void* const* operands, unsigned lanes) {
  const unsigned first = static_cast<unsigned>(__builtin_ctz(lanes));
  const auto& how = *static_cast<const ReduceOperand*>(operands[first]);
  std::uint32_t total = how.bits;
  for_each_lane(lanes & (lanes - 1), [&](unsigned lane) {
    total = combine(how, total, static_cast<const ReduceOperand*>(operands[lane])->bits);
  });
  for_each_lane(
      lanes, [&](unsigned lane) { static_cast<ReduceOperand*>(operands[lane])->result = total; });
}

// Whether all threads that have not returned stand at the barrier; then its phase ends.
bool barrier_complete() {
  if (machine.at_barrier == 0 || machine.at_barrier + machine.returned != machine.n_threads) {
    return false;
  }
  machine.vote_result = machine.vote_count;
  if (machine.vote == static_cast<int>(BarrierVote::all)) {
    machine.vote_result = machine.vote_count == static_cast<int>(machine.at_barrier) ? 1 : 0;
  } else if (machine.vote == static_cast<int>(BarrierVote::any)) {
    machine.vote_result = machine.vote_count > 0 ? 1 : 0;
  }
  machine.vote_count = 0;
  machine.at_barrier = 0;
  ++machine.barrier_number;
  for (unsigned i = 0; i < machine.n_threads; ++i) {
    Thread& t = machine.threads[i];
    if (t.state == State::in_barrier) make_ready(t);
  }
  if (observer != nullptr) {
    for (unsigned w = 0; w * kWarpLanes < machine.n_threads; ++w) observer->converged(w);
  }
  return true;
}

}  // namespace

std::uint64_t shuffle(ShuffleKind kind, unsigned mask, std::uint64_t bits, unsigned argument,
                      int width, const char* what) {
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0) {
    fail(what, "width %u, allowed: 1, 2, 4, 8, 16, 32", static_cast<unsigned>(width));
  }
  const int lane = static_cast<int>(self().lane);
  const int first = lane & ~(width - 1);
  const int end = first + width;
  ShuffleOperand operand{bits, 0, 0, true, what};
  int source = lane;
  switch (kind) {
    case ShuffleKind::index:
      source = first | static_cast<int>(argument & static_cast<unsigned>(width - 1));
      break;
    case ShuffleKind::up:
      operand.inside = argument <= static_cast<unsigned>(lane - first);
      if (operand.inside) source = lane - static_cast<int>(argument);
      break;
    case ShuffleKind::down:
      operand.inside = argument < static_cast<unsigned>(end - lane);
      if (operand.inside) source = lane + static_cast<int>(argument);
      break;
    case ShuffleKind::exclusive_or:
      source = lane ^ static_cast<int>(argument & 31u);
      operand.inside = source < end;  // an earlier segment may be read
      break;
  }
  operand.source = static_cast<unsigned>(source);
  meet(mask, what, &operand, &exchange, false);
  return operand.result;
}

unsigned ballot(unsigned mask, bool predicate, const char* what) {
  BallotOperand operand{predicate, 0};
  meet(mask, what, &operand, &count_votes, false);
  return operand.result;
}

unsigned match_any(unsigned mask, std::uint64_t bits, const char* what) {
  MatchOperand operand{bits, 0};
  meet(mask, what, &operand, &find_matches, false);
  return operand.result;
}

std::uint32_t reduce(ReduceOp op, bool is_signed, unsigned mask, std::uint32_t bits,
                     const char* what) {
  ReduceOperand operand{op, is_signed, bits, 0};
  meet(mask, what, &operand, &reduce_all, false);
  return operand.result;
}

void sync_warp(unsigned mask) { meet(mask, "__syncwarp", nullptr, nullptr, true); }

void meet_all_lanes(const char* what, void* operand, WarpAction action) {
  if (own_warp().present != kAllLanes) fail(what, "needs a warp of 32 lanes");
  meet(kAllLanes, what, operand, action, false);
}

int sync_threads(BarrierVote vote, bool predicate, const char* what) {
  const int kind = static_cast<int>(vote);
  if (machine.at_barrier == 0) machine.vote = kind;
  if (machine.vote != kind) fail(what, "others wait in another kind of __syncthreads");
  SyncPoint& order = machine.barrier_order[machine.barrier_number % 2];
  release(order);
  ++machine.at_barrier;
  if (predicate) ++machine.vote_count;
  if (barrier_complete()) yield();
  else wait_in(State::in_barrier, what);
  acquire(order);
  return machine.vote_result;
}

void named_barrier(std::uint32_t id, std::uint32_t threads, bool wait) {
  const char* what = wait ? "bar.sync" : "bar.arrive";
  if (id == 0 || id > 15) fail(what, "barrier %u, allowed: 1 to 15", id);
  if (threads == 0 || threads % kWarpLanes != 0) {
    fail(what, "%u threads, allowed: multiples of 32", threads);
  }
  NamedBarrier& barrier = machine.named[id];
  if (barrier.arrived == 0) barrier.expected = threads;
  if (barrier.expected != threads) {
    fail(what, "%u threads, but others came for %u", threads, barrier.expected);
  }
  SyncPoint& order = barrier.order[barrier.number % 2];
  release(order);
  Thread& t = self();
  t.barrier = id;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.number;
    while (barrier.waiting.count() > 0) make_ready(machine.threads[barrier.waiting.take_lowest()]);
    yield();
  } else if (wait) {
    barrier.waiting.add(t.linear);
    wait_in(State::in_named, what);
  }
  if (wait) acquire(order);
}

// Fences of all threads in turn, one after another: more order than the device gives, but none
// between threads that do not fence.
void memory_fence() {
  acquire(machine.fence_order);
  release(machine.fence_order);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void leave_collectives(Thread& thread) {
  Warp& warp = machine.warps[thread.warp];
  warp.returned |= 1u << thread.lane;
  for (const Rendezvous& r : warp.open) {
    if ((r.mask & warp.returned) == 0) continue;
    record_fault(r.what, "lanes 0x%08x wait with mask 0x%08x for a lane that has returned",
                 r.arrived, r.mask);
  }
  barrier_complete();
}

void reset_collectives() {
  for (unsigned w = 0; w * kWarpLanes < machine.n_threads; ++w) {
    Warp& warp = machine.warps[w];
    const unsigned lanes = machine.n_threads - w * kWarpLanes;
    warp.present = lanes >= kWarpLanes ? kAllLanes : (1u << lanes) - 1;
    warp.returned = 0;
    warp.open.size = 0;
  }
  machine.at_barrier = 0;
  machine.vote_count = 0;
  for (NamedBarrier& barrier : machine.named) {
    barrier.arrived = 0;
    barrier.waiting.clear();
  }
}

}  // namespace kvcodec::simt
