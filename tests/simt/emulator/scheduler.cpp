#include "tests/simt/emulator/scheduler.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "tests/simt/emulator/device_language.hpp"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace kvcodec::simt {

Machine machine;
const Observer* observer = nullptr;

// ---- Sets of threads. Builtins, because std::countr_zero may be compiled with a kernel. ----

unsigned ThreadSet::take(unsigned word, unsigned bit) {
  words_[word] &= ~(std::uint64_t{1} << bit);
  --count_;
  return word * 64 + bit;
}

unsigned ThreadSet::take_lowest() {
  unsigned word = 0;
  while (words_[word] == 0) ++word;
  return take(word, static_cast<unsigned>(__builtin_ctzll(words_[word])));
}

unsigned ThreadSet::take_highest() {
  unsigned word = kMaxThreads / 64 - 1;
  while (words_[word] == 0) --word;
  return take(word, 63u - static_cast<unsigned>(__builtin_clzll(words_[word])));
}

unsigned ThreadSet::take_nth(unsigned n) {
  unsigned word = 0;
  for (;; ++word) {
    const unsigned here = static_cast<unsigned>(__builtin_popcountll(words_[word]));
    if (n < here) break;
    n -= here;
  }
  std::uint64_t bits = words_[word];
  for (; n > 0; --n) bits &= bits - 1;
  return take(word, static_cast<unsigned>(__builtin_ctzll(bits)));
}

// ---- On the fibers. ----

