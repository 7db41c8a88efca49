// The calibrator: its quantizer and attention against plain loops, what the search promises, and a
// model with planted key offsets.
#include "examples/llama/calibration.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "examples/llama/fake_quantize.hpp"
#include "kvcodec/codec/affine_token.hpp"
#include "kvcodec/core/dtype.hpp"
#include "tests/llama/random_model.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using kvcodec::test::contains;
using kvcodec::test::message_of;

double f16_of(double x) { return to_f32(kvcodec::to_f16(static_cast<float>(x))); }

RowQuantizer make_quantizer(std::int32_t bits, std::int32_t group, float clip, std::size_t width) {
  kvcodec::test::Random random(1);
  RowQuantizer q{.bits = bits, .group = group, .clip = clip, .shift = {}, .scale = {}};
  for (std::size_t i = 0; i < width; ++i) {
    q.shift.push_back(static_cast<float>(random.gauss()));
    q.scale.push_back(static_cast<float>(0.5 + random.uniform()));
  }
  return q;
}

TEST(FakeQuantize, IsTheDocumentedFormula) {
  const kvcodec::HeadShape shape{4, 2, 80};
  const std::int64_t n = 70, width = 160;
  const auto x = kvcodec::test::gauss_rows(n, width, 2);
  for (const auto& [bits, group] :
       {std::array<std::int32_t, 2>{4, 64}, {2, 32}, {3, 128}, {8, 64}}) {
    const RowQuantizer q = make_quantizer(bits, group, 0.9f, static_cast<std::size_t>(width));
    std::vector<float> out(x.size());
    q.run(x.data(), n, shape, out.data(), {});
    int ties = 0;
    for (std::int64_t first = 0; first < n * width;) {
      const std::int64_t in_head = first % width % 80;
      const std::int64_t size = std::min<std::int64_t>(group, 80 - in_head);
      const auto channel = [&](std::int64_t i) { return static_cast<std::size_t>(i % width); };
      std::vector<double> y;
      for (std::int64_t i = first; i < first + size; ++i) {
        const double centered = static_cast<double>(x[static_cast<std::size_t>(i)]) -
                                static_cast<double>(q.shift[channel(i)]);
        y.push_back(centered / static_cast<double>(q.scale[channel(i)]));
      }
      const auto [least, most] = std::minmax_element(y.begin(), y.end());
      const double range = *most - *least, top = std::exp2(bits) - 1.0;
      const double low = f16_of(*least + 0.05 * range), step = f16_of(0.9 * range / top);
      for (std::int64_t i = first; i < first + size; ++i) {
        const double place =
            std::clamp((y[static_cast<std::size_t>(i - first)] - low) / step, 0.0, top);
        const double value =
            (std::nearbyint(place) * step + low) * static_cast<double>(q.scale[channel(i)]) +
            static_cast<double>(q.shift[channel(i)]);
        // In f32 a place next to a half, and an f16 next to the middle of two, may round otherwise.
        const double difference =
            std::abs(value - static_cast<double>(out[static_cast<std::size_t>(i)]));
        if (difference > 1e-5) ++ties;
        ASSERT_LT(difference, 1.1 * step * static_cast<double>(q.scale[channel(i)]) + 1e-5);
      }
      first += size;
    }
    EXPECT_LE(ties, 4) << bits << ": of " << x.size();
  }
}

// Without shift and scale a row is what codec `wkv` decodes, bit by bit.
TEST(FakeQuantize, IsTheCodec) {
  for (const std::int32_t head_dim : {64, 80, 128}) {
    const auto width = static_cast<std::size_t>(head_dim);
    const auto x = kvcodec::test::gauss_rows(kvcodec::kTileRows, head_dim, 3);
    for (const auto& [bits, group] :
         {std::array<std::int32_t, 2>{2, 32}, {3, 64}, {4, 128}, {4, 32}, {8, 64}}) {
      kvcodec::AffineToken codec;
      codec.bits = bits;
      codec.group = group;
      codec.clip = 0.9f;
      std::vector<std::byte> tile(codec.tile_bytes(head_dim));
      std::vector<float> decoded(x.size()), out(x.size());
      codec.encode_tile(kvcodec::Side::key, head_dim, x.data(), tile.data());
      codec.decode_tile(kvcodec::Side::key, head_dim, tile.data(), decoded.data());
      RowQuantizer q{.bits = bits, .group = group, .clip = 0.9f, .shift = {}, .scale = {}};
      q.shift.assign(width, 0.0f);
      q.scale.assign(width, 1.0f);
      q.run(x.data(), kvcodec::kTileRows, {1, 1, head_dim}, out.data(), {});
      ASSERT_EQ(out, decoded) << bits << " bits, groups of " << group << " in " << head_dim;
    }
  }
}

