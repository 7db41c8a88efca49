#include "examples/llama/sampler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<std::int32_t> draw(SamplerOptions options, std::span<const float> logits, int n) {
  Sampler sampler(options);
  std::vector<std::int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back(sampler.next(logits));
  return out;
}

TEST(Sampler, GreedyTakesTheLowestOfTheLargest) {
  EXPECT_EQ(argmax(std::vector<float>{1.0f, 3.0f, 3.0f, 2.0f}), 1);
  EXPECT_EQ(argmax(std::vector<float>{kNan, -5.0f, kNan}), 1);
  EXPECT_EQ(Sampler().next(std::vector<float>{0.0f, -kInf, 0.5f}), 2);
  EXPECT_THROW(argmax(std::vector<float>{kNan}), kvcodec::invalid_argument);
  EXPECT_THROW(argmax({}), kvcodec::invalid_argument);
}

TEST(Sampler, SeedDecides) {
  const std::vector<float> logits(50, 0.0f);
  const auto a = draw({.temperature = 1.0f, .seed = 7}, logits, 100);
  EXPECT_EQ(a, draw({.temperature = 1.0f, .seed = 7}, logits, 100));
  EXPECT_NE(a, draw({.temperature = 1.0f, .seed = 8}, logits, 100));
}

// First draws of splitmix64 with seed 0: 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4,
// 0x06c45d188009454f.
TEST(Sampler, GeneratorIsSplitmix64) {
  const std::vector<float> logits(256, 0.0f);
  EXPECT_EQ(draw({.temperature = 1.0f}, logits, 3), (std::vector<std::int32_t>{0xe2, 0x6e, 0x06}));
}

TEST(Sampler, FrequenciesFollowTheLogits) {
  const std::array<double, 4> p{0.5, 0.25, 0.2, 0.05};
  const int n = 20000;
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    std::vector<float> logits;
    std::vector<double> want;
    double total = 0.0;
    for (const double x : p) {
      logits.push_back(static_cast<float>(std::log(x)));
      want.push_back(std::pow(x, 1.0 / static_cast<double>(temperature)));
      total += want.back();
    }
    std::array<int, 4> count{};
    for (const std::int32_t t : draw({.temperature = temperature, .seed = 3}, logits, n)) {
      ++count[static_cast<std::size_t>(t)];
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double q = want[i] / total;
      EXPECT_NEAR(count[i], n * q, 5.0 * std::sqrt(n * q * (1.0 - q))) << "token " << i;
    }
  }
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.6f), std::log(0.3f), -kInf};
  for (const std::int32_t t : draw({.temperature = 1.0f, .top_k = 2}, logits, 500)) {
    EXPECT_TRUE(t == 1 || t == 2);
  }
  for (const std::int32_t t : draw({.temperature = 1.0f, .top_p = 0.55f}, logits, 100)) {
    EXPECT_EQ(t, 1);
  }
  for (const std::int32_t t : draw({.temperature = 1.0f}, logits, 500)) EXPECT_NE(t, 3);
}

TEST(Sampler, RefusesBadOptions) {
  EXPECT_THROW(Sampler({.temperature = -1.0f}), kvcodec::invalid_argument);
  EXPECT_THROW(Sampler({.temperature = kNan}), kvcodec::invalid_argument);
  EXPECT_THROW(Sampler({.top_k = -1}), kvcodec::invalid_argument);
  EXPECT_THROW(Sampler({.top_p = 0.0f}), kvcodec::invalid_argument);
  EXPECT_THROW(Sampler({.top_p = 1.5f}), kvcodec::invalid_argument);
}

TEST(ByteTokenizer, RoundTripsEveryByte) {
  const ByteTokenizer tokenizer(256);
  std::string text;
  for (int i = 0; i < 256; ++i) text.push_back(static_cast<char>(i));
  const std::vector<std::int32_t> tokens = tokenizer.encode(text);
  for (std::int32_t i = 0; i < 256; ++i) EXPECT_EQ(tokens[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(tokenizer.decode(tokens), text);
  EXPECT_THROW(ByteTokenizer(32000), kvcodec::unsupported);
}

}  // namespace
}  // namespace llama
