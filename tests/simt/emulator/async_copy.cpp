#include "tests/simt/emulator/async_copy.hpp"

#include <cstring>

#include "tests/simt/emulator/device_language.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

Mbarrier* find_mbarrier(const std::uint64_t* address) {
  for (Mbarrier& m : machine.mbarriers) {
    if (m.address == address) return &m;
  }
  return nullptr;
}

Mbarrier& mbarrier_at(const std::uint64_t* address, const char* what) {
  Mbarrier* m = find_mbarrier(address);
  if (m == nullptr) fail(what, "there is no initialised mbarrier at this address");
  return *m;
}

// Ends the phase if nothing is missing.
void advance(Mbarrier& m) {
  if (m.pending != 0 || m.bytes != 0) return;
  ++m.phase;
  m.pending = m.count;
  for (unsigned i = 0; i < machine.n_threads; ++i) {
    Thread& t = machine.threads[i];
    if (t.state == State::in_mbarrier && t.mbarrier == m.address && (m.phase & 1u) != t.parity) {
      make_ready(t);
    }
  }
}

// The copy engine is a TSan thread of its own: after the issue, before those who wait for the phase.
void copy_as_engine(const BulkCopy& copy, [[maybe_unused]] Mbarrier& m) {
#if defined(KVCODEC_SIMT_TSAN)
  static void* const engine = __tsan_create_fiber(0);
  void* const scheduler = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(engine, __tsan_switch_to_fiber_no_sync);
  acquire(machine.bulk_order);
  std::memcpy(copy.shared, copy.global,
              copy.bytes);  // seen, although this file is not instrumented
  release(m.order);
  __tsan_switch_to_fiber(scheduler, __tsan_switch_to_fiber_no_sync);
#else
  std::memcpy(copy.shared, copy.global, copy.bytes);
#endif
}

}  // namespace

bool counting() { return observer != nullptr; }

// ---- cp.async ----

void issue_async_copy(const AsyncCopy& copy) {
  if (!aligned16(copy.shared)) fail("cp.async", "the shared address is not a multiple of 16");
  if (!aligned16(copy.global)) fail("cp.async", "the global address is not a multiple of 16");
  if (copy.bytes > 16) fail("cp.async", "%u bytes, allowed: 0 to 16", copy.bytes);
  if (!in_shared_memory(copy.shared)) fail("cp.async", "the destination is not in shared memory");
  const Thread& t = self();
  FixedList<PendingCopy, 256>& copies = machine.copies[t.linear];
  if (copies.full()) fail("cp.async", "more than 256 copies of one thread in flight");
  copies.push({copy, t.open_group});
}

void cp_async_commit() { ++self().open_group; }

bool take_async_copy(int pending, AsyncCopy& copy) {
  const Thread& t = self();
  FixedList<PendingCopy, 256>& copies = machine.copies[t.linear];
  // Committed groups are 0 .. open_group - 1; the wait covers all but the newest `pending` of them.
  const auto is_covered = [&](const PendingCopy& c) {
    return c.group + static_cast<unsigned>(pending) < t.open_group;
  };
  unsigned covered = 0;
  while (covered < copies.size && is_covered(copies.items[covered])) ++covered;
  if (covered == 0) return false;
  unsigned chosen = 0;
  if (machine.schedule.order == Order::backward) chosen = covered - 1;
  if (machine.schedule.order == Order::random) {
    chosen = static_cast<unsigned>(next_random() % covered);
  }
  copy = copies.items[chosen].copy;
  copies.erase(chosen);
  return true;
}

// ---- mbarrier ----

void start_mbarrier(const std::uint64_t* mbarrier, std::uint32_t count) {
  if (!in_shared_memory(mbarrier)) fail("mbarrier.init", "the mbarrier is not in shared memory");
  if (count == 0 || count >= 1u << 20)
    fail("mbarrier.init", "count %u, allowed: 1 to 2^20 - 1", count);
  Mbarrier* m = find_mbarrier(mbarrier);
  if (m == nullptr) {
    if (machine.mbarriers.full()) fail("mbarrier.init", "more than 64 mbarriers");
    machine.mbarriers.push({mbarrier, 0, 0, 0, 0, {}});
    m = &machine.mbarriers.items[machine.mbarriers.size - 1];
  }
  m->count = m->pending = count;
  m->bytes = 0;
  m->phase = 0;
}

void arrive_at_mbarrier(const std::uint64_t* mbarrier, std::uint32_t expected_bytes) {
  Mbarrier& m = mbarrier_at(mbarrier, "mbarrier.arrive");
  if (m.pending == 0)
    fail("mbarrier.arrive", "more arrivals in a phase than its count %u", m.count);
  release(m.order);
  m.bytes += expected_bytes;
  --m.pending;
  advance(m);
}

void wait_for_mbarrier(const std::uint64_t* mbarrier, std::uint32_t parity) {
  Thread& t = self();
  // Looked up again after every wait: nobody may hold an entry while others run.
  while ((mbarrier_at(mbarrier, "mbarrier.try_wait").phase & 1u) == (parity & 1u)) {
    t.mbarrier = mbarrier;
    t.parity = parity & 1u;
    wait_in(State::in_mbarrier, "mbarrier.try_wait");
  }
  acquire(mbarrier_at(mbarrier, "mbarrier.try_wait").order);
}

// ---- cp.async.bulk ----

void issue_bulk_copy(void* shared, const void* global, std::uint32_t bytes,
                     const std::uint64_t* mbarrier) {
  if (!aligned16(shared)) fail("cp.async.bulk", "the shared address is not a multiple of 16");
  if (!aligned16(global)) fail("cp.async.bulk", "the global address is not a multiple of 16");
  if (bytes % 16 != 0) fail("cp.async.bulk", "%u bytes, allowed: multiples of 16", bytes);
  if (!in_shared_memory(shared)) fail("cp.async.bulk", "the destination is not in shared memory");
  if (machine.bulk_copies.full()) fail("cp.async.bulk", "more than 256 copies in flight");
  mbarrier_at(mbarrier, "cp.async.bulk");
  release(machine.bulk_order);
  machine.bulk_copies.push({shared, global, bytes, mbarrier});
}

bool land_bulk_copy() {
  FixedList<BulkCopy, 256>& copies = machine.bulk_copies;
  if (copies.size == 0) return false;
  unsigned chosen = 0;
  if (machine.schedule.order == Order::backward) chosen = copies.size - 1;
  if (machine.schedule.order == Order::random) {
    chosen = static_cast<unsigned>(next_random() % copies.size);
  }
  const BulkCopy copy = copies.items[chosen];
  copies.erase(chosen);
  Mbarrier& m = *find_mbarrier(copy.mbarrier);  // issue_bulk_copy has seen it
  copy_as_engine(copy, m);
  m.bytes -= copy.bytes;
  advance(m);
  return true;
}

void check_copies_landed() {
  if (machine.bulk_copies.size != 0) {
    record_fault("cp.async.bulk", "the CTA ended with %u copies in flight",
                 machine.bulk_copies.size);
  }
}

}  // namespace kvcodec::simt
