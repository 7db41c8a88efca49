// AMX: registers that hold matrices of 16 rows by 64 bytes, and their product, on Linux.
#pragma once

#include <cstddef>

namespace kvcodec::cpu {

/// Most rows of queries in one product.
inline constexpr int kMatrixRows = 16;
/// Bytes of the summed axis in one register.
inline constexpr int kMatrixDepth = 64;

/// Whether the processor multiplies matrices of bytes.
bool processor_has_matrices() noexcept;

/// Whether it does and the system lets this process: asked for at the first call, for all its threads.
/// From then on the system refuses signal stacks (sigaltstack) of less than about 12 KiB; where a thread
/// has a smaller one already, it refuses us. So nobody is asked before matrices are wanted.
bool matrix_usable() noexcept;

/// From here on this thread's registers are: 0 to 3 sums [n, 16] int32, 4 and 5 queries [n, 64] bytes, 6 and 7
/// levels [16, 16] of four bytes, with n the smaller of n_q and kMatrixRows. Does nothing unless
/// matrix_usable().
void begin_matrices(int n_q) noexcept;

/// Frees them: the system saves them at every change of threads until then.
void end_matrices() noexcept;

}  // namespace kvcodec::cpu
