// The model against logits that an independent NumPy program computed in float64
// (scripts/model/reference_logits.py), and its kernels against plain loops.
#include "examples/llama/model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "examples/llama/kernels.hpp"
#include "kvcodec/core/error.hpp"
#include "tests/llama/random_model.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kRoot = KVCODEC_SOURCE_DIR;
const fs::path kData = kRoot / "tests/data/llama";

json read_json(const fs::path& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  return json::parse(in);
}

// f32 sums of a few hundred terms through a few layers: errors seen are 2e-6 of the largest logit.
constexpr double kTolerance = 2e-5;

void check_logits(const fs::path& model_folder, const fs::path& expected_path) {
  const Model model = Model::load(model_folder);
  const json expected = read_json(expected_path);
  const auto tokens = expected.at("token_ids").get<std::vector<std::int32_t>>();
  const auto positions = expected.at("positions").get<std::vector<std::size_t>>();
  const std::vector<float> logits = model.forward_dense(tokens);
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  ASSERT_EQ(logits.size(), tokens.size() * vocab);
  ASSERT_FALSE(positions.empty());
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const auto want = expected.at("logits").at(i).get<std::vector<double>>();
    ASSERT_EQ(want.size(), vocab);
    double top = 1.0;
    for (const double x : want) top = std::max(top, std::abs(x));
    for (std::size_t j = 0; j < vocab; ++j) {
      ASSERT_NEAR(static_cast<double>(logits[positions[i] * vocab + j]), want[j], kTolerance * top)
          << model_folder << " position " << positions[i] << " token " << j;
    }
  }
}

TEST(LlamaModel, MatchesFloat64OnRandomModels) {
  int n = 0;
  ASSERT_TRUE(fs::is_directory(kData)) << kData;
  for (const auto& entry : fs::directory_iterator(kData)) {
    if (!entry.is_directory()) continue;
    check_logits(entry.path(), entry.path() / "expected.json");
    ++n;
  }
  EXPECT_GT(n, 0) << "no model folder in " << kData;
}

// tests/data/llama/<name>-logits.json belongs to examples/models/<name>.
TEST(LlamaModel, MatchesFloat64OnShippedModels) {
  const std::string suffix = "-logits.json";
  int n = 0;
  ASSERT_TRUE(fs::is_directory(kData)) << kData;
  for (const auto& entry : fs::directory_iterator(kData)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(suffix)) continue;
    const std::string model = name.substr(0, name.size() - suffix.size());
    check_logits(kRoot / "examples/models" / model, entry.path());
    ++n;
  }
  EXPECT_GT(n, 0) << "no *-logits.json in " << kData;
}

class RandomModel : public ::testing::Test {
 protected:
  Model make(const json& config) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / (std::string("model_") + test->name());
    testing::write_random_model(folder_, config, 1);
    return Model::load(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<std::int32_t> tokens(std::size_t n) {
    std::vector<std::int32_t> out(n);
    for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<std::int32_t>(i * i % 251);
    return out;
  }

  fs::path folder_;
};

TEST_F(RandomModel, CountsParameters) {
  const Model m = make(testing::small_config());
  const std::int64_t per_layer = 2 * 64 + 64 * (256 + 128 + 128) + 256 * 64 + 3 * 64 * 100;
  EXPECT_EQ(m.n_parameters(), 256 * 64 + 64 + 2 * per_layer);
}

TEST_F(RandomModel, EarlierLogitsDoNotSeeLaterTokens) {
  const Model m = make(testing::small_config());
  const auto all = tokens(150);
  const auto whole = m.forward_dense(all);
  const auto part = m.forward_dense(std::span(all).first(70));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin()));
  const auto last = m.forward_dense_last(std::span(all).first(70));
  EXPECT_TRUE(std::equal(last.begin(), last.end(), part.end() - 256));
}

TEST_F(RandomModel, WindowForgetsOldTokens) {
  json config = testing::small_config();
  config["architectures"][0] = "MistralForCausalLM";
  config["sliding_window"] = 10;
  const Model m = make(config);
  auto a = tokens(60);
  const auto before = m.forward_dense_last(a);
  // Two layers of 10 tokens reach back over 18 tokens besides the last one.
  std::fill(a.begin(), a.begin() + 41, 3);
  EXPECT_EQ(m.forward_dense_last(a), before);
  a[41] ^= 1;
  EXPECT_NE(m.forward_dense_last(a), before);
}