std::uint64_t next_random() {  // splitmix64
  std::uint64_t z = machine.random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void wait_in(State state, const char* what) {
  Thread& thread = self();
  thread.state = state;
  thread.waits_in = what;
  Fiber::suspend();
}

void make_ready(Thread& thread) {
  thread.state = State::ready;
  machine.ready.add(thread.linear);
}

void yield() {
  make_ready(self());
  Fiber::suspend();
}

void record_fault(const char* what, const char* why, unsigned a, unsigned b) {
  Fault& fault = machine.fault;
  if (fault.set) return;
  fault.what = what;
  fault.why = why;
  fault.a = a;
  fault.b = b;
  fault.thread = machine.running;
  fault.set = true;
}

// The stack is left as it is, without unwinding: a kernel function may well be noexcept.
void fail(const char* what, const char* why, unsigned a, unsigned b) {
  record_fault(what, why, a, b);
  Fiber::suspend();
  __builtin_unreachable();
}

namespace {

void record_exception(const char* text) {
  char* note = machine.fault.note;
  std::size_t i = 0;
  for (; text[i] != '\0' && i + 1 < sizeof(machine.fault.note); ++i) note[i] = text[i];
  note[i] = '\0';
  record_fault("exception", "thrown in a kernel: ");
}

[[noreturn]] void thread_main() {
  for (;;) {
    acquire(machine.launched);
    try {
      machine.body(machine.argument);
    } catch (const std::exception& e) {
      record_exception(e.what());
    } catch (...) {
      record_exception("not a std::exception");
    }
    release(machine.ended);
    Thread& thread = self();
    if (const unsigned n = machine.copies[thread.linear].size; n != 0) {
      record_fault("cp.async", "the thread returned with %u copies in flight", n);
    }
    thread.state = State::returned;
    ++machine.returned;
    leave_collectives(thread);
    Fiber::suspend();
  }
}

// ---- The scheduler, on the host thread that launches. ----

std::vector<std::unique_ptr<Fiber>> fibers;

std::string index_text(const uint3& i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

std::string fault_text() {
  const Fault& fault = machine.fault;
  char why[256];
  std::snprintf(why, sizeof(why), fault.why, fault.a, fault.b);
  std::string text = std::string(fault.what) + ": " + why + fault.note;
  if (fault.thread != nullptr) {
    const Thread& t = *fault.thread;
    text += " [thread " + index_text(t.index) + " of CTA " + index_text(blockIdx) + ", lane " +
            std::to_string(t.lane) + " of warp " + std::to_string(t.warp) + "]";
  }
  return text;
}

std::string deadlock_text() {
  struct Waiting {
    unsigned threads = 0;
    unsigned first = 0;
  };
  std::map<std::string, Waiting> by_place;
  for (unsigned i = 0; i < machine.n_threads; ++i) {
    const Thread& t = machine.threads[i];
    std::string place = t.state == State::returned ? "have returned" : "wait in ";
    if (t.state != State::returned) place += t.waits_in;
    char detail[64] = "";
    if (t.state == State::in_warp) std::snprintf(detail, sizeof(detail), " mask 0x%08x", t.mask);
    if (t.state == State::in_named) std::snprintf(detail, sizeof(detail), " %u", t.barrier);
    if (t.state == State::in_mbarrier) {
      std::snprintf(detail, sizeof(detail), " parity %u", t.parity);
    }
    Waiting& w = by_place[place + detail];
    if (w.threads++ == 0) w.first = i;
  }
  std::string text = "deadlock in CTA " + index_text(blockIdx) + ":";
  for (const auto& [place, w] : by_place) {
    text += " [" + std::to_string(w.threads) + " threads " + place + ", the first is thread " +
            index_text(machine.threads[w.first].index) + "]";
  }
  return text;
}

void prepare_thread(unsigned i, std::uint64_t sequence) {
  Thread& t = machine.threads[i];
  t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
  t.linear = i;
  t.lane = i % kWarpLanes;
  t.warp = i / kWarpLanes;
  t.waits_in = "?";
  t.open_group = 0;
  machine.copies[i].size = 0;
  // Accesses of one fiber are ordered. That CTAs of a window are not, must hold for their threads of
  // the same number too: those take turns on n + 1 fibers.
  const std::size_t number = (i + sequence) % fibers.size();
  t.fiber = fibers[number].get();
  if (!t.fiber->started()) t.fiber->start(&thread_main, number);
  make_ready(t);
}

Thread& next_thread() {
  ThreadSet& ready = machine.ready;
  switch (machine.schedule.order) {
    case Order::forward: return machine.threads[ready.take_lowest()];
    case Order::backward: return machine.threads[ready.take_highest()];
    case Order::random: break;
  }
  return machine.threads[ready.take_nth(static_cast<unsigned>(next_random() % ready.count()))];
}

// Empty if all went well.
std::string run_cta(std::size_t shared_bytes, std::uint64_t sequence) {
  reset_shared_memory(shared_bytes, sequence);
  reset_collectives();
  machine.ready.clear();
  machine.returned = 0;
  machine.mbarriers.size = 0;
  machine.bulk_copies.size = 0;
  for (unsigned i = 0; i < machine.n_threads; ++i) prepare_thread(i, sequence);
  while (machine.returned < machine.n_threads) {
    if (machine.ready.count() == 0) {
      if (land_bulk_copy()) continue;
      return deadlock_text();
    }
    Thread& thread = next_thread();
    machine.running = &thread;
    threadIdx = thread.index;
    thread.fiber->resume();
    machine.running = nullptr;
    if (machine.fault.set) return fault_text();
  }
  check_copies_landed();
  return machine.fault.set ? fault_text() : "";
}

// CTAs in the order of the schedule.
std::vector<std::uint32_t> cta_order(std::size_t n) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  if (machine.schedule.order == Order::backward) {
    std::iota(order.rbegin(), order.rend(), 0u);
  } else if (machine.schedule.order == Order::random) {
    for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  }
  return order;
}

cudaError_t check_shape(dim3 grid, dim3 threads, std::size_t shared_bytes) {
  const std::uint64_t n = std::uint64_t{threads.x} * threads.y * threads.z;
  if (n == 0 || n > kMaxThreads || threads.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (shared_bytes > device().shared_bytes_per_cta) return cudaErrorInvalidValue;
  return cudaSuccess;
}

std::string run_grid(dim3 grid, std::size_t shared_bytes) {
  while (fibers.size() < machine.n_threads + 1) fibers.push_back(std::make_unique<Fiber>());
  std::string text;
  std::uint64_t sequence = 0;
  release(machine.launched);
  for (const std::uint32_t i : cta_order(std::size_t{grid.x} * grid.y * grid.z)) {
    blockIdx = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    text = run_cta(shared_bytes, sequence);
    if (observer != nullptr) observer->cta_ended();
    if (!text.empty()) break;
    if (++sequence % kArenas == 0) {
      acquire(machine.ended);
      release(machine.launched);
    }
  }
  if (!text.empty()) {
    for (unsigned i = 0; i < machine.n_threads; ++i) {
      Thread& t = machine.threads[i];
      if (t.state != State::returned) t.fiber->abandon(machine.ended);
    }
  }
  acquire(machine.ended);
  return text;
}

}  // namespace

cudaError_t run(dim3 grid, dim3 threads, std::size_t shared_bytes, void (*body)(void*),
                void* argument) {
  if (machine.running != nullptr) fail("launch", "kernels cannot launch kernels here");
  static std::mutex one_launch;
  const std::lock_guard<std::mutex> lock(one_launch);
  if (const cudaError_t status = check_shape(grid, threads, shared_bytes); status != cudaSuccess) {
    return set_last_error(status);
  }
  machine.n_threads = threads.x * threads.y * threads.z;
  machine.body = body;
  machine.argument = argument;
  machine.schedule = schedule();
  machine.random_state = machine.schedule.seed;
  machine.fault = {};
  gridDim = grid;
  blockDim = threads;
  const std::string text = run_grid(grid, shared_bytes);
  if (text.empty()) return cudaSuccess;
  set_fault_text(text.c_str());
  return set_last_error(cudaErrorLaunchFailure);
}

}  // namespace kvcodec::simt
