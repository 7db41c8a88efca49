// Matrix instructions, for cuda/core/ptx.cuh, which documents the fragments. Included by
// device_language.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include <vector_types.h>

namespace kvcodec::simt {

/// x rounded to tf32: nearest, ties away from zero.
std::uint32_t tf32_of(float x);

/// d += a * b, with the exact sum of the products and d rounded once per element; a device rounds
/// differently.
void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_m16n8k32_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                     const std::uint32_t (&b)[2]);

/// One lane's part of an ldmatrix.
struct LdmatrixOperand {
  std::uint16_t row[8];
  std::uint32_t* result;  // 4 registers
  bool transposed;
};
void check_ldmatrix_row(const void* row);
void ldmatrix_exchange(LdmatrixOperand& operand);

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, bool transposed) {
  check_ldmatrix_row(row);
  LdmatrixOperand operand{{}, r, transposed};
  // Each lane reads its row in code that is compiled with the kernel: sanitizers and counters see it.
  const uint4 v = *static_cast<const uint4*>(row);
  std::memcpy(operand.row, &v, 16);
  ldmatrix_exchange(operand);
}

/// An 8 x 8 matrix transposed between lanes.
std::uint32_t movmatrix_trans(std::uint32_t x);

}  // namespace kvcodec::simt
