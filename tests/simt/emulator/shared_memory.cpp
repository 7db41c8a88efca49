// Shared memory of the running CTA: [red zone | dynamic | red zone | variable | red zone | ...],
// everything poisoned until it is handed out, then filled with 0xff.
#include <sys/mman.h>

#include <new>

#include "tests/simt/emulator/device_language.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

constexpr std::size_t kArenaBytes = 512 * 1024;
constexpr std::size_t kRedZone = 1024;  // also the alignment of dynamic shared memory
constexpr std::size_t kStaticLimit = 48 * 1024;

// A mapping of our own: neither malloc's nor anybody's to instrument.
std::byte* arenas() {
  static std::byte* const base = [] {
    void* p = mmap(nullptr, kArenas * kArenaBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return static_cast<std::byte*>(p);
  }();
  return base;
}

std::byte* hand_out(std::byte* p, std::size_t bytes) {
  allow_access(p, bytes);
  fill_unseen(p, bytes);
  return p;
}

}  // namespace

void fill_unseen(void* p, std::size_t bytes) {
  // Not memset: that one is seen. Volatile, so that the compiler makes no memset of it either.
  auto* words = static_cast<volatile std::uint64_t*>(p);
  for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = ~std::uint64_t{0};
  auto* tail = reinterpret_cast<volatile unsigned char*>(words + bytes / 8);
  for (std::size_t i = 0; i < bytes % 8; ++i) tail[i] = 0xff;
}

void reset_shared_memory(std::size_t dynamic_bytes, std::uint64_t sequence) {
  machine.arena = arenas() + sequence % kArenas * kArenaBytes;
  machine.dynamic_bytes = dynamic_bytes;
  machine.static_bytes = 0;
  machine.shared.size = 0;
  forbid_access(machine.arena, kArenaBytes);
  hand_out(machine.arena + kRedZone, dynamic_bytes);
  machine.arena_top = machine.arena + kRedZone + dynamic_bytes;
}

std::byte* dynamic_shared_memory() {
  if (machine.dynamic_bytes == 0) fail("dynamic_shared", "the launch gave no shared_bytes");
  return machine.arena + kRedZone;
}

void* shared_storage(const void* key, std::size_t bytes, std::size_t alignment) {
  for (const SharedVariable& v : machine.shared) {
    if (v.key == key) return v.address;
  }
  if (machine.shared.full()) fail("KVCODEC_SHARED", "more than 64 variables");
  machine.static_bytes += (bytes + 15) / 16 * 16;
  if (machine.static_bytes > kStaticLimit) {
    fail("KVCODEC_SHARED", "%u bytes of static shared memory, allowed: 49152",
         static_cast<unsigned>(machine.static_bytes));
  }
  if (machine.static_bytes + machine.dynamic_bytes > device().shared_bytes_per_cta) {
    fail("KVCODEC_SHARED", "%u bytes static and %u dynamic are more than a CTA may have",
         static_cast<unsigned>(machine.static_bytes), static_cast<unsigned>(machine.dynamic_bytes));
  }
  // Aligned as promised and no better, so that reliance on more than that can be caught.
  alignment = alignment < 16 ? 16 : alignment;
  auto at = reinterpret_cast<std::uintptr_t>(machine.arena_top) + 64;
  at = (at / (2 * alignment) * 2 + 1) * alignment;
  if (at < reinterpret_cast<std::uintptr_t>(machine.arena_top) + 64) at += 2 * alignment;
  machine.arena_top += at + bytes - reinterpret_cast<std::uintptr_t>(machine.arena_top);
  std::byte* p = hand_out(machine.arena_top - bytes, bytes);
  machine.shared.push({key, p});
  return p;
}

bool in_shared_memory(const void* p) {
  return machine.arena != nullptr && p >= machine.arena && p < machine.arena + kArenaBytes;
}

}  // namespace kvcodec::simt
