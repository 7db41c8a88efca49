#include "tests/simt/emulator/tensor.hpp"

#include "tests/simt/emulator/device_language.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

// All f16 values: NVIDIA's conversion on the host goes bit by bit.
const float* f16_values() {
  static const auto* const table = [] {
    static float values[1 << 16];
    for (unsigned i = 0; i < 1 << 16; ++i) {
      __half_raw raw;
      raw.x = static_cast<unsigned short>(i);
      values[i] = __half2float(__half(raw));
    }
    return values;
  }();
  return table;
}
const float* const kF16 = f16_values();  // before any fiber runs

float f16_element(std::uint32_t word, int i) { return kF16[word >> (16 * i) & 0xffffu]; }
float bf16_element(std::uint32_t word, int i) {
  return __builtin_bit_cast(float, (word >> (16 * i) & 0xffffu) << 16);
}
// The bits below tf32's are not read.
float tf32_element(std::uint32_t word, int) {
  return __builtin_bit_cast(float, word & 0xffffe000u);
}
std::int32_t s8_element(std::uint32_t word, int i) {
  return static_cast<std::int8_t>(word >> (8 * i) & 0xffu);
}

template <class Sum>
struct MmaOperand {
  Sum* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// Wide holds the exact sum; kPerWord elements of a register, kDepth = 8 * kPerWord contracted.
template <class Sum, class Wide, int kPerWord, class Element>
void multiply(void* const* operands, Element element) {
  constexpr int kDepth = 8 * kPerWord;
  Wide a[16][kDepth];
  Wide b[kDepth][8];
  Wide d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaOperand<Sum>*>(operands[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < kPerWord; ++i) {
      const int column = kPerWord * t + i;
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r & 1)][column + 4 * kPerWord * (r >> 1)] =
            static_cast<Wide>(element(own.a[r], i));
      }
      for (int r = 0; r < 2; ++r) {
        b[column + 4 * kPerWord * r][g] = static_cast<Wide>(element(own.b[r], i));
      }
    }
    for (int r = 0; r < 4; ++r) d[g + 8 * (r >> 1)][2 * t + (r & 1)] = static_cast<Wide>(own.d[r]);
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaOperand<Sum>*>(operands[lane]);
    for (int r = 0; r < 4; ++r) {
      own.d[r] = static_cast<Sum>(d[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)]);
    }
  }
}

void multiply_f16(void* const* operands, unsigned) {
  multiply<float, double, 2>(operands, &f16_element);
}
void multiply_bf16(void* const* operands, unsigned) {
  multiply<float, double, 2>(operands, &bf16_element);
}
void multiply_tf32(void* const* operands, unsigned) {
  multiply<float, double, 1>(operands, &tf32_element);
}
// 64 bits do not overflow; the conversion to 32 wraps.
void multiply_s8(void* const* operands, unsigned) {
  multiply<std::int32_t, std::int64_t, 4>(operands, &s8_element);
}

void exchange_matrices(void* const* operands, unsigned) {
  const auto lane_of = [&](int lane) -> LdmatrixOperand& {
    return *static_cast<LdmatrixOperand*>(operands[lane]);
  };
  for (int lane = 0; lane < 32; ++lane) {
    const LdmatrixOperand& own = lane_of(lane);
    if (own.transposed != lane_of(0).transposed) fail("ldmatrix", "lanes disagree about .trans");
    const int g = lane / 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::uint32_t word = 0;
      for (int i = 0; i < 2; ++i) {
        const int k = 2 * (lane % 4) + i;
        const std::uint32_t element =
            own.transposed ? lane_of(8 * matrix + k).row[g] : lane_of(8 * matrix + g).row[k];
        word |= element << (16 * i);
      }
      own.result[matrix] = word;
    }
  }
}

/// One lane's part of a movmatrix.
struct MovmatrixOperand {
  std::uint32_t given;
  std::uint32_t result;
};

void transpose_matrix(void* const* operands, unsigned) {
  const auto lane_of = [&](int lane) -> MovmatrixOperand& {
    return *static_cast<MovmatrixOperand*>(operands[lane]);
  };
  const auto element = [&](int row, int column) {
    return (lane_of(4 * row + column / 2).given >> (16 * (column % 2))) & 0xffffu;
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    lane_of(lane).result = element(2 * t, g) | (element(2 * t + 1, g) << 16);
  }
}

}  // namespace

void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  MmaOperand<float> operand{d, a, b};
  meet_all_lanes("mma.m16n8k16.f16", &operand, &multiply_f16);
}

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  MmaOperand<float> operand{d, a, b};
  meet_all_lanes("mma.m16n8k16.bf16", &operand, &multiply_bf16);
}

std::uint32_t tf32_of(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  MmaOperand<float> operand{d, a, b};
  meet_all_lanes("mma.m16n8k8.tf32", &operand, &multiply_tf32);
}

void mma_m16n8k32_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                     const std::uint32_t (&b)[2]) {
  MmaOperand<std::int32_t> operand{d, a, b};
  meet_all_lanes("mma.m16n8k32.s8", &operand, &multiply_s8);
}

std::uint32_t movmatrix_trans(std::uint32_t x) {
  MovmatrixOperand operand{x, 0};
  meet_all_lanes("movmatrix", &operand, &transpose_matrix);
  return operand.result;
}

void check_ldmatrix_row(const void* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
    fail("ldmatrix", "the row's address is not a multiple of 16");
  }
  if (!in_shared_memory(row)) fail("ldmatrix", "the row is not in shared memory");
}

void ldmatrix_exchange(LdmatrixOperand& operand) {
  meet_all_lanes("ldmatrix", &operand, &exchange_matrices);
}

}  // namespace kvcodec::simt
