// 4-bit weights: exact against the weights they stand for, errors from both sides, bytes, models.
#include "examples/llama/weight_format.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "examples/llama/model.hpp"
#include "kvcodec/core/dtype.hpp"
#include "tests/llama/random_model.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using kvcodec::test::contains;
using kvcodec::test::message_of;

const fs::path kRoot = KVCODEC_SOURCE_DIR;

std::vector<float> random_rows(std::int64_t n, std::int64_t width, std::uint64_t seed) {
  return kvcodec::test::gauss_rows(n, width, seed);
}

PackedMatrix pack(const std::vector<float>& rows, std::int64_t n_in, std::int64_t n_out) {
  return PackedMatrix::from_rows(rows.data(), n_in, n_out, n_out);
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double a = static_cast<double>(want[i]), b = static_cast<double>(got[i]);
    error += (a - b) * (a - b);
    size += a * a;
  }
  return error / size;
}

TEST(Weights4, ProductsAreThoseOfTheUnpackedWeightsBitByBit) {
  struct Case {
    std::int64_t n, n_in, n_out;
    std::int32_t group;
  };
  for (const Case& c : {Case{1, 7, 64, 32}, Case{3, 128, 65, 128}, Case{66, 133, 200, 32},
                        Case{130, 100, 1, 64}, Case{5, 1, 128, 128}, Case{67, 300, 130, 64}}) {
    const auto b = random_rows(c.n_in, c.n_out, 1), x = random_rows(c.n, c.n_in, 2);
    PackedMatrix full = pack(b, c.n_in, c.n_out);
    full.set_bias(random_rows(1, c.n_out, 3));
    const PackedMatrix quantized = full.quantized(c.group, 1.0f, {});
    EXPECT_TRUE(quantized.is_quantized());
    PackedMatrix unpacked = pack(quantized.to_rows(), c.n_in, c.n_out);
    unpacked.set_bias(random_rows(1, c.n_out, 3));
    std::vector<float> got(static_cast<std::size_t>(c.n * c.n_out), -1.0f), want = got;
    quantized.multiply(x.data(), c.n, got.data(), {});
    unpacked.multiply(x.data(), c.n, want.data(), {});
    ASSERT_EQ(got, want) << c.n << " " << c.n_in << " " << c.n_out;
    // A part of the inputs and outputs, as attention asks for.
    const std::int64_t k = (c.n_in + 1) / 2, columns = (c.n_out + 1) / 2;
    quantized.multiply(x.data(), c.n_in, c.n, k, columns, got.data(), c.n_out, {});
    unpacked.multiply(x.data(), c.n_in, c.n, k, columns, want.data(), c.n_out, {});
    ASSERT_EQ(got, want);
  }
}

TEST(Weights4, EveryWeightIsOneOf16LevelsOfItsGroup) {
  const std::int64_t n_in = 150, n_out = 70;
  const auto b = random_rows(n_in, n_out, 4);
  const auto w = pack(b, n_in, n_out).quantized(64, 1.0f, {}).to_rows();
  for (std::int64_t o = 0; o < n_out; ++o) {
    for (std::int64_t first = 0; first < n_in; first += 64) {
      const std::int64_t end = std::min(n_in, first + 64);
      std::vector<float> levels, own;
      for (std::int64_t i = first; i < end; ++i) {
        levels.push_back(w[static_cast<std::size_t>(i * n_out + o)]);
        own.push_back(b[static_cast<std::size_t>(i * n_out + o)]);
      }
      std::sort(levels.begin(), levels.end());
      levels.erase(std::unique(levels.begin(), levels.end()), levels.end());
      ASSERT_LE(levels.size(), 16u);
      const auto [low, high] = std::minmax_element(own.begin(), own.end());
      const float step = (*high - *low) / 15.0f;  // without any shrinking
      for (std::int64_t i = first; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i * n_out + o);
        // 0.6 of the range at the least is kept, so that an end moves by 0.2 of it at the most.
        ASSERT_LE(std::abs(w[at] - b[at]), 0.2f * (*high - *low) + step);
      }
    }
  }
}