TEST(FakeQuantize, ConstantAndNonFiniteRowsStayFinite) {
  const kvcodec::HeadShape shape{1, 1, 64};
  RowQuantizer q{.bits = 4, .group = 64, .clip = 0.92f, .shift = {}, .scale = {}};
  q.shift.assign(64, 0.5f);
  q.scale.assign(64, 1e-6f);
  std::vector<float> x(128, 0.5f), out(128);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  x[71] = std::numeric_limits<float>::infinity();
  q.run(x.data(), 2, shape, out.data(), {});
  for (std::size_t c = 0; c < 64; ++c) EXPECT_NEAR(out[c], 0.5f, 1e-6f);
  for (const float value : out) EXPECT_TRUE(std::isfinite(value));
}

// Attention in double, one row at a time: the own row exact, earlier ones from the past.
TEST(PastOnlyAttention, IsPlainAttentionWithTheOwnRowReplaced) {
  const kvcodec::HeadShape shape{4, 2, 64};
  const std::int64_t n = 90;
  const auto q = kvcodec::test::gauss_rows(n, 256, 3);
  const auto k = kvcodec::test::gauss_rows(n, 128, 4), v = kvcodec::test::gauss_rows(n, 128, 5);
  const auto pk = kvcodec::test::gauss_rows(n, 128, 6), pv = kvcodec::test::gauss_rows(n, 128, 7);
  for (const std::int32_t window : {0, 1, 20}) {
    std::vector<float> out(q.size());
    const AttentionCall call{0, n, q.data(), k.data(), v.data(), out.data()};
    past_only_attention(call, shape, window, pk.data(), pv.data(), {});
    for (std::int64_t t = 0; t < n; ++t) {
      for (std::int64_t h = 0; h < 4; ++h) {
        const auto row = [&](const std::vector<float>& past, const std::vector<float>& own,
                             std::int64_t j) {
          return (j == t ? own : past).data() + j * 128 + h / 2 * 64;
        };
        std::vector<double> sum(64);
        double total = 0.0;
        for (std::int64_t j = window > 0 ? std::max<std::int64_t>(0, t + 1 - window) : 0; j <= t;
             ++j) {
          double score = 0.0;
          for (std::int64_t c = 0; c < 64; ++c) {
            score += static_cast<double>(q[static_cast<std::size_t>(t * 256 + h * 64 + c)]) *
                     static_cast<double>(row(pk, k, j)[c]);
          }
          const double weight = std::exp(score / 8.0);
          total += weight;
          for (std::size_t c = 0; c < 64; ++c)
            sum[c] += weight * static_cast<double>(row(pv, v, j)[c]);
        }
        for (std::size_t c = 0; c < 64; ++c) {
          const auto at = static_cast<std::size_t>(t * 256 + h * 64) + c;
          ASSERT_NEAR(static_cast<double>(out[at]), sum[c] / total, 1e-4) << window << " " << t;
        }
      }
    }
  }
}

