// Where the code of one value sits in a tile: one layout for every codec and every reader.
//
// A tile holds kTileRows tokens of one KV head (or of `head_span` neighbouring heads). It starts
// with a plane of codes per head; planes of scales follow. A plane of codes is a sequence of
// 64-byte lines of 16 little-endian 32-bit words:
//
//   K tile: a line belongs to 16 neighbouring tokens ("lanes"), one word each; the word holds
//           32 / bits neighbouring channels of its token. Lines run over the channels first, then
//           over the groups of 16 tokens.
//   V tile: the same with tokens and channels exchanged: a line belongs to 16 neighbouring
//           channels, a word holds 32 / bits neighbouring tokens, lines run over the tokens first.
//
// So the axis that attention sums over (channels for q.k, tokens for p.v) lies inside words, and
// the other axis lies across SIMD lanes: no horizontal sum, and the lines are VNNI, AMX and mma
// operands as they are. Inside a word, element e (0-based along the summed axis) has
//
//   byte  e % 4, bits (e / 4) * bits .. of that byte     for bits = 1, 2, 4, 8
//   bits 16 * e ..                                        for bits = 16
//   the whole word                                        for bits = 32
//
// so one shift by j * bits turns the word into four byte-wide codes of neighbours 4j..4j+3.
//
// With 1 bit per value a word holds 32 channels, but head_dim may be an odd multiple of 16: the last
// word of every key is then half empty (zero bits), and V planes are as long as K planes.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// Which operand of attention a tile holds.
enum class Side : std::uint8_t { key, value };

/// "k" or "v"; static storage.
constexpr const char* to_string(Side s) noexcept { return s == Side::key ? "k" : "v"; }

/// A tile of zero bytes that several threads fill at once, each with parts of its own; what encode_part
/// of a PartedCodec writes to on a device.
///
///   w + n                       the same from byte n on
///   w.data                      its bytes; a thread may write those that no other part writes
///   w.set_bits(word, bits)      sets bits of a 32-bit word, counted from w on a 4-byte boundary, while
///                               other threads set others of the same word
template <class W>
concept TileWriter = requires(const W w, std::size_t n, std::uint32_t bits) {
  { w + n } -> std::same_as<W>;
  { w.data } -> std::convertible_to<std::byte*>;
  w.set_bits(n, bits);
};

/// The bytes at `out`, a pointer or a TileWriter, that belong to the caller's part alone.
KVCODEC_HD constexpr std::byte* own_bytes(std::byte* out) noexcept { return out; }
template <TileWriter W>
KVCODEC_HD constexpr std::byte* own_bytes(const W& out) noexcept {
  return out.data;
}

/// Layout of the plane of codes of one head: kTileRows x head_dim values of `bits` bits.
struct TileLayout {
  Side side = Side::key;
  int bits = 8;      ///< 1, 2, 4, 8, 16 or 32
  int head_dim = 0;  ///< a multiple of 16

  /// Place of one code: a 32-bit word counted from the start of the plane, and a shift in it.
  struct Place {
    std::size_t word;
    int shift;
  };

  /// Bytes of the plane; a multiple of 64.
  KVCODEC_HD constexpr std::size_t plane_bytes() const noexcept {
    return static_cast<std::size_t>(4 * kTileRows * key_words());
  }

  /// Values per 32-bit word.
  KVCODEC_HD constexpr int per_word() const noexcept { return 32 / bits; }

  /// Words of one key.
  KVCODEC_HD constexpr int key_words() const noexcept {
    return (head_dim + per_word() - 1) / per_word();
  }

  /// Place of the code of (row 0..63, channel 0..head_dim-1).
  KVCODEC_HD constexpr Place place(int row, int channel) const noexcept {
    const int lane_index = side == Side::key ? row : channel;
    const int summed = side == Side::key ? channel : row;
    const int words = side == Side::key ? key_words() : kTileRows / per_word();
    const int line = (lane_index / kLanes) * words + summed / per_word();
    const int e = summed % per_word();
    const int shift = bits >= 16 ? e * bits : (e % 4) * 8 + (e / 4) * bits;
    return {static_cast<std::size_t>(line) * kLanes + static_cast<std::size_t>(lane_index % kLanes),
            shift % 32};
  }

  /// Reads one code.
  KVCODEC_HD std::uint32_t get(const std::byte* plane, int row, int channel) const noexcept {
    const Place p = place(row, channel);
    std::uint32_t word;
    memcpy(&word, plane + 4 * p.word, 4);
    return bits == 32 ? word : (word >> p.shift) & ((1u << bits) - 1u);
  }

