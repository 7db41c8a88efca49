// Named plans: what they say, and that they cost what their names promise.
#include "kvcodec/plan/named_plans.hpp"

#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

constexpr int kHeadDim = 128;
constexpr HeadShape kShape{32, 8, kHeadDim};

std::vector<LayerConfig> layers_of(const std::string& name, int n_layers) {
  return make_cache_config(name, kShape, n_layers, 1024).layers;
}

/// The keys' codecs of a named plan, by layer.
std::vector<AnyCodec> key_codecs(const std::string& name, int n_layers) {
  std::vector<AnyCodec> codecs;
  for (const LayerConfig& l : layers_of(name, n_layers)) codecs.push_back(l.k.codec);
  return codecs;
}

double bits_of(const AnyCodec& codec) {
  return 8.0 * static_cast<double>(codec.tile_bytes(kHeadDim)) / (kTileRows * kHeadDim);
}

/// Means over 32 layers.
struct Bits {
  double k = 0.0;
  double v = 0.0;
};

Bits mean_bits(const std::string& name) {
  Bits bits;
  for (const LayerConfig& l : layers_of(name, 32)) {
    bits.k += bits_of(l.k.codec) / 32.0;
    bits.v += bits_of(l.v.codec) / 32.0;
  }
  return bits;
}

TEST(NamedPlans, CostWhatTheirNamesSay) {
  const Bits plain = mean_bits("qjl-3.03");
  EXPECT_EQ(plain.k, 49.0 / 16.0);
  EXPECT_EQ(plain.v, 3.0) << "2 bits, and two f16 per 32 values";
  EXPECT_NEAR((plain.k + plain.v) / 2.0, 3.03, 0.005);
  const Bits outliers = mean_bits("qjl-3.87");
  EXPECT_EQ(outliers.k, 75.75 / 16.0);
  EXPECT_EQ(outliers.v, 3.0);
  EXPECT_NEAR((outliers.k + outliers.v) / 2.0, 3.87, 0.005);
}

// The same from a cache, in pages so large that their padding to whole lines does not show.
TEST(NamedPlans, CostThatInACacheToo) {
  constexpr HeadShape kSmall{2, 1, kHeadDim};
  constexpr std::int64_t kTokens = 1024;
  const test::Tokens tokens(kSmall, kTokens, 1);
  for (const auto& [name, bits] :
       {std::pair{"qjl-3.03", 3.03125}, std::pair{"qjl-3.87", 3.8671875}}) {
    CacheConfig config = make_cache_config(name, kSmall, 32, kTokens);
    config.page_size = kTokens;
    Cache cache(config);
    const SeqId seq = cache.open();
    for (std::int32_t l = 0; l < 32; ++l) {
      ASSERT_EQ(append(cache, seq, l, tokens, 0, kTokens), Status::ok);
    }
    const CacheBytes bytes = cache.bytes(seq);
    EXPECT_NEAR(8.0 * static_cast<double>(bytes.payload) / static_cast<double>(bytes.n_values),
                bits, 0.002)
        << name;
  }
}

// The release's rule for keys: all but the newest n mod 128 are encoded.
TEST(NamedPlans, WindowHoldsWhatIsLeftOf128) {
  constexpr HeadShape kSmall{1, 1, kHeadDim};
  const test::Tokens tokens(kSmall, 400, 1);
  Cache cache(make_cache_config("qjl-3.03", kSmall, 1, 400));
  const SeqId seq = cache.open();
  for (std::int64_t n = 1; n <= 400; ++n) {
    ASSERT_EQ(append(cache, seq, 0, tokens, n - 1, 1), Status::ok);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    ASSERT_EQ(view.recent[0].n_rows, n % 128);
    ASSERT_EQ(view.encoded_rows(0), n - n % 128);
  }
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