class Calibrate : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              (std::string("calibrate_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void TearDown() override { fs::remove_all(folder_); }

  Model make(bool biased = false, kvcodec::Executor executor = {}) const {
    nlohmann::json config = testing::small_config();
    config["num_hidden_layers"] = 3;
    if (biased) config["architectures"][0] = "Qwen2ForCausalLM";
    testing::write_random_model(folder_, config, 9);
    if (biased) plant_key_offsets();
    return Model::load(folder_, executor);
  }

  // Offsets of 60 in four channels that RoPE hardly turns, in every head of every layer.
  void plant_key_offsets() const {
    const TensorStore store = TensorStore::open(folder_);
    for (const auto& [name, info] : store.tensors()) {
      if (!name.ends_with("k_proj.bias")) continue;
      std::fstream file(info.file, std::ios::in | std::ios::out | std::ios::binary);
      for (const std::uint64_t channel : {28u, 31u, 61u, 64u + 30u}) {
        const float offset = channel == 31 ? -60.0f : 60.0f;
        char raw[sizeof offset];
        std::memcpy(raw, &offset, sizeof raw);
        file.seekp(static_cast<std::streamoff>(info.offset + 4 * channel));
        file.write(raw, sizeof raw);
      }
    }
  }

  static std::vector<std::vector<std::int32_t>> text(const Model& model, std::int64_t n = 128) {
    return sample_text(model, {.n_tokens = n, .length = 64, .start_token = 3, .seed = 4});
  }

  fs::path folder_;
};

TEST_F(Calibrate, SampledTextHasTheAskedLengthsAndDependsOnTheSeedOnly) {
  const Model model = make();
  const auto a = sample_text(model, {.n_tokens = 150, .length = 64, .start_token = 3, .seed = 4});
  ASSERT_EQ(a.size(), 3u);
  EXPECT_EQ(a[0].size(), 64u);
  EXPECT_EQ(a[1].size(), 64u);
  EXPECT_EQ(a[2].size(), 22u);
  for (const auto& tokens : a) EXPECT_EQ(tokens[0], 3);
  EXPECT_NE(a[0], a[1]);
  EXPECT_EQ(sample_text(model, {.n_tokens = 150, .length = 64, .start_token = 3, .seed = 4}), a);
  EXPECT_NE(sample_text(model, {.n_tokens = 150, .length = 64, .start_token = 3, .seed = 5}), a);
  EXPECT_THROW(sample_text(model, {.n_tokens = 0}), kvcodec::invalid_argument);
  EXPECT_THROW(sample_text(model, {.start_token = 256}), kvcodec::invalid_argument);
}

TEST_F(Calibrate, NeverMakesALayerWorseThanItsStart) {
  const Model model = make();
  for (const bool last_only : {false, true}) {
    CalibrationOptions options;
    options.bits = 2;
    options.k = 1;
    options.last_only = last_only;
    const CalibrationResult result = calibrate(model, text(model), options);
    ASSERT_EQ(result.layers.size(), 3u);
    double start = 0.0, found = 0.0;
    for (const LayerReport& layer : result.layers) {
      EXPECT_GT(layer.final, 0.0);
      EXPECT_LE(layer.final, layer.initial);
      EXPECT_GT(layer.n_tried, 10);
      start += layer.initial;
      found += layer.final;
    }
    EXPECT_LT(found, start) << "the search finds nothing";
    EXPECT_LT(result.final.hidden_error, result.initial.hidden_error);
    EXPECT_EQ(result.n_tokens, 128);
    check(result.calibration);
    check_fits(result.calibration, model.head_shape(), 3);
  }
}

TEST_F(Calibrate, RemovesPlantedKeyOffsets) {
  const Model model = make(true);
  const CalibrationResult result = calibrate(model, text(model), {});
  for (const LayerReport& layer : result.layers) {
    // Later layers also carry the error of the earlier ones, whatever they choose themselves.
    EXPECT_LT(layer.final, 0.6 * layer.plain);
    EXPECT_NE(layer.k.shift, ShiftRule::none);
  }
  EXPECT_LT(result.final.hidden_error, 0.3 * result.plain.hidden_error);
  EXPECT_LT(result.final.kl_bits, 0.1 * result.plain.kl_bits);
  const kvcodec::Calibration& c = result.calibration;
  EXPECT_NEAR(c.shift(kvcodec::Side::key, 1)[28], 60.0f, 6.0f);
  EXPECT_NEAR(c.shift(kvcodec::Side::key, 1)[31], -60.0f, 6.0f);
  // Without the offsets there is not that much to gain.
  const Model usual = make();
  const CalibrationResult other = calibrate(usual, text(usual), {});
  EXPECT_GT(other.final.hidden_error, 0.5 * other.plain.hidden_error);
}

TEST_F(Calibrate, WithoutSearchTheStartIsKept) {
  const Model model = make();
  CalibrationOptions options;
  options.search = false;
  const CalibrationResult result = calibrate(model, text(model), options);
  for (const LayerReport& layer : result.layers) {
    EXPECT_EQ(layer.final, layer.initial);
    EXPECT_EQ(layer.k.shift, ShiftRule::middle);
    EXPECT_EQ(layer.k.alpha, 0.7f);
    EXPECT_EQ(layer.k.clip, 0.92f);
  }
  EXPECT_EQ(result.final.hidden_error, result.initial.hidden_error);
  const kvcodec::Calibration& c = result.calibration;
  for (const auto* side : {&c.k, &c.v}) {
    EXPECT_EQ(side->clip, std::vector<float>(3, 0.92f));
    for (const auto* values : {&side->shift, &side->scale}) {
      for (const float x : *values) ASSERT_EQ(to_f32(kvcodec::to_f16(x)), x) << "no f16 value";
    }
  }
}

TEST_F(Calibrate, IsTheSameForAnyNumberOfThreads) {
  kvcodec::ThreadPool pool(3);
  CalibrationOptions options;
  options.k = 1;
  options.alphas = {0.5f, 1.0f};
  const Model one = make(), many = make(false, pool.executor());
  const auto tokens = text(one, 64);
  const CalibrationResult a = calibrate(one, tokens, options), b = calibrate(many, tokens, options);
  EXPECT_EQ(a.calibration.k.scale, b.calibration.k.scale);
  EXPECT_EQ(a.calibration.v.shift, b.calibration.v.shift);
  EXPECT_EQ(a.calibration.v.clip, b.calibration.v.clip);
  EXPECT_EQ(a.final.kl_bits, b.final.kl_bits);
  EXPECT_EQ(a.layers[0].n_tried, b.layers[0].n_tried);
}

TEST_F(Calibrate, EightBitsAreNearlyExactAndFourBitWeightsAreNot) {
  const Model model = make();
  const auto tokens = text(model, 64);
  CalibrationOptions options;
  options.search = false;
  const double four = calibrate(model, tokens, options).final.hidden_error;
  options.bits = 8;
  const double eight = calibrate(model, tokens, options).final.hidden_error;
  EXPECT_LT(eight, 0.2 * four);
  options.weights = parse_weight_format("w4:g32");
  options.search = true;
  const CalibrationResult weights = calibrate(model, tokens, options);
  EXPECT_GT(weights.final.hidden_error, eight);
  EXPECT_EQ(weights.calibration.weights, "w4:g32");
  ASSERT_EQ(weights.calibration.weight_clip.size(), 3u);
  for (const LayerReport& layer : weights.layers) EXPECT_LE(layer.final, layer.initial);
  // The model that the file describes is the one that was measured.
  WeightFormat format = options.weights;
  format.clip = weights.calibration.weight_clip;
  EXPECT_NO_THROW(Model::load(folder_, {}, format));
}

TEST_F(Calibrate, BadUseIsRefused) {
  const Model model = make();
  const auto refusal = [&](auto change, std::vector<std::vector<std::int32_t>> sequences) {
    CalibrationOptions options;
    change(options);
    return message_of<kvcodec::invalid_argument>([&] { calibrate(model, sequences, options); });
  };
  const auto nothing = [](CalibrationOptions&) {};
  EXPECT_TRUE(contains(refusal([](auto& o) { o.bits = 5; }, {{1}}), {"bits", "5", "2, 3, 4 or 8"}));
  EXPECT_TRUE(contains(refusal([](auto& o) { o.group = 16; }, {{1}}), {"group", "16"}));
  EXPECT_TRUE(contains(refusal([](auto& o) { o.k = -1; }, {{1}}), {"k", "-1"}));
  EXPECT_TRUE(contains(refusal([](auto& o) { o.alphas = {}; }, {{1}}), {"alphas"}));
  EXPECT_TRUE(contains(refusal([](auto& o) { o.alphas = {1.5f}; }, {{1}}), {"alphas", "1.5"}));
  EXPECT_TRUE(contains(refusal([](auto& o) { o.weights.bits = 5; }, {{1}}), {"bits", "5"}));
  EXPECT_TRUE(contains(refusal(nothing, {}), {"sequences"}));
  EXPECT_TRUE(contains(refusal(nothing, {{1}, {}}), {"sequence length", "1..512"}));
  EXPECT_TRUE(contains(refusal(nothing, {{256}}), {"token", "256"}));
  Model small = model;
  small.quantize_layer(0, model, 64, 1.0f);
  EXPECT_TRUE(contains(message_of<kvcodec::invalid_argument>([&] { calibrate(small, {{1}}, {}); }),
                       {"f32"}));
}

}  // namespace
}  // namespace llama
