// Named plans: what they say, and that they cost what their names promise.
#include "kvcodec/plan/named_plans.hpp"

#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

constexpr int kHeadDim = 128;

/// The keys' codecs of a named plan, by layer.
std::vector<AnyCodec> key_codecs(const std::string& name, int n_layers) {
  std::string text = named_plan(name, n_layers);
  // Only keys are looked at.
  const std::string value = "v=kivi:b2:g32";
  text.replace(text.find(value), value.size(), "v=f16");
  std::vector<AnyCodec> codecs;
  for (const LayerConfig& l : make_cache_config(text, {32, 8, kHeadDim}, n_layers, 1024).layers) {
    EXPECT_EQ(l.n_recent, 128);
    codecs.push_back(l.k.codec);
  }
  return codecs;
}

double mean_key_bits(const std::string& name) {
  double bits = 0.0;
  for (const AnyCodec& codec : key_codecs(name, 32)) {
    bits += 8.0 * static_cast<double>(codec.tile_bytes(kHeadDim)) / (kTileRows * kHeadDim) / 32.0;
  }
  return bits;
}

TEST(NamedPlans, CostWhatTheirNamesSay) {
  // Values: 2 bits, and two f16 per 32 of them.
  constexpr double kValueBits = 2.0 + 32.0 / 32.0;
  EXPECT_NEAR(mean_key_bits("qjl-3.03"), 3.0625, 1e-9);
  EXPECT_NEAR((mean_key_bits("qjl-3.03") + kValueBits) / 2.0, 3.03, 0.005);
  EXPECT_NEAR(mean_key_bits("qjl-3.87"), 75.75 / 16.0, 1e-9);
  EXPECT_NEAR((mean_key_bits("qjl-3.87") + kValueBits) / 2.0, 3.87, 0.005);
}

TEST(NamedPlans, InitialLayersAreFifteenOfThirtyTwo) {
  const std::vector<AnyCodec> codecs = key_codecs("qjl-3.87", 32);
  for (std::size_t l = 0; l < 32; ++l) {
    EXPECT_EQ(codecs[l].name(), l < 15 ? "qjl:m512:o8:mo128" : "qjl:m256:o8:mo256") << l;
  }
  const auto n_initial = [](int n_layers) {
    int n = 0;
    for (const AnyCodec& codec : key_codecs("qjl-3.03", n_layers)) {
      n += codec.name() == "qjl:m512" ? 1 : 0;
    }
    return n;
  };
  EXPECT_EQ(n_initial(1), 0);
  EXPECT_EQ(n_initial(2), 1);
  EXPECT_EQ(n_initial(4), 2);
  EXPECT_EQ(n_initial(28), 13);
  EXPECT_EQ(n_initial(80), 38);
}

TEST(NamedPlans, AreListedAndRefused) {
  EXPECT_TRUE(is_named_plan("qjl-3.03"));
  EXPECT_FALSE(is_named_plan("qjl"));
  EXPECT_TRUE(test::contains(plan_help(), {"qjl-3.03", "qjl-3.87"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { named_plan("qjl-3", 32); }),
                             {"\"qjl-3\"", "qjl-3.03", "qjl-3.87"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { named_plan("qjl-3.03", 0); }),
                             {"n_layers = 0", "1..65536"}));
}

}  // namespace
}  // namespace kvcodec
