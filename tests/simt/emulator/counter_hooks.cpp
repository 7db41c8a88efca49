// What code compiled with -fsanitize=thread calls, in place of libtsan: every access is noted, atomic
// operations are performed as well.
#include "tests/simt/emulator/counter_hooks.hpp"

#include <cstdint>

// NOLINTBEGIN(bugprone-*)
// The names are the compiler's: __tsan_read4, __tsan_atomic32_fetch_add, ...
#define KVCODEC_NOTE(p, bytes, write)                                                              \
  kvcodec::simt::note_access(__builtin_return_address(0),                                          \
                             const_cast<const void*>(static_cast<const volatile void*>(p)), bytes, \
                             write)

#define KVCODEC_PLAIN(bytes)                                                    \
  void __tsan_read##bytes(void* p) { KVCODEC_NOTE(p, bytes, false); }           \
  void __tsan_write##bytes(void* p) { KVCODEC_NOTE(p, bytes, true); }           \
  void __tsan_unaligned_read##bytes(void* p) { KVCODEC_NOTE(p, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* p) { KVCODEC_NOTE(p, bytes, true); }

#define KVCODEC_FETCH(bits, T, operation)                              \
  T __tsan_atomic##bits##_fetch_##operation(volatile T* p, T v, int) { \
    KVCODEC_NOTE(p, sizeof(T), true);                                  \
    return __atomic_fetch_##operation(p, v, __ATOMIC_SEQ_CST);         \
  }

#define KVCODEC_ATOMIC(bits, T)                                                             \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                  \
    KVCODEC_NOTE(p, sizeof(T), false);                                                      \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
  }                                                                                         \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                               \
    KVCODEC_NOTE(p, sizeof(T), true);                                                       \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                               \
    KVCODEC_NOTE(p, sizeof(T), true);                                                       \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                     \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {   \
    KVCODEC_NOTE(p, sizeof(T), true);                                                       \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) {     \
    KVCODEC_NOTE(p, sizeof(T), true);                                                       \
    return __atomic_compare_exchange_n(p, e, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);  \
  }                                                                                         \
  KVCODEC_FETCH(bits, T, add)                                                               \
  KVCODEC_FETCH(bits, T, sub)                                                               \
  KVCODEC_FETCH(bits, T, and)                                                               \
  KVCODEC_FETCH(bits, T, or)                                                                \
  KVCODEC_FETCH(bits, T, xor)

extern "C" {

KVCODEC_PLAIN(1)
KVCODEC_PLAIN(2)
KVCODEC_PLAIN(4)
KVCODEC_PLAIN(8)
KVCODEC_PLAIN(16)
KVCODEC_ATOMIC(8, std::uint8_t)
KVCODEC_ATOMIC(16, std::uint16_t)
KVCODEC_ATOMIC(32, std::uint32_t)
KVCODEC_ATOMIC(64, std::uint64_t)

void __tsan_read_range(void* p, unsigned long bytes) { KVCODEC_NOTE(p, bytes, false); }
void __tsan_write_range(void* p, unsigned long bytes) { KVCODEC_NOTE(p, bytes, true); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

}  // extern "C"
// NOLINTEND(bugprone-*)
