// Tiles of one side as the general path reads them: into shared memory, f32.
//
//   t.plan(side, head_dim, before)    shared memory, behind `before` bytes of others
//   t.of(p, codecs, u)                the same for one unit, whose head may have tables of its own
//   t.start(memory)                   once per CTA; a barrier must follow
//   t.column(head, head_dim)          where in a row of values those of a tile's head begin
//   t.decode<side>(memory, head_dim, tile, head)   values <- at least that head of a tile; all
//                                     threads together, between barriers
#pragma once

#include <type_traits>

#include "cuda/attend/codec_of.cuh"
#include "cuda/attend/general/words.cuh"
#include "cuda/codec/decode.cuh"
#include "kvcodec/codec/fp4.hpp"
#include "kvcodec/codec/kivi.hpp"
#include "kvcodec/codec/raw.hpp"
#include "kvcodec/codec/tile_format.hpp"

namespace kvcodec::cuda {

static_assert(kTileThreads == kAttendThreads && kAttendThreads == 2 * kTileRows);

/// e2m1 and e4m3 as bits of an f16 that is 2^-14, and 2^-8, of them, subnormals included.
__device__ __forceinline__ float e2m1_level(std::uint32_t code) {
  const std::uint32_t bits = (code & 8u) << 12 | (code & 7u) << 9;
  return __half2float(half_of(static_cast<std::uint16_t>(bits))) * 0x1p14f;
}
__device__ __forceinline__ float e4m3_level(std::uint32_t code) {
  const std::uint32_t bits = (code & 0x80u) << 8 | (code & 0x7fu) << 7;
  return __half2float(half_of(static_cast<std::uint16_t>(bits))) * 0x1p8f;
}

__device__ __forceinline__ float f16_at(const std::byte* at) {
  return __half2float(half_of(*reinterpret_cast<const std::uint16_t*>(at)));
}

// Codecs by words, where their parts would leave most threads without work or spill rows of codes.

template <Side kSide, class Scales>
__device__ void decode_by_words(const Fp4<Scales>& codec, int head_dim, const std::byte* tile,
                                float* x, int row_stride) {
  decode_words<kSide, 4>(
      head_dim, tile, x, row_stride,
      [&](int row, int c) {
        return codec.scales.unit(static_cast<std::uint8_t>(
            tile[codec.scale_offset(head_dim, c) + static_cast<std::size_t>(row)]));
      },
      [](int, int, std::uint32_t code, float unit) { return e2m1_level(code) * unit; });
}

template <Side kSide>
__device__ void decode_by_words(const RawF32&, int head_dim, const std::byte* tile, float* x,
                                int row_stride) {
  decode_words<kSide, 32>(
      head_dim, tile, x, row_stride, [](int, int) { return 0; },
      [](int, int, std::uint32_t code, int) { return pun<float>(code); });
}

/// A run of tokens shares the step and the offset of a channel.
template <Side kSide>
requires(kSide == Side::key)  //
    __device__ void decode_by_words(const Kivi& codec, int head_dim, const std::byte* tile,
                                    float* x, int row_stride) {
  struct Run {
    const std::byte* scales;  // of channel 0
    const std::byte* zeros;
  };
  const auto run = [&](int row, int) {
    return Run{tile + codec.scale_offset(kSide, head_dim, row, 0),
               tile + codec.zero_offset(kSide, head_dim, row, 0)};
  };
  const auto value = [](int, int c, std::uint32_t code, const Run& r) {
    return fmaf(static_cast<float>(code), f16_at(r.scales + 2 * c), f16_at(r.zeros + 2 * c));
  };
  if (codec.bits == 2) decode_words<kSide, 2>(head_dim, tile, x, row_stride, run, value);
  else decode_words<kSide, 4>(head_dim, tile, x, row_stride, run, value);
}

template <class C, Side kSide>
concept WordCodec = requires(const C codec, int n, const std::byte* tile, float* x) {
  decode_by_words<kSide>(codec, n, tile, x, n);
};

/// Tiles of a codec, by words or parts of its own.
template <Codec C>
struct CodecTiles {
  C codec;

  KVCODEC_HD TileMemory plan(int head_dim, std::size_t before) const noexcept {
    return plan_tile(codec, head_dim, before);
  }
  __device__ CodecTiles of(const AttendParams& p, const AnyCodec* codecs, const Unit& u) const {
    return {codec_of(p, codecs, u, codec)};
  }
  __device__ void start(const TileMemory&) const {}
  __device__ int column(int head, int head_dim) const { return head * head_dim; }