  /// Reads 16 codes that stand side by side in a line, codes[kLanes]: those of tokens lane..lane + 15
  /// at channel `summed` of a K tile, of channels lane..lane + 15 at token `summed` of a V tile.
  KVCODEC_HD void get_lanes(const std::byte* plane, int lane, int summed,
                            std::uint32_t* codes) const noexcept {
    const Place p = side == Side::key ? place(lane, summed) : place(summed, lane);
    const std::uint32_t mask = bits == 32 ? 0xffffffffu : (1u << bits) - 1u;
    std::uint32_t words[kLanes];
    memcpy(words, plane + 4 * p.word, sizeof words);
    for (int i = 0; i < kLanes; ++i) codes[i] = (words[i] >> p.shift) & mask;
  }

  /// Zeroes what no code of the plane fills; encoders whose planes have such gaps call it first.
  KVCODEC_HD void clear_padding(std::byte* plane) const noexcept {
    if (key_words() * per_word() == head_dim) return;
    for (std::size_t i = 0; i < plane_bytes(); ++i) plane[i] = std::byte{0};
  }

  /// Writes one code; the others of its word stay.
  KVCODEC_HD void put(std::byte* plane, int row, int channel, std::uint32_t code) const noexcept {
    const Place p = place(row, channel);
    std::uint32_t word;
    memcpy(&word, plane + 4 * p.word, 4);
    const std::uint32_t mask = bits == 32 ? 0xffffffffu : ((1u << bits) - 1u) << p.shift;
    word = (word & ~mask) | ((code << p.shift) & mask);
    memcpy(plane + 4 * p.word, &word, 4);
  }

  /// Writes the codes of a whole row, codes[head_dim]; the same bytes as put() of each.
  template <class Code>
  KVCODEC_HD void put_row(std::byte* plane, int row, const Code* codes) const noexcept {
    if (side == Side::key) {
      put_key_channels(plane, row, 0, head_dim, codes);
      return;
    }
    const Place first = place(row, 0);
    const std::uint32_t mask = (bits == 32 ? 0xffffffffu : (1u << bits) - 1u) << first.shift;
    for (int c = 0; c < head_dim; c += kLanes) {
      std::byte* at = plane + 4 * (first.word + value_line(c));
      std::uint32_t words[kLanes];
      memcpy(words, at, sizeof words);
      for (int i = 0; i < kLanes; ++i) {
        words[i] = (words[i] & ~mask) | (static_cast<std::uint32_t>(codes[c + i]) << first.shift);
      }
      memcpy(at, words, sizeof words);
    }
  }

  /// The same into a tile that other threads write other rows of.
  template <TileWriter W, class Code>
  KVCODEC_HD void put_row(const W& plane, int row, const Code* codes) const noexcept {
    if (side == Side::key) {  // a word holds channels of one token
      put_key_channels(own_bytes(plane), row, 0, head_dim, codes);
      return;
    }
    const Place first = place(row, 0);
    for (int c = 0; c < head_dim; ++c) {
      plane.set_bits(first.word + value_line(c) + static_cast<std::size_t>(c % kLanes),
                     static_cast<std::uint32_t>(codes[c]) << first.shift);
    }
  }

  /// Writes codes[n] of channels first..first + n - 1 of a row of a K tile; `first` must be a multiple
  /// of per_word(), and so must n unless the channels end there.
  template <class Code>
  KVCODEC_HD void put_key_channels(std::byte* plane, int row, int first, int n,
                                   const Code* codes) const noexcept {
    std::byte* at = plane + 4 * place(row, first).word;
    with_bits([&]<int kBits>() { put_words<kBits>(at, n, codes); });
  }

  /// Reads the codes of a whole row, codes[head_dim]: the same values as get() of each.
  template <class Code>
  KVCODEC_HD void get_row(const std::byte* plane, int row, Code* codes) const noexcept {
    const Place first = place(row, 0);
    const std::byte* at = plane + 4 * first.word;
    if (side == Side::key) {
      with_bits([&]<int kBits>() { get_words<kBits>(at, head_dim, codes); });
      return;
    }
    const std::uint32_t mask = bits == 32 ? 0xffffffffu : (1u << bits) - 1u;
    for (int c = 0; c < head_dim; c += kLanes) {
      std::uint32_t words[kLanes];
      memcpy(words, at + 4 * value_line(c), sizeof words);
      for (int i = 0; i < kLanes; ++i) {
        codes[c + i] = static_cast<Code>((words[i] >> first.shift) & mask);
      }
    }
  }

