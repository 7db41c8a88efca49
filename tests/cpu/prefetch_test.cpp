// Which lines kernels ask for while they work.
#include "src/cpu/prefetch.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace kvcodec::cpu {
namespace {

TEST(Ahead, StepsGoThroughBothPartsInTurn) {
  // Larger than their parts: a step may end beyond them.
  std::vector<std::byte> keys(16 * kCacheLine), values(16 * kCacheLine);
  for (const int pace : {1, 2, 4}) {
    Ahead ahead;
    ahead.at = keys.data();
    ahead.end = keys.data() + 5 * kCacheLine;
    ahead.then = values.data();
    ahead.then_end = values.data() + 3 * kCacheLine;
    ahead.pace = pace;
    const int of_keys = (5 + pace - 1) / pace;
    for (int i = 0; i < of_keys; ++i) {
      EXPECT_EQ(ahead.at, keys.data() + static_cast<std::size_t>(i * pace) * kCacheLine);
      ahead.step();
    }
    ahead.step();
    EXPECT_EQ(ahead.at, values.data() + static_cast<std::size_t>(pace) * kCacheLine);
    EXPECT_EQ(ahead.end, values.data() + 3 * kCacheLine);
    for (int i = 0; i < 4; ++i) ahead.step();
    EXPECT_GE(ahead.at, ahead.end);
    const std::byte* last = ahead.at;
    ahead.step();
    ahead.turn();
    ahead.finish();
    EXPECT_EQ(ahead.at, last) << "nothing is left";
  }
}

TEST(Ahead, AsksForNothingWithoutTiles) {
  Ahead ahead;
  ahead.pace = 4;
  ahead.step();
  ahead.finish();
  ahead.turn();
  EXPECT_EQ(ahead.at, nullptr);
}

TEST(Ahead, FinishAsksForTheFirstPartAlone) {
  std::vector<std::byte> keys(3 * kCacheLine), values(kCacheLine);
  Ahead ahead;
  ahead.at = keys.data();
  ahead.end = keys.data() + keys.size();
  ahead.then = values.data();
  ahead.then_end = values.data() + values.size();
  ahead.finish();
  EXPECT_EQ(ahead.at, keys.data() + keys.size());
  ahead.turn();
  EXPECT_EQ(ahead.at, values.data());
}

TEST(Ahead, WhatIsReadSoonIsAskedForFourLinesAStep) {
  std::vector<std::byte> tile(8 * kCacheLine);
  Ahead ahead;
  ahead.soon = tile.data();
  ahead.soon_end = tile.data() + 6 * kCacheLine;
  ahead.step();
  EXPECT_EQ(ahead.soon, tile.data() + 4 * kCacheLine);
  ahead.step();
  ahead.step();
  EXPECT_EQ(ahead.soon, tile.data() + 8 * kCacheLine);
}

}  // namespace
}  // namespace kvcodec::cpu
