// Host memory for pages.
#pragma once

#include <cstddef>
#include <memory>

namespace kvcodec {

/// Frees what allocate_page_memory() gave.
struct FreePageMemory {
  std::size_t alignment = 64;
  void operator()(std::byte* p) const noexcept;
};

using PageMemory = std::unique_ptr<std::byte[], FreePageMemory>;

/// `bytes` of uninitialized memory, committed by the operating system as it is first written. From 4 MiB on it
/// begins at a multiple of 2 MiB and, on Linux, asks for huge pages (madvise): pages of a head lie far
/// apart, and translating their addresses costs up to a third of attention's time otherwise. Where the
/// system grants none it is ordinary memory. For engines that keep pages themselves; PagePool uses it.
/// Throws std::bad_alloc. Any thread.
PageMemory allocate_page_memory(std::size_t bytes);

}  // namespace kvcodec