  template <Side kSide>
  __device__ void decode(const TileMemory& memory, int head_dim, const std::byte* tile, int) const {
    if (memory.tile_fits) {
      copy_by_cta(memory.tile(dynamic_shared<std::byte>()), tile, memory.tile_bytes);
      __syncthreads();
      tile = memory.tile(tile);
    }
    if constexpr (WordCodec<C, kSide>) {
      decode_by_words<kSide>(codec, head_dim, tile, memory.values(), memory.row_stride);
    } else {
      decode_by_cta(codec, kSide, head_dim, tile, memory.values(), memory.row_stride);
    }
  }
};

/// Tiles that a TileFormat describes; of a tile of several heads only the one that is wanted is read.
struct FormatTiles {
  TileFormat format;
  std::uint32_t plane_bytes;    ///< codes of a head
  std::uint32_t params_offset;  ///< of what follows the codes of all heads
  std::uint32_t params_bytes;

  static constexpr std::size_t kLevelBytes = sizeof(float) * 16;

  /// Tiles of `tile_bytes` for `span` heads.
  static FormatTiles make(const TileFormat& format, Side side, int head_dim, int span,
                          std::size_t tile_bytes) noexcept {
    FormatTiles t;
    t.format = format;
    t.plane_bytes =
        static_cast<std::uint32_t>(TileLayout{side, format.bits, head_dim}.plane_bytes());
    t.params_offset = static_cast<std::uint32_t>(span) * t.plane_bytes;
    t.params_bytes = static_cast<std::uint32_t>(tile_bytes) - t.params_offset;
    return t;
  }
  KVCODEC_HD TileMemory plan(int head_dim, std::size_t before) const noexcept {
    TileMemory m{};
    m.values_offset = before + kLevelBytes;
    m.width = head_dim;
    m.row_stride = head_dim + 1;
    m.tile_offset =
        m.values_offset + sizeof(float) * static_cast<std::size_t>(kTileRows * m.row_stride);
    m.tile_bytes = plane_bytes + params_bytes;
    m.tile_fits = m.tile_offset + m.tile_bytes <= kMostSharedBytes;
    return m;
  }
  __device__ const FormatTiles& of(const AttendParams&, const AnyCodec*, const Unit&) const {
    return *this;
  }
  __device__ void start(const TileMemory& memory) const {
    if (threadIdx.x < 16) levels(memory)[threadIdx.x] = format.table[threadIdx.x];
  }
  __device__ int column(int, int) const { return 0; }

  template <Side kSide>
  __device__ void decode(const TileMemory& memory, int head_dim, const std::byte* tile,
                         int head) const {
    const std::byte* codes = tile + static_cast<std::size_t>(head) * plane_bytes;
    const std::byte* params = tile + params_offset;
    if (memory.tile_fits) {
      std::byte* own = memory.tile(dynamic_shared<std::byte>());
      copy_by_cta(own, codes, plane_bytes);
      copy_by_cta(own + plane_bytes, params, params_bytes);
      __syncthreads();
      codes = own;
      params = own + plane_bytes;
    }
    const auto decode_bits = [&]<int kBits>() {
      decode_as<kSide, kBits>(memory, head_dim, codes, params, head);
    };
    switch (format.bits) {
      case 1: decode_bits.template operator()<1>(); break;
      case 2: decode_bits.template operator()<2>(); break;
      case 4: decode_bits.template operator()<4>(); break;
      case 8: decode_bits.template operator()<8>(); break;
      default: decode_bits.template operator()<16>();
    }
  }

 private:
  __device__ static float* levels(const TileMemory& memory) {
    return reinterpret_cast<float*>(dynamic_shared<std::byte>() + memory.values_offset -
                                    kLevelBytes);
  }

  template <int kBits>
  __device__ __forceinline__ float level(const float* table, std::uint32_t code) const {
    using Level = TileFormat::Level;
    if constexpr (kBits < 8) return table[code];
    const auto bits = static_cast<std::uint16_t>(code);
    if constexpr (kBits == 16) {
      return format.level == Level::f16 ? __half2float(half_of(bits))
                                        : __bfloat162float(bf16_of(bits));
    }
    return format.level == Level::e4m3   ? e4m3_level(code)
           : format.level == Level::int8 ? static_cast<float>(static_cast<std::int8_t>(code))
                                         : static_cast<float>(code);
  }

  template <Side kSide, int kBits>
  __device__ void decode_as(const TileMemory& memory, int head_dim, const std::byte* codes,
                            const std::byte* params, int head) const {
    struct Affine {
      float scale;
      float zero;
    };
    const float* table = levels(memory);
    decode_words<kSide, kBits>(
        head_dim, codes, memory.values(), memory.row_stride,
        [&](int row, int c) {
          Affine a{format.scale, 0.0f};
          if (format.group == 0) return a;
          const std::byte* at =
              params + 2 * row +
              kScalePlaneBytes * static_cast<std::size_t>((head * head_dim + c) / format.group);
          a.scale *= f16_at(at + (format.scale_offset - params_offset));
          if (format.has_zeros()) a.zero = f16_at(at + (format.zero_offset - params_offset));
          return a;
        },
        [&](int, int, std::uint32_t code, const Affine& a) {
          return fmaf(a.scale, level<kBits>(table, code), a.zero);
        });
  }
};

}  // namespace kvcodec::cuda
