// Which sanitizer the tree is built with, and its calls under one name each.
#pragma once

// g++ says so by a macro, clang by a feature. The runtime itself is compiled without TSan in a TSan
// tree, so there CMake says so: KVCODEC_SIMT_TSAN.
#if defined(__SANITIZE_ADDRESS__)
#define KVCODEC_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVCODEC_SIMT_ASAN 1
#endif
#endif

#if defined(KVCODEC_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(KVCODEC_SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

#include <cstddef>

namespace kvcodec::simt {

#if defined(KVCODEC_SIMT_ASAN)
inline constexpr bool kAsan = true;
#else
inline constexpr bool kAsan = false;
#endif
#if defined(KVCODEC_SIMT_TSAN)
inline constexpr bool kTsan = true;
#else
inline constexpr bool kTsan = false;
#endif

inline void forbid_access([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(KVCODEC_SIMT_ASAN)
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void allow_access([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(KVCODEC_SIMT_ASAN)
  __asan_unpoison_memory_region(p, bytes);
#endif
}

/// A place where threads hand their writes over: what came before a release comes before what
/// follows a later acquire, in TSan's eyes. Only the address counts.
struct SyncPoint {
  char address = 0;
};
inline void release([[maybe_unused]] SyncPoint& at) {
#if defined(KVCODEC_SIMT_TSAN)
  __tsan_release(&at);
#endif
}
inline void acquire([[maybe_unused]] SyncPoint& at) {
#if defined(KVCODEC_SIMT_TSAN)
  __tsan_acquire(&at);
#endif
}

}  // namespace kvcodec::simt