// Relative squared error on Gaussian weights. Unclipped min..max would be 0.00612, 0.00803 and
// 0.00995; the best clip common to all groups of 128 0.00908. Choosing by group is a little better.
TEST(Weights4, ErrorOnGaussianWeightsIsWithinBoundsFromBothSides) {
  const std::int64_t n_in = 1024, n_out = 256;
  const auto b = random_rows(n_in, n_out, 5);
  const PackedMatrix full = pack(b, n_in, n_out);
  struct Bound {
    std::int32_t group;
    double low, high, unclipped;
  };
  for (const Bound& bound : {Bound{32, 0.0055, 0.0060, 0.00612}, Bound{64, 0.0071, 0.0077, 0.00803},
                             Bound{128, 0.0086, 0.0092, 0.00995}}) {
    const double error = relative_error(full.quantized(bound.group, 1.0f, {}).to_rows(), b);
    EXPECT_GT(error, bound.low) << bound.group;
    EXPECT_LT(error, bound.high) << bound.group;
    EXPECT_LT(error, bound.unclipped) << bound.group;
    const double clipped = relative_error(full.quantized(bound.group, 0.7f, {}).to_rows(), b);
    EXPECT_GT(clipped, 1.5 * error) << "clip has no effect";
  }
}

TEST(Weights4, ConstantOutlyingAndNonFiniteWeights) {
  const std::int64_t n_in = 64, n_out = 3;
  std::vector<float> b(static_cast<std::size_t>(n_in * n_out));
  for (std::int64_t i = 0; i < n_in; ++i) {
    b[static_cast<std::size_t>(i * n_out)] = 0.375f;
    b[static_cast<std::size_t>(i * n_out + 1)] = i == 9 ? 1e9f : 0.0f;
    b[static_cast<std::size_t>(i * n_out + 2)] = static_cast<float>(i % 16);
  }
  b[10 * 3 + 1] = std::numeric_limits<float>::quiet_NaN();
  const auto w = pack(b, n_in, n_out).quantized(32, 1.0f, {}).to_rows();
  for (std::size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(w[i * 3], 0.375f) << "a constant is kept";
    EXPECT_TRUE(std::isfinite(w[i * 3 + 1]));
    EXPECT_EQ(w[i * 3 + 2], b[i * 3 + 2]) << "16 levels are kept, beside a damaged column as well";
  }
}

TEST(Weights4, BytesAreTheFormula) {
  for (const auto& [n_in, n_out] : {std::array<std::int64_t, 2>{256, 512}, {133, 65}, {1, 1}}) {
    const PackedMatrix full = pack(random_rows(n_in, n_out, 6), n_in, n_out);
    const std::int64_t panels = (n_out + 63) / 64;
    EXPECT_EQ(full.bytes(), panels * 64 * 4 * (n_in + 1));
    for (const std::int32_t group : {32, 64, 128}) {
      const std::int64_t groups = (n_in + group - 1) / group;
      EXPECT_EQ(full.quantized(group, 1.0f, {}).bytes(),
                panels * (n_in * 32 + groups * 64 * 4 + 64 * 4));
    }
  }
  // 4 + 32 / 128 bits per weight, besides the bias.
  const PackedMatrix whole = pack(random_rows(256, 512, 6), 256, 512).quantized(128, 1.0f, {});
  EXPECT_EQ(8.0 * static_cast<double>(whole.bytes() - 512 * 4) / (256.0 * 512.0), 4.25);
}

