// What every codec must reach on unit Gaussian rows of head_dim 128, from both sides, and the law on
// the mean error of values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kHeadDim = 128;

/// A codec, its size with everything counted, and its relative mean squared error.
struct Target {
  const char* codec;
  double bits;
  double low;
  double high;
};

/// `mse` within 3 %: what a closed form or a long simulation says.
constexpr Target near(const char* codec, double bits, double mse) {
  return {codec, bits, 0.97 * mse, 1.03 * mse};
}

/// THE TABLE, one line per codec. The variance of QJL scores is held to its closed form in
/// tests/codec/qjl_theory_test.cpp.
constexpr Target kTargets[] = {
    {"int8", 8.125, 4.0e-5, 4.3e-5},
    near("nqkv:g32", 4.5, 0.00762),
    near("nqkv:g64", 4.25, 0.00846),
    near("nqkv:g128", 4.125, 0.00914),
    near("nqkv:g256", 4.0625, 0.00973),
    {"nqkv:g128:search", 4.125, 0.0078, 0.0081},
    near("nqfit:g32", 4.5, 0.00651),
    near("nqfit:g64", 4.25, 0.00763),
    near("nqfit:g128", 4.125, 0.00868),
    near("nqfit:g256", 4.0625, 0.00968),
    near("nqfit:g64:search", 4.25, 0.00660),
    near("nqfit:g128:search", 4.125, 0.00762),
    near("fp8:s0.0122768", 8.0, 7.02e-4),  // 448 s = 5.5
    near("fp8", 8.0, 7.02e-4),
    near("fp8:row", 8.125, 6.62e-4),
    near("nvfp4", 4.5, 0.00905),
    near("nvfp4:s0.00204613", 4.5, 0.00905),  // 2688 s = 5.5
    near("mxfp4", 4.25, 0.01321),
    near("wkv:b4:g32:x1", 5.0, 0.00612),
    near("wkv:b4:g64:x1", 4.5, 0.00803),
    near("wkv:b4:g128:x1", 4.25, 0.00995),
    near("wkv:b4:g128", 4.25, 0.0091),  // clip 0.92
    near("wkv:b3:g32:x1", 4.0, 0.02813),
    near("wkv:b3:g128:x1", 3.25, 0.04572),
    near("wkv:b3:g128", 3.25, 0.03439),  // clip 0.80
    near("wkv:b2:g32:x1", 3.0, 0.15441),
    near("wkv:b2:g128:x1", 2.25, 0.25042),
    // Clip 0.58 about the middle; the published 0.1178 multiplies both ends by it.
    near("wkv:b2:g128", 2.25, 0.1218),
    near("kivi:b4:g32", 5.0, 0.00612),
    near("kivi:b4:g64", 4.5, 0.00803),
    near("kivi:b2:g32", 3.0, 0.15441),
    // A rotation would leave Gaussian rows what they are.
    {"lm:b4", 4.125, 0.0090, 0.0094},
    near("lm:b4:rms", 4.125, 0.009315),
    near("lm:b3:rms", 3.125, 0.033966),
    {"lm:b2", 2.125, 0.113, 0.117},
    near("lm:b2:rms", 2.125, 0.116000),
    near("lm:b1:rms", 1.125, 0.360889),
};

double bits_per_value(const AnyCodec& codec) {
  return 8.0 * static_cast<double>(codec.tile_bytes(kHeadDim)) /
         static_cast<double>(kTileRows * codec.head_span(kHeadDim) * kHeadDim);
}

/// Over 409,600 values: the standard error is near 0.2 % of the result.
double relative_mse(const std::string& spec, Side side) {
  const AnyCodec codec = make_codec(spec).with_tables(kHeadDim);
  const int width = codec.head_span(kHeadDim) * kHeadDim;
  std::vector<std::byte> tile(codec.tile_bytes(kHeadDim));
  std::vector<float> y(static_cast<std::size_t>(kTileRows * width));
  double error = 0.0;
  double norm = 0.0;
  for (int i = 0; i < 50 * kHeadDim / width; ++i) {
    const std::vector<float> x =
        test::gauss_rows(kTileRows, width, 7000 + static_cast<std::uint64_t>(i));
    codec.encode_tile(side, kHeadDim, x.data(), tile.data());
    codec.decode_tile(side, kHeadDim, tile.data(), y.data());
    for (std::size_t j = 0; j < x.size(); ++j) {
      const double e = static_cast<double>(x[j]) - static_cast<double>(y[j]);
      error += e * e;
      norm += static_cast<double>(x[j]) * static_cast<double>(x[j]);
    }
  }
  return error / norm;
}

bool reaches(const Target& target, double mse) { return mse >= target.low && mse <= target.high; }

TEST(Targets, EveryLineOfTheTableIsReachedFromBothSides) {
  for (const Target& target : kTargets) {
    const AnyCodec codec = make_codec(target.codec);
    EXPECT_EQ(bits_per_value(codec), target.bits) << target.codec;
    for (const Side side : test::kSides) {
      if (codec.key_only() && side == Side::value) continue;
      const double mse = relative_mse(target.codec, side);
      EXPECT_TRUE(reaches(target, mse)) << target.codec << ", side " << to_string(side) << ": "
                                        << mse << ", wanted " << target.low << ".." << target.high;
      if (side == Side::key) RecordProperty(target.codec, std::to_string(1e6 * mse) + "e-6");
    }
  }
}