TEST_F(RandomModel, RefusesBadInput) {
  json config = testing::small_config();
  config["max_position_embeddings"] = 8;
  const Model m = make(config);
  EXPECT_NO_THROW(m.forward_dense(tokens(8)));
  EXPECT_THROW(m.forward_dense(tokens(9)), kvcodec::invalid_argument);
  EXPECT_THROW(m.forward_dense(std::vector<std::int32_t>{256}), kvcodec::invalid_argument);
  EXPECT_THROW(m.forward_dense(std::vector<std::int32_t>{-1}), kvcodec::invalid_argument);
  EXPECT_THROW(m.forward_dense_last({}), kvcodec::invalid_argument);
}

TEST_F(RandomModel, RefusesWeightsOfAnotherShape) {
  json config = testing::small_config();
  make(config);
  config["intermediate_size"] = 99;
  std::ofstream(folder_ / "config.json") << config.dump();
  try {
    Model::load(folder_);
    FAIL();
  } catch (const kvcodec::corrupt_data& e) {
    EXPECT_NE(std::string(e.what()).find("mlp.gate_proj.weight has shape [100, 64], expected [99, "
                                         "64]"),
              std::string::npos)
        << e.what();
  }
}

std::vector<float> random_values(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

TEST(LlamaKernels, MatmulMatchesPlainLoopsForAnyShape) {
  for (const auto& [n, n_in, n_out] : {std::array<std::int64_t, 3>{1, 7, 64},
                                       {3, 64, 65},
                                       {66, 33, 200},
                                       {130, 100, 1},
                                       {5, 1, 128}}) {
    const auto x = random_values(static_cast<std::size_t>(n * n_in), 1);
    const auto w = random_values(static_cast<std::size_t>(n_out * n_in), 2);
    const auto bias = random_values(static_cast<std::size_t>(n_out), 3);
    PackedMatrix m = PackedMatrix::from_weight(w.data(), n_out, n_in, n_in);
    m.set_bias(bias);
    std::vector<float> y(static_cast<std::size_t>(n * n_out), -1.0f);
    m.multiply(x.data(), n, y.data(), {});
    for (std::int64_t r = 0; r < n; ++r) {
      std::vector<float> alone(static_cast<std::size_t>(n_out));
      m.multiply(x.data() + r * n_in, 1, alone.data(), {});
      for (std::int64_t o = 0; o < n_out; ++o) {
        const auto at = static_cast<std::size_t>(r * n_out + o);
        double want = static_cast<double>(bias[static_cast<std::size_t>(o)]);
        for (std::int64_t i = 0; i < n_in; ++i) {
          want += static_cast<double>(x[static_cast<std::size_t>(r * n_in + i)]) *
                  static_cast<double>(w[static_cast<std::size_t>(o * n_in + i)]);
        }
        ASSERT_NEAR(static_cast<double>(y[at]), want, 1e-4);
        ASSERT_EQ(y[at], alone[static_cast<std::size_t>(o)]) << "depends on the other rows";
      }
    }
  }
}

TEST(LlamaKernels, RowFunctionsMatchPlainLoops) {
  for (const std::size_t n : {1u, 15u, 16u, 100u}) {
    const auto x = random_values(n, 4), w = random_values(n, 5);
    std::vector<float> silu(n), norm(n), soft = x;
    silu_multiply(x.data(), w.data(), static_cast<std::int64_t>(n), silu.data());
    rms_norm(x.data(), w.data(), static_cast<std::int64_t>(n), 1e-5f, norm.data());
    softmax(soft.data(), static_cast<std::int64_t>(n));
    double squares = 0.0, sum = 0.0;
    for (const float v : x) {
      squares += static_cast<double>(v) * static_cast<double>(v);
      sum += std::exp(static_cast<double>(v));
    }
    for (std::size_t i = 0; i < n; ++i) {
      const auto v = static_cast<double>(x[i]), weight = static_cast<double>(w[i]);
      EXPECT_NEAR(static_cast<double>(silu[i]), v / (1.0 + std::exp(-v)) * weight, 1e-6);
      EXPECT_NEAR(static_cast<double>(norm[i]),
                  v / std::sqrt(squares / static_cast<double>(n) + 1e-5) * weight, 1e-5);
      EXPECT_NEAR(static_cast<double>(soft[i]), std::exp(v) / sum, 1e-6);
    }
  }
}

}  // namespace
}  // namespace llama
