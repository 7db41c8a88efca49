// The common layout of codes: a bijection, and hand-worked places of tile_layout.hpp.
#include "kvcodec/codec/tile_layout.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/guard.hpp"

namespace kvcodec {
namespace {

constexpr int kBits[] = {1, 2, 4, 8, 16, 32};

void expect_place(const TileLayout& layout, int row, int channel, std::size_t word, int shift) {
  const TileLayout::Place p = layout.place(row, channel);
  EXPECT_EQ(p.word, word) << "row " << row << ", channel " << channel;
  EXPECT_EQ(p.shift, shift) << "row " << row << ", channel " << channel;
}

TEST(TileLayout, EveryPlaceIsUsedExactlyOnce) {
  for (const Side side : test::kSides) {
    for (const int bits : kBits) {
      for (const int head_dim : test::kHeadDims) {
        if (head_dim % (32 / bits) != 0) continue;  // the plane has padding
        const TileLayout layout{side, bits, head_dim};
        const std::size_t n_words = layout.plane_bytes() / 4;
        EXPECT_EQ(layout.plane_bytes() % 64, 0u);
        std::vector<std::uint64_t> used(n_words, 0);
        for (int row = 0; row < kTileRows; ++row) {
          for (int channel = 0; channel < head_dim; ++channel) {
            const TileLayout::Place p = layout.place(row, channel);
            ASSERT_LT(p.word, n_words);
            ASSERT_GE(p.shift, 0);
            ASSERT_LE(p.shift, 32 - bits);
            ASSERT_EQ(p.shift % bits, 0);
            const std::uint64_t mask = ((std::uint64_t{1} << bits) - 1) << p.shift;
            ASSERT_EQ(used[p.word] & mask, 0u) << bits << " bits: two codes in one place";
            used[p.word] |= mask;
          }
        }
        for (const std::uint64_t word : used) ASSERT_EQ(word, 0xffffffffu);
      }
    }
  }
}

// 4-bit keys: 8 channels per word, 16 tokens per line, head_dim / 8 lines per group of tokens.
TEST(TileLayout, FourBitKeysByHand) {
  const TileLayout layout{Side::key, 4, 128};
  expect_place(layout, 0, 0, 0, 0);
  expect_place(layout, 0, 1, 0, 8);  // the next byte
  expect_place(layout, 0, 3, 0, 24);
  expect_place(layout, 0, 4, 0, 4);  // the high half of the first byte
  expect_place(layout, 0, 7, 0, 28);
  expect_place(layout, 1, 0, 1, 0);  // the next lane
  expect_place(layout, 15, 0, 15, 0);
  expect_place(layout, 0, 8, 16, 0);        // the next line
  expect_place(layout, 5, 13, 16 + 5, 12);  // e = 5: byte 1, high half
  expect_place(layout, 16, 0, 16 * 16, 0);  // the next group of 16 tokens, after 16 lines
  expect_place(layout, 63, 127, 4 * 16 * 16 - 1, 28);
}

// 4-bit values: tokens and channels exchanged; 64 / 8 = 8 lines per group of 16 channels.
TEST(TileLayout, FourBitValuesByHand) {
  const TileLayout layout{Side::value, 4, 128};
  expect_place(layout, 0, 0, 0, 0);
  expect_place(layout, 1, 0, 0, 8);
  expect_place(layout, 4, 0, 0, 4);
  expect_place(layout, 0, 1, 1, 0);
  expect_place(layout, 8, 0, 16, 0);
  expect_place(layout, 0, 16, 8 * 16, 0);
  expect_place(layout, 63, 127, 8 * 8 * 16 - 1, 28);
}

TEST(TileLayout, OtherWidthsByHand) {
  expect_place({Side::key, 8, 80}, 2, 7, 16 + 2, 24);              // 4 per word: line 1, byte 3
  expect_place({Side::key, 8, 80}, 17, 0, 20 * 16 + 1, 0);         // 20 lines per group of tokens
  expect_place({Side::value, 8, 80}, 5, 17, 16 * 16 + 16 + 1, 8);  // 16 lines per 16 channels
  expect_place({Side::key, 16, 64}, 3, 5, 2 * 16 + 3, 16);         // 2 per word
  expect_place({Side::value, 16, 64}, 5, 3, 2 * 16 + 3, 16);
  expect_place({Side::key, 32, 64}, 3, 5, 5 * 16 + 3, 0);  // 1 per word
  expect_place({Side::value, 32, 64}, 5, 19, 64 * 16 + 5 * 16 + 3, 0);
  expect_place({Side::key, 2, 64}, 0, 5, 0, 8 + 2);   // e = 5: byte 1, bits 2..3
  expect_place({Side::key, 1, 64}, 0, 29, 0, 8 + 7);  // e = 29: byte 1, bit 7
}

TEST(TileLayout, PutAndGetTouchOneCode) {
  for (const Side side : test::kSides) {
    for (const int bits : kBits) {
      const TileLayout layout{side, bits, 96};
      test::Guarded<> plane(layout.plane_bytes(), std::byte{0});
      const std::uint32_t full = bits == 32 ? 0xffffffffu : (1u << bits) - 1u;
      layout.put(plane.data(), 37, 41, 0xffffffffu);  // bits beyond the code are ignored
      for (int row = 0; row < kTileRows; ++row) {
        for (int channel = 0; channel < 96; ++channel) {
          const bool here = row == 37 && channel == 41;
          ASSERT_EQ(layout.get(plane.data(), row, channel), here ? full : 0u);
        }
      }
      layout.put(plane.data(), 37, 41, 0);
      EXPECT_EQ(plane.copy(), std::vector<std::byte>(layout.plane_bytes()));
      EXPECT_TRUE(plane.intact());
    }
  }
}

TEST(TileLayout, WholeRowsAreTheirCodes) {
  for (const Side side : test::kSides) {
    for (const int bits : kBits) {
      for (const int head_dim : test::kHeadDims) {
        const TileLayout layout{side, bits, head_dim};
        std::vector<std::byte> one_by_one(layout.plane_bytes(), std::byte{0});
        test::Guarded<> by_row(layout.plane_bytes(), std::byte{0});
        std::vector<std::uint32_t> codes(static_cast<std::size_t>(head_dim));
        for (const int row : {0, 21, 63}) {
          for (int c = 0; c < head_dim; ++c) {
            const std::uint32_t code =
                static_cast<std::uint32_t>(row * 977 + c * 31 + 1) * 2654435761u;
            codes[static_cast<std::size_t>(c)] = code >> (32 - bits);
            layout.put(one_by_one.data(), row, c, codes[static_cast<std::size_t>(c)]);
          }
          layout.put_row(by_row.data(), row, codes.data());
          test::Guarded<std::uint32_t> read(codes.size());
          layout.get_row(by_row.data(), row, read.data());
          EXPECT_EQ(read.copy(), codes) << bits << " bits, row " << row;
          EXPECT_TRUE(read.intact());
        }
        EXPECT_EQ(by_row.copy(), one_by_one) << bits << " bits";
        EXPECT_TRUE(by_row.intact());
      }
    }
  }
}

TEST(TileLayout, WordsAreLittleEndianBytes) {
  const TileLayout layout{Side::key, 4, 64};
  std::vector<std::byte> plane(layout.plane_bytes());
  layout.put(plane.data(), 0, 1, 0xa);
  layout.put(plane.data(), 0, 5, 0x3);
  EXPECT_EQ(plane[1], std::byte{0x3a});
}

TEST(TileLayout, CopiesRows) {
  for (const Side side : test::kSides) {
    for (const int bits : kBits) {
      const TileLayout layout{side, bits, 64};
      const std::vector<std::byte> from(layout.plane_bytes(), std::byte{0xff});
      std::vector<std::byte> to(layout.plane_bytes());
      copy_codes(layout, from.data(), to.data(), 13, 47);
      for (int row = 0; row < kTileRows; ++row) {
        for (int channel = 0; channel < 64; ++channel) {
          ASSERT_EQ(layout.get(to.data(), row, channel) != 0, row >= 13 && row < 47);
        }
      }
    }
  }
}

TEST(TileLayout, ScalesAreAPlaneOfHalves) {
  std::vector<std::byte> plane(kScalePlaneBytes);
  put_scale(plane.data(), 3, 0x1234);
  EXPECT_EQ(plane[6], std::byte{0x34});
  EXPECT_EQ(plane[7], std::byte{0x12});
  EXPECT_EQ(get_scale(plane.data(), 3), 0x1234);
  EXPECT_EQ(kScalePlaneBytes, 128u);
}

}  // namespace
}  // namespace kvcodec
