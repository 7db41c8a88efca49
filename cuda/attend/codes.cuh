// From words of codes to operands of mma.m16n8k16.
//
// A plane of codes is lines of 16 words (tile_layout.hpp). A lane (g = lane / 4, t = lane % 4) reads
// 16 bytes of a line: one word of each of four neighbours across the line, which become columns g of
// four B fragments. The elements inside a word run along the contraction index; fragments want four
// of them per lane and step, and the order of that index is free as long as the other operand follows
// (element() below says which element stands where).
#pragma once

#include "cuda/core/ptx.cuh"
#include "kvcodec/codec/tile_format.hpp"

namespace kvcodec::cuda {

/// How codes are turned into f16 levels.
enum class CodeKind {
  table1,  ///< 1 bit: -1 or +1; the level's size belongs to the scale
  table2,  ///< 2 bits, by table
  table4,  ///< 4 bits, by table
  byte,    ///< 8-bit integers, signed or not
  e4m3,
  f16,
};

__host__ __device__ constexpr int bits_of_kind(CodeKind kind) {
  return kind == CodeKind::table1   ? 1
         : kind == CodeKind::table2 ? 2
         : kind == CodeKind::table4 ? 4
         : kind == CodeKind::f16    ? 16
                                    : 8;
}

/// Bytes of the table in shared memory.
__host__ __device__ constexpr int table_bytes_of(CodeKind kind) {
  return kind == CodeKind::table2 || kind == CodeKind::table4 ? 256 * 32 * 4 : 0;
}

/// What decoding needs besides the words.
struct CodeTable {
  const std::uint32_t* levels;  ///< table2, table4: in shared memory, see fill_table
  std::uint32_t flip;           ///< byte: what turns the codes into offset binary
  std::uint32_t bias;           ///< byte: two f16 that the magic number adds too much
};

/// The constant that must multiply the scale because decoding leaves it out.
inline float level_factor(const TileFormat& f) {
  if (f.level == TileFormat::Level::table && f.bits == 1) return f.table[1];
  // e4m3 is read with the exponent bias of f16.
  return f.level == TileFormat::Level::e4m3 ? 256.0f : 1.0f;
}

/// Fills the table of a kind; all threads of the CTA, a barrier must follow.
///
/// table4: 256 words per copy, word b = levels of the low and the high nibble of b. table2: two words,
/// levels of bits (0-1, 2-3) and (4-5, 6-7). Every bank holds a copy, so that lanes never collide.
template <CodeKind kKind>
__device__ void fill_table(const TileFormat& f, std::uint32_t* table) {
  if constexpr (table_bytes_of(kKind) > 0) {
    KVCODEC_SHARED(levels, std::uint16_t[16]);
    __syncthreads();  // an earlier call may still be reading
    if (threadIdx.x < 16) levels[threadIdx.x] = bits_of(__float2half_rn(f.table[threadIdx.x]));
    __syncthreads();
    const auto pair = [&](std::uint32_t low, std::uint32_t high) {
      return static_cast<std::uint32_t>(levels[low]) |
             (static_cast<std::uint32_t>(levels[high]) << 16);
    };
    for (std::uint32_t i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
      if constexpr (kKind == CodeKind::table4) {
        const std::uint32_t byte = i / 32;
        table[i] = pair(byte & 15u, byte >> 4);
      } else {
        const std::uint32_t byte = i / 32;
        const std::uint32_t part = (byte >> (4 * (i % 2))) & 15u;
        table[i] = pair(part & 3u, part >> 2);
      }
    }
  }
}

/// How a format's codes are decoded with a filled table.
__device__ __forceinline__ CodeTable table_for(const TileFormat& f, const std::uint32_t* levels) {
  const bool is_signed = f.level == TileFormat::Level::int8;
  return {levels, is_signed ? 0x80808080u : 0u, is_signed ? 0x64806480u : 0x64006400u};
}

template <CodeKind kKind>
struct Codes {
  static constexpr int bits = bits_of_kind(kKind);
  static constexpr int per_word = 32 / bits;
  /// Words that make whole steps together, and steps they make.
  static constexpr int unit_words = bits == 16 ? 2 : 1;
  static constexpr int unit_steps = bits == 16 ? 1 : per_word / 4;

  /// Element, counted over the words of a unit, at half `i` of register `r` of step `j`.
  __host__ __device__ static constexpr int element(int j, int r, int i) {
    if (kKind == CodeKind::table1) {
      const int pair = 2 * j + r;
      return 4 * (pair % 8) + pair / 8 + 2 * i;
    }
    if (kKind == CodeKind::table2) return 2 * (j % 2) + r + 8 * (j / 2) + 4 * i;
    if (kKind == CodeKind::table4) return 2 * j + r + 4 * i;
    return 2 * r + i;
  }

  /// Fragments B of the steps of one unit.
  __device__ static __forceinline__ void fragments(const CodeTable& table,
                                                   const std::uint32_t (&w)[unit_words],
                                                   std::uint32_t (&b)[unit_steps][2]) {
    if constexpr (kKind == CodeKind::table1) {
#pragma unroll
      for (int pair = 0; pair < 16; ++pair) {
        // The sign bits of two halves; a set bit is +1.
        const std::uint32_t signs = w[0] << (15 - pair);
        b[pair / 2][pair % 2] = lop3<0x78>(0xbc00bc00u, signs, 0x80008000u);
      }
    } else if constexpr (kKind == CodeKind::table2) {
      const auto* pairs = reinterpret_cast<const uint2*>(table.levels) + threadIdx.x % 16;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        const uint2 two = load_vector(pairs + ((w[0] >> (8 * byte)) & 255u) * 16);
        b[byte / 2][byte % 2] = two.x;
        b[2 + byte / 2][byte % 2] = two.y;
      }
    } else if constexpr (kKind == CodeKind::table4) {
      const std::uint32_t* levels = table.levels + threadIdx.x % 32;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        b[byte / 2][byte % 2] = levels[((w[0] >> (8 * byte)) & 255u) * 32];
      }
    } else if constexpr (kKind == CodeKind::byte) {
      // Bytes become the low mantissa bits of 1024, then 1024 and the offset go again.
      const std::uint32_t offset_binary = w[0] ^ table.flip;
      const half2 bias = half2_of(table.bias);
      b[0][0] = bits_of(__hsub2(half2_of(__byte_perm(offset_binary, 0x64646464u, 0x4140)), bias));
      b[0][1] = bits_of(__hsub2(half2_of(__byte_perm(offset_binary, 0x64646464u, 0x4342)), bias));
    } else if constexpr (kKind == CodeKind::e4m3) {
      // s eeee mmm becomes s 0eeee mmm0000000: the f16 that is 2^-8 of it, subnormals included.
      const std::uint32_t low = __byte_perm(w[0], 0, 0x1404);
      const std::uint32_t high = __byte_perm(w[0], 0, 0x3424);
      b[0][0] = (low & 0x80008000u) | ((low >> 1) & 0x3f803f80u);
      b[0][1] = (high & 0x80008000u) | ((high >> 1) & 0x3f803f80u);
    } else {
      b[0][0] = w[0];
      b[0][1] = w[1];
    }
  }
};

/// One of the four words of a 16-byte load.
__device__ __forceinline__ std::uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

}  // namespace kvcodec::cuda
