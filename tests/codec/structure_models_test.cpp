// What structure in the channels costs: four synthetic models of 128 tokens by 128 channels, and the
// squared error of a codec behind a channel stage and a rotation, over the mean channel variance.
//
//   A  independent unit Gaussian values
//   B  8 channels with standard deviation 8
//   C  8 channels with mean +-15 and standard deviation 2: biased keys
//   D  lognormal standard deviations and 4 channels with mean +-20
//
// Special channels stand one in each of equal runs of channels, with signs in turn, which the table's
// source does not say. At random places unclipped ranges of 32 channels would have an error of 0.16
// on C instead of the published 0.265, which needs both signs in every group.
//
// A rotation spreads a large variance over all channels; a large mean stays energy. Taking the mean
// of every channel away first is what helps, and softmax does not see it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kDim = 128;
constexpr int kTokens = 128;
constexpr int kSeeds = 24;
constexpr const char* kModels = "ABCD";

/// Standard deviation of the logarithm in model D, which the table's source does not state: this
/// one reproduces the rows below within 12 %.
constexpr double kLogSigma = 0.72;

std::vector<float> rows_of(char model, std::uint64_t seed) {
  test::Random random(seed * 7919 + static_cast<std::uint64_t>(model));
  std::vector<double> sigma(kDim, 1.0);
  std::vector<double> mean(kDim, 0.0);
  if (model == 'D') {
    for (double& s : sigma) s = std::exp(kLogSigma * random.gauss());
  }
  const int n_special = model == 'A' ? 0 : model == 'D' ? 4 : 8;
  for (int i = 0; i < n_special; ++i) {
    const int run = kDim / n_special;
    const auto c = static_cast<std::size_t>(i * run + static_cast<int>(random.below(run)));
    const double sign = i % 2 == 0 ? 1.0 : -1.0;
    if (model == 'B') sigma[c] = 8.0;
    if (model == 'C') sigma[c] = 2.0;
    if (model != 'B') mean[c] = sign * (model == 'C' ? 15.0 : 20.0);
  }
  std::vector<float> x(static_cast<std::size_t>(kTokens * kDim));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(mean[i % kDim] + sigma[i % kDim] * random.gauss());
  }
  return x;
}

/// What is done to the channels, over all tokens, before the rotation.
enum class Channels {
  as_they_are,
  centred,   ///< mean removed
  standard,  ///< mean removed, divided by the standard deviation
};

/// One line of the table: codec, what stands before it, and the published errors for A, B, C, D.
struct Row {
  Channels channels;
  const char* transform;
  const char* codec;
  double want[4];
  double slack = 1.0;  ///< times kTolerance
};

/// The range of 32 rotated values depends on which channels are special: the standard deviation of
/// one draw is 7 % on B and 10 % on C, and nobody says how many draws the published numbers are of.
constexpr double kRotatedRange = 3.0;

// THE TABLE. Tolerances are those of the models, not of the codecs: see kTolerance.
constexpr Row kRows[] = {
    {Channels::as_they_are, "identity", "nqkv:g128", {0.0091, 0.0298, 0.2585, 0.1054}},
    {Channels::as_they_are, "identity", "nqkv:g32", {0.0076, 0.0138, 0.1761, 0.0733}},
    {Channels::as_they_are, "identity", "wkv:b4:g32:x1", {0.0061, 0.0128, 0.2653, 0.0706}},
    {Channels::as_they_are, "identity", "kivi:b4:g32", {0.0061, 0.0061, 0.0061, 0.0061}},
    {Channels::as_they_are, "hadamard", "nqkv:g128", {0.0091, 0.0087, 0.1140, 0.0470}},
    {Channels::as_they_are,
     "hadamard",
     "wkv:b4:g32:x1",
     {0.0061, 0.0058, 0.0830, 0.0286},
     kRotatedRange},
    {Channels::as_they_are, "hadamard", "lm:b4:rms", {0.0093, 0.0086, 0.1114, 0.0452}},
    {Channels::centred, "hadamard", "lm:b4:rms", {0.0093, 0.0086, 0.0093, 0.0089}},
    {Channels::centred, "hadamard", "lm:b4", {0.0093, 0.0086, 0.0093, 0.0089}},
    {Channels::standard, "identity", "wkv:b4:g128:x1", {0.0100, 0.0099, 0.0100, 0.0100}},
    {Channels::standard, "identity", "lm:b4:rms", {0.0093, 0.0093, 0.0093, 0.0093}},
    {Channels::as_they_are, "identity", "wkv:b2:g32:x1", {0.154, 0.361, 11.4, 2.33}},
    {Channels::as_they_are, "identity", "kivi:b2:g32", {0.154, 0.154, 0.154, 0.154}},
    {Channels::as_they_are,
     "hadamard",
     "wkv:b2:g32:x1",
     {0.154, 0.147, 2.17, 0.800},
     kRotatedRange},
    {Channels::as_they_are, "hadamard", "lm:b2", {0.116, 0.104, 1.41, 0.564}},
    {Channels::centred, "hadamard", "lm:b2", {0.116, 0.104, 0.115, 0.110}},
};

