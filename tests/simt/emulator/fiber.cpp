#include "tests/simt/emulator/fiber.hpp"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <new>

#include "tests/simt/emulator/sanitizers.hpp"

namespace kvcodec::simt {
namespace {

namespace context = boost::context::detail;

constexpr std::size_t kGuardBytes = 4096;
// Only what a kernel touches becomes memory. Codecs keep whole tiles in local arrays.
constexpr std::size_t kStackBytes = 512 * 1024;

// The running fiber, and what to restore when it suspends.
struct Switch {
  Fiber* running = nullptr;
  context::fcontext_t scheduler = nullptr;
  void* asan_frames = nullptr;
  const void* asan_stack = nullptr;
  std::size_t asan_stack_bytes = 0;
  void* tsan_fiber = nullptr;
} current;

}  // namespace

struct Fiber::Access {
  [[noreturn]] static void enter(context::transfer_t from) {
    current.scheduler = from.fctx;
#if defined(KVCODEC_SIMT_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &current.asan_stack, &current.asan_stack_bytes);
#endif
    current.running->body_();
    __builtin_unreachable();
  }
};

void Fiber::start(void (*body)(), std::size_t number) {
  if (stack_ == nullptr) {
    void* p = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mprotect(p, kGuardBytes, PROT_NONE);  // an overflow faults instead of corrupting a neighbour
    stack_ = static_cast<std::byte*>(p) + kGuardBytes;
  }
  allow_access(stack_, kStackBytes);  // an abandoned frame may have left its red zones
  // Page-aligned tops would put the frames of all fibers into the same few sets of the L1 cache.
  const std::size_t colour = number % 61 * 192;
  context_ =
      context::make_fcontext(stack_ + kStackBytes - colour, kStackBytes - colour, &Access::enter);
  asan_frames_ = nullptr;
  body_ = body;
#if defined(KVCODEC_SIMT_TSAN)
  if (tsan_fiber_ == nullptr) tsan_fiber_ = __tsan_create_fiber(0);
#endif
  started_ = true;
}

void Fiber::resume() {
  current.running = this;
#if defined(KVCODEC_SIMT_ASAN)
  __sanitizer_start_switch_fiber(&current.asan_frames, stack_, kStackBytes);
#endif
#if defined(KVCODEC_SIMT_TSAN)
  current.tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  context_ = context::jump_fcontext(context_, nullptr).fctx;
#if defined(KVCODEC_SIMT_ASAN)
  __sanitizer_finish_switch_fiber(current.asan_frames, nullptr, nullptr);
#endif
  current.running = nullptr;
}

void Fiber::suspend() {
  [[maybe_unused]] Fiber& self = *current.running;
#if defined(KVCODEC_SIMT_ASAN)
  __sanitizer_start_switch_fiber(&self.asan_frames_, current.asan_stack, current.asan_stack_bytes);
#endif
#if defined(KVCODEC_SIMT_TSAN)
  __tsan_switch_to_fiber(current.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  current.scheduler = context::jump_fcontext(current.scheduler, nullptr).fctx;
#if defined(KVCODEC_SIMT_ASAN)
  __sanitizer_finish_switch_fiber(self.asan_frames_, &current.asan_stack,
                                  &current.asan_stack_bytes);
#endif
}

void Fiber::abandon([[maybe_unused]] SyncPoint& at) {
#if defined(KVCODEC_SIMT_TSAN)
  void* const scheduler = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, __tsan_switch_to_fiber_no_sync);
  release(at);
  __tsan_switch_to_fiber(scheduler, __tsan_switch_to_fiber_no_sync);
  __tsan_destroy_fiber(tsan_fiber_);  // its stack of calls is of no use to the next one
  tsan_fiber_ = nullptr;
#endif
  started_ = false;
}

}  // namespace kvcodec::simt
