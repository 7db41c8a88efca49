// Memory for pages, in huge pages of the operating system where it has them.
#include "kvcodec/page/page_memory.hpp"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kvcodec {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

void FreePageMemory::operator()(std::byte* p) const noexcept {
  ::operator delete[](p, std::align_val_t{alignment});
}

PageMemory allocate_page_memory(std::size_t bytes) {
  const bool large = bytes >= 2 * kHugePage;
  const FreePageMemory free{large ? kHugePage : 64};
  // Asked without throwing: the address sanitizer ends the program where the throwing form fails.
  PageMemory memory(static_cast<std::byte*>(
                        ::operator new[](bytes, std::align_val_t{free.alignment}, std::nothrow)),
                    free);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // Whole huge pages only: what shares the last one is not ours to advise. A refusal changes nothing.
  if (large) (void)madvise(memory.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace kvcodec