/// Relative to the published errors, for A, B, C, D. B and C vary with which channels are special;
/// D rests on kLogSigma where the means stay, and on nothing else where they are gone.
constexpr double kTolerance[] = {0.03, 0.04, 0.05, 0.13};

std::string text_of(const Row& row) {
  const char* stages[] = {"", "centred+", "standard+"};
  return std::string(stages[static_cast<int>(row.channels)]) + row.transform + "+" + row.codec;
}

struct Moments {
  std::vector<double> mean = std::vector<double>(kDim);
  std::vector<double> sigma = std::vector<double>(kDim);
  double mean_variance = 0.0;
};

Moments moments_of(const std::vector<float>& x) {
  Moments m;
  for (std::size_t i = 0; i < x.size(); ++i) {
    m.mean[i % kDim] += static_cast<double>(x[i]) / kTokens;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    m.sigma[i % kDim] += std::pow(static_cast<double>(x[i]) - m.mean[i % kDim], 2) / kTokens;
  }
  for (double& s : m.sigma) {
    m.mean_variance += s / kDim;
    s = std::sqrt(s);
  }
  return m;
}

/// Mean squared error of one draw, over its mean channel variance.
double error_of(const Row& row, const std::vector<float>& original) {
  const Moments m = moments_of(original);
  const AnyTransform transform = make_transform(row.transform);
  const AnyCodec codec = make_codec(row.codec).with_tables(kDim);
  std::vector<double> scale(kDim, 1.0);
  if (row.channels == Channels::standard) scale = m.sigma;
  const bool centred = row.channels != Channels::as_they_are;
  std::vector<float> x = original;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double shift = centred ? m.mean[i % kDim] : 0.0;
    x[i] = static_cast<float>((static_cast<double>(x[i]) - shift) / scale[i % kDim]);
  }
  double error = 0.0;
  std::vector<std::byte> tile(codec.tile_bytes(kDim));
  std::vector<float> y(static_cast<std::size_t>(kTileRows * kDim));
  for (std::size_t first = 0; first < x.size(); first += y.size()) {
    std::vector<float> rows(&x[first], &x[first] + y.size());
    for (std::size_t r = 0; r < rows.size(); r += kDim) transform.forward(kDim, 0, &rows[r]);
    codec.encode_tile(Side::key, kDim, rows.data(), tile.data());
    codec.decode_tile(Side::key, kDim, tile.data(), y.data());
    for (std::size_t r = 0; r < y.size(); r += kDim) transform.output(kDim, 0, &y[r]);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double e =
          scale[i % kDim] * (static_cast<double>(x[first + i]) - static_cast<double>(y[i]));
      error += e * e;
    }
  }
  return error / (kTokens * kDim) / m.mean_variance;
}

double mean_error(const Row& row, char model) {
  double sum = 0.0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) sum += error_of(row, rows_of(model, seed));
  return sum / kSeeds;
}

TEST(StructureModels, ErrorsAreThePublishedOnes) {
  for (const Row& row : kRows) {
    std::string line;
    for (int i = 0; i < 4; ++i) {
      const double got = mean_error(row, kModels[i]);
      EXPECT_NEAR(got / row.want[i], 1.0, row.slack * kTolerance[i])
          << text_of(row) << ", model " << kModels[i] << ": " << got;
      line += (i == 0 ? "" : " ") + std::to_string(got);
    }
    std::printf("%-34s %s\n", text_of(row).c_str(), line.c_str());
  }
}

// The control: an error of every row is told apart from those of its neighbours in the table.
TEST(StructureModels, ToleranceTellsStagesApart) {
  const Row kept{Channels::as_they_are, "hadamard", "lm:b4", {0.0093, 0.0086, 0.0093, 0.0089}};
  for (int i = 2; i < 4; ++i) {
    EXPECT_GT(mean_error(kept, kModels[i]), 2.0 * kept.want[i]) << "means not removed";
  }
  const Row unrotated{Channels::centred, "identity", "lm:b4", {0.0093, 0.0086, 0.0093, 0.0089}};
  EXPECT_GT(mean_error(unrotated, 'B'), 1.5 * unrotated.want[1]) << "not rotated";
}

TEST(StructureModels, WithoutMeansFourBitsStayBelowOnePercent) {
  for (const char* codec :
       {"lm:b4", "lm:b4:rms", "lm:b4:unbiased", "lm:b4:norm", "nqkv:g128", "nqkv:g64", "nqsym:g64",
        "wkv:b4:g128", "kivi:b4:g32", "kivi:b4:g64", "rabitq:b4"}) {
    const Row row{Channels::centred, "hadamard", codec, {}};
    for (int i = 0; i < 4; ++i) EXPECT_LE(mean_error(row, kModels[i]), 0.010) << text_of(row);
  }
}

}  // namespace
}  // namespace kvcodec