// The bounds are narrow enough to tell neighbours apart: each constant is wrong for another codec.
TEST(Targets, WrongConstantsWouldFail) {
  const double g64 = relative_mse("nqkv:g64", Side::key);
  EXPECT_FALSE(reaches(near("nqkv:g128", 4.125, 0.00914), g64));
  EXPECT_FALSE(reaches(near("nqkv:g32", 4.5, 0.00762), g64));
  EXPECT_FALSE(reaches(near("nvfp4", 4.5, 0.00905), g64));
  EXPECT_FALSE(reaches(near("nqkv:g64", 4.25, 1.04 * 0.00846), g64));
  EXPECT_FALSE(reaches(near("nqkv:g64", 4.25, 0.96 * 0.00846), g64));
}

// ---- The mean error of values ----
//
// Attention over n nearly equal weights divides the random part of an error by sqrt(n) and leaves its
// mean: a mean of r times the rms makes the output's error sqrt(1 + n r^2) times larger.

/// Means of the error of decoded V rows over the error's rms, for unit Gaussian rows.
struct MeanError {
  double worst_channel = 0.0;
  double all_channels = 0.0;
};

/// 65,536 rows of 64 channels: the standard errors are 1 / 256 = 0.39 % for a channel and 0.049 %
/// for all of them.
constexpr int kTiles = 1024;
/// Allowed in a channel: the output's error must not double before 7,500 keys.
constexpr double kAllowedPerChannel = 0.02;
/// Allowed in all channels alike: at most 1.2 times the error at 65,536 keys.
constexpr double kAllowedInAll = 0.0025;

MeanError mean_error(const AnyCodec& plain) {
  static const std::vector<float> rows = test::gauss_rows(kTiles * kTileRows, 64, 515);
  const int head_dim = plain.supports(64) ? 64 : 128;
  const AnyCodec codec = plain.with_tables(head_dim);
  const auto width = static_cast<std::size_t>(codec.head_span(head_dim) * head_dim);
  const std::size_t tile_values = kTileRows * width;
  std::vector<std::byte> tile(codec.tile_bytes(head_dim));
  std::vector<float> y(tile_values);
  std::vector<double> sum(width, 0.0);
  double squares = 0.0;
  double n_values = 0.0;
  for (std::size_t at = 0; at + tile_values <= rows.size(); at += tile_values) {
    const float* x = rows.data() + at;
    codec.encode_tile(Side::value, head_dim, x, tile.data());
    codec.decode_tile(Side::value, head_dim, tile.data(), y.data());
    for (std::size_t i = 0; i < tile_values; ++i) {
      const double e = static_cast<double>(y[i]) - static_cast<double>(x[i]);
      sum[i % width] += e;
      squares += e * e;
    }
    n_values += static_cast<double>(tile_values);
  }
  MeanError result;
  if (squares == 0.0) return result;
  const double rms = std::sqrt(squares / n_values);
  double total = 0.0;
  for (const double s : sum) {
    const double mean = s * static_cast<double>(width) / n_values;
    result.worst_channel = std::max(result.worst_channel, std::fabs(mean) / rms);
    total += s;
  }
  result.all_channels = std::fabs(total) / n_values / rms;
  return result;
}

TEST(MeanErrorOfValues, IsSmallForEveryCodecButThePapersNf4) {
  int n = 0;
  BuiltinCodecs::for_each([&]<class C>() {
    if (is_key_only<C>() || std::string(C::family) == Nqkv::family) return;
    const MeanError error = mean_error(C{});
    EXPECT_LT(error.worst_channel, kAllowedPerChannel) << C{}.name();
    EXPECT_LT(error.all_channels, kAllowedInAll) << C{}.name();
    ++n;
  });
  EXPECT_GE(n, 8);
}

// The control: the paper's table is not symmetric. Its mean, 0.7 % to 0.8 % of the rms by group
// size, is below what a channel alone may have, and three times what all channels together may.
TEST(MeanErrorOfValues, ThePapersNf4Exceeds) {
  for (const char* options : {"g32", "g64"}) {
    const MeanError error = mean_error(Nqkv::parse(options));
    EXPECT_GT(error.all_channels, 2.0 * kAllowedInAll) << options;
    EXPECT_LT(error.all_channels, 0.01) << options;
  }
}

/// int8 with a mean planted into its values.
struct Shifted : Int8Token {
  bool encode_tile(Side side, int head_dim, const float* x, std::byte* out) const noexcept {
    std::vector<float> shifted(x, x + kTileRows * head_dim);
    for (std::size_t i = 3; i < shifted.size(); i += static_cast<std::size_t>(head_dim)) {
      shifted[i] += 0.03f * 0.0057f;  // 3 % of the rms at head_dim 64, in channel 3 alone
    }
    return Int8Token::encode_tile(side, head_dim, shifted.data(), out);
  }
};

TEST(MeanErrorOfValues, AMeanInOneChannelIsSeen) {
  const MeanError error = mean_error(Shifted{});
  EXPECT_GT(error.worst_channel, kAllowedPerChannel);
  EXPECT_LT(error.all_channels, kAllowedInAll);
}

}  // namespace
}  // namespace kvcodec