TEST(Weights4, BadUseIsRefused) {
  const PackedMatrix full = pack(random_rows(64, 64, 7), 64, 64);
  const auto refusal = [&](const PackedMatrix& m, std::int32_t group, float clip) {
    return message_of<kvcodec::invalid_argument>([&] { m.quantized(group, clip, {}); });
  };
  EXPECT_TRUE(contains(refusal(full, 48, 1.0f), {"group", "48", "32, 64 or 128"}));
  EXPECT_TRUE(contains(refusal(full, 64, 0.0f), {"clip", "above 0"}));
  EXPECT_TRUE(contains(refusal(full.quantized(64, 1.0f, {}), 64, 1.0f), {"4 bits"}));
  EXPECT_TRUE(contains(message_of<kvcodec::invalid_argument>([] { parse_weight_format("w5"); }),
                       {"w5", "f32, w4, w4:g32, w4:g64, w4:g128"}));
  const auto refused = [](std::int32_t bits, std::int32_t group, std::vector<float> clip) {
    const WeightFormat format{.bits = bits, .group = group, .clip = std::move(clip)};
    EXPECT_THROW(check(format, 2), kvcodec::invalid_argument);
  };
  refused(3, 128, {});
  refused(4, 16, {});
  refused(4, 128, {1.0f});
  refused(4, 128, {1.0f, 2.0f});
  for (const char* name : {"f32", "w4:g32", "w4:g64", "w4:g128"}) {
    EXPECT_EQ(parse_weight_format(name).name(), name);
  }
  EXPECT_EQ(parse_weight_format("w4").name(), "w4:g128");
}

// Models of every architecture: the logits move, but not far, and threads change nothing.
TEST(Weights4, RandomModelsStayClose) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(kRoot / "tests/data/llama")) {
    if (!entry.is_directory()) continue;
    ++n;
    kvcodec::ThreadPool pool(3);
    const Model full = Model::load(entry.path());
    const Model small = Model::load(entry.path(), {}, parse_weight_format("w4:g32"));
    const Model threaded =
        Model::load(entry.path(), pool.executor(), parse_weight_format("w4:g32"));
    EXPECT_TRUE(small.quantizes_weights());
    EXPECT_FALSE(full.quantizes_weights());
    EXPECT_LT(small.linear_bytes(), full.linear_bytes() / 5);
    EXPECT_EQ(full.weight_bytes() - full.linear_bytes(),
              small.weight_bytes() - small.linear_bytes());
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 40; ++i) tokens.push_back(i * i % full.config().vocab_size);
    const auto want = full.forward_dense(tokens), got = small.forward_dense(tokens);
    const double error = relative_error(got, want);
    EXPECT_GT(error, 1e-5) << entry.path();
    EXPECT_LT(error, 0.2) << entry.path();
    EXPECT_EQ(threaded.forward_dense(tokens), got) << entry.path();
  }
  EXPECT_GT(n, 0);
}

TEST(Weights4, LayersAreReplacedOneByOne) {
  const fs::path folder = fs::path(::testing::TempDir()) / "weights4_layers";
  testing::write_random_model(folder, testing::small_config(), 8);
  const Model full = Model::load(folder);
  Model model = full;
  WeightFormat format = parse_weight_format("w4:g64");
  format.clip = {1.0f, 0.9f};
  const Model wanted = Model::load(folder, {}, format);
  fs::remove_all(folder);
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5};
  model.quantize_layer(1, full, 64, 0.9f);
  EXPECT_NE(model.forward_dense(tokens), wanted.forward_dense(tokens));
  model.quantize_layer(0, full, 64, 1.0f);
  EXPECT_EQ(model.forward_dense(tokens), wanted.forward_dense(tokens));
  EXPECT_THROW(model.quantize_layer(2, full, 64, 1.0f), kvcodec::invalid_argument);
  EXPECT_THROW(model.quantize_layer(0, model, 64, 1.0f), kvcodec::invalid_argument);
}

// What 4 bits cost a trained model: two documents, 4 KB.
TEST(Weights4, ShippedModelLosesLittle) {
  const fs::path folder = kRoot / "examples/models/tiny-llama";
  kvcodec::ThreadPool pool(2);
  const EvalData data = read_eval(folder);
  const EvalOptions options{.max_documents = 2};
  const auto perplexity = [&](const char* format) {
    const Model model = Model::load(folder, pool.executor(), parse_weight_format(format));
    return measure_perplexity(model, data, options).perplexity();
  };
  const double full = perplexity("f32"), small = perplexity("w4");
  EXPECT_GT(small, full) << "4 bits cannot be free";
  EXPECT_LT(small, 1.015 * full);
}

}  // namespace
}  // namespace llama
