// Between the compiler's instrumentation and the counters. Internal.
#pragma once

#include <cstddef>

namespace kvcodec::simt {

/// An access of the running thread, if one runs and counters live. `from` tells accesses apart.
void note_access(const void* from, const void* p, std::size_t bytes, bool write);

}  // namespace kvcodec::simt