 private:
  /// Words from the line of channel 0 to that of `channel` at the same token of a V tile.
  KVCODEC_HD constexpr std::size_t value_line(int channel) const noexcept {
    return static_cast<std::size_t>(channel / kLanes * (kTileRows / per_word()) * kLanes);
  }

  /// fn<bits>(): loops over the codes of a word want their width as a constant.
  template <class F>
  KVCODEC_HD void with_bits(const F& fn) const noexcept {
    switch (bits) {
      case 1: fn.template operator()<1>(); break;
      case 2: fn.template operator()<2>(); break;
      case 4: fn.template operator()<4>(); break;
      case 8: fn.template operator()<8>(); break;
      case 16: fn.template operator()<16>(); break;
      default: fn.template operator()<32>();
    }
  }

  /// Shift of element e of a word.
  template <int kBits>
  KVCODEC_HD static constexpr int shift_of(int e) noexcept {
    return kBits >= 16 ? e * kBits % 32 : (e % 4) * 8 + (e / 4) * kBits;
  }

  /// Words of one key, the first at `at`, each in a line of its own.
  template <int kBits, class Code>
  KVCODEC_HD static void put_words(std::byte* at, int n, const Code* codes) noexcept {
    constexpr int kStep = 32 / kBits;
    int c = 0;
    for (; c + kStep <= n; c += kStep, at += 4 * kLanes) {
      std::uint32_t word = 0;
      for (int e = 0; e < kStep; ++e) {
        word |= static_cast<std::uint32_t>(codes[c + e]) << shift_of<kBits>(e);
      }
      memcpy(at, &word, 4);
    }
    if (c == n) return;
    std::uint32_t word = 0;
    for (int e = 0; c + e < n; ++e) {
      word |= static_cast<std::uint32_t>(codes[c + e]) << shift_of<kBits>(e);
    }
    memcpy(at, &word, 4);
  }

  template <int kBits, class Code>
  KVCODEC_HD static void get_words(const std::byte* at, int n, Code* codes) noexcept {
    constexpr int kStep = 32 / kBits;
    constexpr std::uint32_t kMask = kBits == 32 ? 0xffffffffu : (1u << (kBits % 32)) - 1u;
    for (int c = 0; c < n; c += kStep, at += 4 * kLanes) {
      std::uint32_t word;
      memcpy(&word, at, 4);
      const int end = n - c < kStep ? n - c : kStep;
      for (int e = 0; e < end; ++e) {
        codes[c + e] = static_cast<Code>((word >> shift_of<kBits>(e)) & kMask);
      }
    }
  }
};

/// Copies the codes of rows begin..end-1 from one plane to another of the same layout.
KVCODEC_HD inline void copy_codes(const TileLayout& layout, const std::byte* from, std::byte* to,
                                  int begin, int end) noexcept {
  for (int row = begin; row < end; ++row) {
    for (int channel = 0; channel < layout.head_dim; ++channel) {
      layout.put(to, row, channel, layout.get(from, row, channel));
    }
  }
}

/// A plane of one f16 per tile row: 64 x 2 bytes, row r at byte 2 r.
inline constexpr std::size_t kScalePlaneBytes = 2 * static_cast<std::size_t>(kTileRows);

/// Reads the scale of one row.
KVCODEC_HD inline std::uint16_t get_scale(const std::byte* plane, int row) noexcept {
  std::uint16_t bits;
  memcpy(&bits, plane + 2 * row, 2);
  return bits;
}

/// Writes the scale of one row.
KVCODEC_HD inline void put_scale(std::byte* plane, int row, std::uint16_t bits) noexcept {
  memcpy(plane + 2 * row, &bits, 2);
}
template <TileWriter W>
KVCODEC_HD void put_scale(const W& plane, int row, std::uint16_t bits) noexcept {
  put_scale(own_bytes(plane), row, bits);
}

/// Copies the scales of rows begin..end-1 from one plane to another.
KVCODEC_HD inline void copy_scales(const std::byte* from, std::byte* to, int begin,
                                   int end) noexcept {
  for (int row = begin; row < end; ++row) put_scale(to, row, get_scale(from, row));
}

}  // namespace kvcodec
