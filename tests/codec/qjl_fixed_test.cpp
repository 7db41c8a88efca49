// qjl with outlier channels that the first tile of a head fixes: bytes, mean and error of the
// estimate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "kvcodec/codec/qjl.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kDim = 64;
constexpr int kOutliers = 4;

/// Keys of one head: Gaussian values of deviation 4 in kOutliers channels, 1.5 in as many others and
/// 1 in the rest. Heads differ in which.
std::vector<float> head_keys(int head, std::int64_t n_rows, std::uint64_t seed) {
  std::vector<float> x = test::gauss_rows(n_rows, kDim, seed);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int channel = static_cast<int>(i % kDim);
    if (channel % (kDim / kOutliers) == 3 + head) x[i] *= 4.0f;
    if (channel % (kDim / kOutliers) == 8 + head) x[i] *= 1.5f;
  }
  return x;
}

/// Whom a tile takes its outlier channels from.
enum class Taken { from_itself, from_its_head, from_another_head };

Qjl make(const std::string& options) {
  Qjl codec = Qjl::parse(options);
  codec.load_tables(kDim);
  return codec;
}

/// A tile of keys x of head 0.
std::vector<std::byte> encode(const Qjl& codec, Taken taken, const float* x, std::uint64_t seed) {
  std::vector<std::byte> first(codec.tile_bytes(kDim));
  std::vector<std::byte> tile(first.size());
  if (taken == Taken::from_itself) {
    EXPECT_TRUE(codec.encode_tile(Side::key, kDim, x, tile.data()));
    return tile;
  }
  const int head = taken == Taken::from_its_head ? 0 : 1;
  const std::vector<float> prompt = head_keys(head, kTileRows, seed);
  EXPECT_TRUE(codec.encode_tile(Side::key, kDim, prompt.data(), first.data()));
  EXPECT_TRUE(codec.encode_tile_after(Side::key, kDim, first.data(), x, tile.data()));
  return tile;
}

