// Captured K, V and Q: the way through files, errors of attention per head, distributions.
#include "src/eval/captured.hpp"

#include <cmath>
#include <fstream>
#include <map>
#include <random>

#include "kvcodec/core/error.hpp"
#include "src/eval/distribution.hpp"
#include "src/eval/kv_eval.hpp"
#include "tests/eval/model_fixture.hpp"

namespace kvcodec::eval {
namespace {

class CapturedTest : public RandomModel {
 protected:
  static Captured sample() { return capture(model(), tokens(200, 3), 64); }
};

TEST_F(CapturedTest, HoldsTheRowsThatTheEngineCaches) {
  const Captured data = sample();
  EXPECT_EQ(data.n_layers, 2);
  EXPECT_EQ(data.n_tokens, 200);
  EXPECT_EQ(data.n_queries, 64);
  // Attention over the captured rows in the last layer must be what the model computes there.
  const auto ids = tokens(200, 3);
  std::vector<float> expected;
  llama::Workspace work;
  std::vector<std::int32_t> positions(200);
  for (std::size_t i = 0; i < 200; ++i) positions[i] = static_cast<std::int32_t>(i);
  std::vector<float> hidden = model().embed(ids);
  model().run_layers(
      0, 2, hidden, positions,
      [&](const llama::AttentionCall& call) {
        llama::dense_attention(call, data.shape, 0, {});
        if (call.layer == 1) expected.assign(call.out + 199 * 256, call.out + 200 * 256);
      },
      work);
  for (int head = 0; head < 4; ++head) {
    const float* q = data.q.data() + ((64 + 63) * 4 + head) * 64;
    const float* k = data.k.data() + (2 + head / 2) * 200 * 64;
    const float* v = data.v.data() + (2 + head / 2) * 200 * 64;
    std::vector<double> weights(200), out(64);
    double sum = 0.0;
    for (int t = 0; t < 200; ++t) {
      double dot = 0.0;
      for (int c = 0; c < 64; ++c)
        dot += static_cast<double>(q[c]) * static_cast<double>(k[t * 64 + c]);
      sum += weights[static_cast<std::size_t>(t)] = std::exp(dot / 8);
    }
    for (int c = 0; c < 64; ++c) {
      double x = 0.0;
      for (int t = 0; t < 200; ++t) {
        x += weights[static_cast<std::size_t>(t)] / sum * static_cast<double>(v[t * 64 + c]);
      }
      EXPECT_NEAR(x, static_cast<double>(expected[static_cast<std::size_t>(head * 64 + c)]), 1e-4);
    }
  }
}

TEST_F(CapturedTest, GoesThroughFilesUnchanged) {
  const Captured data = sample();
  const auto out = folder() / "captured";
  write_captured(data, out);
  const Captured npy = read_captured(out);
  EXPECT_EQ(npy.k, data.k);
  EXPECT_EQ(npy.v, data.v);
  EXPECT_EQ(npy.q, data.q);
  EXPECT_EQ(npy.shape, data.shape);
  EXPECT_EQ(npy.n_layers, data.n_layers);

  llama::testing::TensorWriter writer(1);
  writer.add("k", {2, 70, 64}, 0.0f, 1.0f);
  writer.add("v", {2, 70, 64}, 0.0f, 1.0f);
  writer.add("q", {3, 4, 64}, 0.0f, 1.0f);
  writer.write(folder() / "kv.safetensors");
  const Captured tensors = read_captured(folder() / "kv.safetensors");
  EXPECT_EQ(tensors.n_layers, 1);
  EXPECT_EQ(tensors.n_tokens, 70);
  EXPECT_EQ(tensors.n_queries, 3);
  EXPECT_EQ(tensors.shape, (HeadShape{4, 2, 64}));
  EXPECT_EQ(tensors.q.size(), 3u * 4u * 64u);

  llama::testing::TensorWriter lacking(1);
  lacking.add("k", {2, 70, 64}, 0.0f, 1.0f);
  lacking.write(folder() / "lacking.safetensors");
  EXPECT_THROW(read_captured(folder() / "lacking.safetensors"), invalid_argument);
  EXPECT_THROW(capture(model(), {}, 1), invalid_argument);
  EXPECT_THROW(capture(model(), tokens(9, 1), 0), invalid_argument);
}

TEST_F(CapturedTest, ErrorsOfEveryKindOfPlan) {
  const Captured data = sample();
  const auto mean_error = [&](const std::string& plan) {
    return attention_json(eval_captured(data, plan, {}), data).at("out_err_mean").get<double>();
  };
  const double f32 = mean_error("kv=f32,recent=0"), int8 = mean_error("kv=int8,recent=0");
  const double four = mean_error("kv=nqkv:g64,recent=0");
  EXPECT_LT(f32, 1e-5);
  EXPECT_GT(int8, 10 * f32);
  EXPECT_GT(four, 4 * int8);
  // Half of the rows are gone, whichever policy chose them; those that observe got their queries.
  EXPECT_GT(mean_error("kv=f32,policy=snapkv:r0.5"), 1e-3);
  EXPECT_GT(mean_error("kv=f32,policy=keydiff:r0.5"), 1e-3);
  EXPECT_GT(mean_error("kv=f32,k=codebook:t0.9"), f32);

  // Centers come back exactly, so subtracting them costs nothing in the logits.
  const KvResult plain = eval_captured(data, "kv=int8,recent=0", {});
  const KvResult centered = eval_captured(data, "k=mean+int8,v=int8,recent=0", {});
  EXPECT_LT(centered.heads[0].logit_rms, 2 * plain.heads[0].logit_rms);
  const KvResult evicting = eval_captured(data, "kv=f32,policy=keydiff:r0.5", {});
  EXPECT_TRUE(std::isnan(evicting.heads[0].logit_rms));

  const Json j = attention_json(plain, data);
  ASSERT_EQ(j.at("heads").size(), 2u);
  ASSERT_EQ(j.at("heads")[1].size(), 4u);
  EXPECT_EQ(j.at("heads")[1][2], plain.heads[6].out);
  const std::size_t layer = j.at("worst_layer"), head = j.at("worst_head");
  EXPECT_EQ(j.at("heads")[layer][head], j.at("out_err_worst"));
}

TEST_F(CapturedTest, TooFewQueriesForAPolicyAreNamed) {
  const Captured few = capture(model(), tokens(200, 3), 4);
  try {
    eval_captured(few, "kv=f32,policy=snapkv:r0.5", {});
    FAIL();
  } catch (const invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find("queries = 4"), std::string::npos) << e.what();
  }
}

TEST(Normality, IsWhatScipyComputes) {
  // scipy.stats 1.10.1: skewtest, kurtosistest, normaltest on integers.
  struct Case {
    int n;
    float (*value)(int);
    double z_skew, z_kurtosis, p;
  };
  const Case cases[] = {
      {20, [](int i) { return static_cast<float>(i % 9 * (i % 9)); }, 1.7207617820358962,
       -0.41714148004503016, 0.20856301306975955},
      {64, [](int i) { return static_cast<float>((i * i * 7 + 3 * i) % 101 - i * i * i % 37); },
       0.7787998546142963, -2.2736307181035302, 0.05568954075179966},
      {64, [](int i) { return static_cast<float>((i - 20) * (i - 20) * (i - 20)); },
       4.246254826234856, 1.9301793747429716, 1.8866244575383873e-05},
      {64, [](int i) { return static_cast<float>(i * i % 2 + (i == 3 ? 1 : 0)); },
       0.8919069799308326, -4.638876113920121, 1.4270232544409685e-05}};
  for (const Case& c : cases) {
    std::vector<float> x;
    for (int i = 0; i < c.n; ++i) x.push_back(c.value(i));
    const Normality got = normality(x);
    EXPECT_NEAR(got.z_skew, c.z_skew, 1e-9);
    EXPECT_NEAR(got.z_kurtosis, c.z_kurtosis, 1e-9);
    EXPECT_NEAR(got.p / c.p, 1.0, 1e-9);
  }
  EXPECT_EQ(normality(std::vector<float>(64, 2.0f)).p, 0.0);
  EXPECT_THROW(normality(std::vector<float>(7, 2.0f)), invalid_argument);
}

TEST(Distribution, TellsNormalFromUniformAndCountsEveryValue) {
  Captured data;
  data.shape = {2, 2, 64};
  data.n_layers = 1;
  data.n_tokens = 640;
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal(3.0f, 2.0f);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int i = 0; i < 2 * 640 * 64; ++i) {
    data.k.push_back(normal(random));
    data.v.push_back(uniform(random));
  }
  const auto rows = distributions(data, 10);
  ASSERT_EQ(rows.size(), 2u);
  const Distribution &k = rows[0], &v = rows[1];
  EXPECT_TRUE(k.keys);
  EXPECT_FALSE(v.keys);
  EXPECT_NEAR(k.mean, 3.0, 0.05);
  EXPECT_NEAR(k.stddev, 2.0, 0.05);
  EXPECT_NEAR(k.skew, 0.0, 0.05);
  EXPECT_NEAR(k.kurtosis, 3.0, 0.1);
  EXPECT_NEAR(v.kurtosis, 1.8, 0.05);
  EXPECT_NEAR(k.normal_share, 0.943, 0.02);
  EXPECT_NEAR(k.normal_share_pooled, 0.943, 0.02);
  // Shares of 20,000 groups that scipy.stats.normaltest lets pass: 0.943 and 0.073.
  EXPECT_NEAR(v.normal_share, 0.073, 0.03);
  EXPECT_NEAR(v.normal_share_pooled, 0.073, 0.03);
  std::int64_t n = 0;
  for (const std::int64_t count : v.counts) {
    EXPECT_NEAR(static_cast<double>(count), 8192.0, 400.0);
    n += count;
  }
  EXPECT_EQ(n, 2 * 640 * 64);
  EXPECT_THROW(distributions(data, 0), invalid_argument);

  // One wide channel: groups of a channel stay normal, pooled ones do not.
  for (std::size_t i = 0; i < data.k.size(); i += 64) data.k[i] *= 20.0f;
  const Distribution wide = distributions(data)[0];
  EXPECT_NEAR(wide.normal_share, 0.943, 0.02);
  EXPECT_LT(wide.normal_share_pooled, 0.1);
}

}  // namespace
}  // namespace kvcodec::eval