double dot(const float* a, const float* b) {
  double sum = 0.0;
  for (int i = 0; i < kDim; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

struct Error {
  double bias_in_errors;  ///< mean of score - q.k over its standard error
  double square;          ///< mean of (score - q.k)^2 / (|q|^2 |k|^2 / head_dim)
};

/// Over kDraws projections, for queries near the rows of a tile. The mean is of a query and its
/// row, where a bias shows, and a draw is that over a tile, whose rows share S; the square is of
/// all pairs. Scores are c times the codec's.
Error error_of(const std::string& options, Taken taken, double c = 1.0) {
  constexpr int kDraws = 60;
  constexpr int kStep = 4;  // every fourth row has a query
  constexpr int kQueries = kTileRows / kStep;
  double sum = 0.0;
  double sum2 = 0.0;
  double square = 0.0;
  for (std::uint32_t seed = 1; seed <= kDraws; ++seed) {
    const Qjl codec = make(options + ":s" + std::to_string(seed));
    const std::vector<float> x = head_keys(0, kTileRows, seed);
    const std::vector<std::byte> tile = encode(codec, taken, x.data(), 5000 + seed);
    const std::vector<float> noise = test::gauss_rows(kTileRows, kDim, 999 + seed);
    std::vector<float> prepared(static_cast<std::size_t>(codec.query_width(kDim)));
    double mean = 0.0;
    for (int query = 0; query < kTileRows; query += kStep) {
      std::vector<float> q(x.begin() + query * kDim, x.begin() + (query + 1) * kDim);
      for (int i = 0; i < kDim; ++i) {
        q[static_cast<std::size_t>(i)] += noise[static_cast<std::size_t>(query * kDim + i)];
      }
      float scores[kTileRows];
      codec.prepare_query(kDim, q.data(), prepared.data());
      codec.score_tile(kDim, tile.data(), 0, prepared.data(), 1, scores);
      for (int row = 0; row < kTileRows; ++row) {
        const float* k = x.data() + row * kDim;
        const double truth = dot(q.data(), k);
        const double size = std::sqrt(dot(q.data(), q.data()) * dot(k, k));
        const double e = (c * static_cast<double>(scores[row]) - truth) / size;
        if (row == query) mean += e / kQueries;
        square += e * e * kDim / (kQueries * kTileRows * kDraws);
      }
    }
    sum += mean;
    sum2 += mean * mean;
  }
  const double mean = sum / kDraws;
  return {mean / std::sqrt((sum2 / kDraws - mean * mean) / kDraws), square};
}

std::vector<int> channels(const Qjl& codec, const std::vector<std::byte>& tile) {
  std::vector<int> list;
  for (int j = 0; j < codec.outlier_channels; ++j) {
    list.push_back(static_cast<int>(codec.channels_of(tile.data(), 0)[j]));
  }
  return list;
}

// A first tile is that of `tile`, and so is a later one whose rows would choose the same channels.
TEST(QjlFixed, TilesAreThoseOfTheOptionTile) {
  const Qjl fixed = make("m96:o4:mo64:fixed");
  const Qjl tile = make("m96:o4:mo64:tile");
  ASSERT_EQ(fixed.tile_bytes(kDim), tile.tile_bytes(kDim));
  const std::vector<float> x = head_keys(0, kTileRows, 1);
  const auto alone = encode(tile, Taken::from_itself, x.data(), 0);
  EXPECT_EQ(encode(fixed, Taken::from_itself, x.data(), 0), alone);
  EXPECT_EQ(encode(fixed, Taken::from_its_head, x.data(), 2), alone);
  EXPECT_NE(encode(fixed, Taken::from_another_head, x.data(), 2), alone);
  // Every other rule ignores the first tile.
  for (const char* options : {"m96", "m96:o4:mo64", "m96:o4:mo64:tile", "m96:o4:exact"}) {
    const Qjl other = make(options);
    EXPECT_EQ(encode(other, Taken::from_another_head, x.data(), 2),
              encode(other, Taken::from_itself, x.data(), 2))
        << options;
  }
}

TEST(QjlFixed, TakesTheChannelsOfTheFirstTile) {
  const Qjl codec = make("m64:o4:mo32:fixed");
  const std::vector<float> x = head_keys(0, kTileRows, 1);
  EXPECT_EQ(channels(codec, encode(codec, Taken::from_itself, x.data(), 0)),
            (std::vector<int>{3, 19, 35, 51}));
  EXPECT_EQ(channels(codec, encode(codec, Taken::from_another_head, x.data(), 2)),
            (std::vector<int>{4, 20, 36, 52}));
}

// The estimate has no bias whatever the channels are; the wrong ones cost error. The fifth and
// sixth channel are chance, so tiles would choose other ones than their head's first tile did.
TEST(QjlFixed, KeepsTheMeanAndTheErrorOfTheOptionTile) {
  for (const char* kind : {"gauss", "cd"}) {
    const auto with = [&](const char* rule) {
      return std::string("m128:o6:mo128:") + rule + ":" + kind;
    };
    const Error tile = error_of(with("tile"), Taken::from_itself);
    const Error fixed = error_of(with("fixed"), Taken::from_its_head);
    const Error wrong = error_of(with("fixed"), Taken::from_another_head);
    std::printf("%-5s squared error: tile %.4f, fixed %.4f, another head's channels %.4f\n", kind,
                tile.square, fixed.square, wrong.square);
    EXPECT_NE(fixed.square, tile.square) << "all tiles chose the same channels";
    EXPECT_LE(fixed.square, 1.04 * tile.square) << kind;
    EXPECT_GE(wrong.square, 1.4 * tile.square) << kind;
    EXPECT_LT(std::abs(fixed.bias_in_errors), 4.0) << kind;
    EXPECT_LT(std::abs(wrong.bias_in_errors), 4.0) << kind;
    // The control: 3 % too little would be seen.
    EXPECT_GT(std::abs(error_of(with("fixed"), Taken::from_its_head, 0.97).bias_in_errors), 4.0);
  }
}

}  // namespace
}  // namespace kvcodec
