// append_rows leaves what Cache::append leaves, bytes and all, however the tokens are spread over calls.
#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "tests/cuda/append_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Twins;

struct Case {
  const char* plan;
  HeadShape shape = {2, 2, 64};
  std::int32_t flush_rows = kTileRows;
  std::int32_t rollback_rows = 0;
};
std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return test::test_name(std::string(info.param.plan) + "_d" +
                         std::to_string(info.param.shape.head_dim) + "_f" +
                         std::to_string(info.param.flush_rows));
}
void PrintTo(const Case& c, std::ostream* os) { *os << c.plan; }

CacheConfig config_of(const Case& c, std::int32_t n_seq = 3) {
  CacheConfig config = make_cache_config(c.plan, c.shape, 1, 4096, n_seq);
  config.layers[0].flush_rows = c.flush_rows;
  config.layers[0].rollback_rows = c.rollback_rows;
  return config;
}

class DeviceAppend : public test::OnDevice<::testing::TestWithParam<Case>> {};

// One sequence takes long pieces, one short ones, one comes late and stays short; every third call is a
// decode step.
TEST_P(DeviceAppend, LeavesTheBytesOfACache) {
  Twins twins(config_of(GetParam()), 512);
  test::Random random(5);
  for (int call = 0; call < 9; ++call) {
    std::vector<std::int64_t> counts = {random.below(90), random.below(30), 0};
    if (call == 4) counts[2] = 7 + random.below(150);
    if (call % 3 == 2) counts = {1, 1, call == 2 ? 0 : 1};
    twins.reserve(counts);
    if (call % 2 == 0) twins.append<f16>(counts, call);
    else twins.append<float>(counts);
    twins.expect_equal("call " + std::to_string(call));
    if (HasFatalFailure()) return;
  }
  twins.reserve({140, 130, 129});
  twins.append<bf16>({140, 130, 129});
  twins.expect_equal("a long call");
}

// Per-token and per-channel codecs, shared heads, both windows, pages and flushes of several tiles.
INSTANTIATE_TEST_SUITE_P(
    Plans, DeviceAppend,
    ::testing::Values(Case{"kv=nqsym,recent=1,sink=4"}, Case{"kv=int8,recent=0,page=128"},
                      Case{"kv=hadamard+nqkv:g64,recent=64,sink=3,page=256", {2, 2, 64}, 128},
                      Case{"k=kivi,v=kivi:b4:g32,recent=0", {2, 2, 64}, 128},
                      Case{"k=kivi:b4,v=nqsym,recent=100"},
                      Case{"kv=nqkv:g256,recent=1", {4, 4, 64}},
                      Case{"k=nqkv:g256,v=hadamard+nqkv:g128,recent=0,sink=1,page=128", {4, 4, 64}},
                      Case{"k=qjl:m64:o6:fixed,v=int8,recent=0", {2, 2, 64}, 128},
                      Case{"k=qjl:m64,v=hadamard+lm:b2,recent=64,sink=100"},
                      Case{"kv=f32,recent=100,page=128"}, Case{"kv=bf16,recent=1"},
                      Case{"kv=lm:b3:unbiased,recent=0"}, Case{"k=rabitq:b4,v=fp8:row,recent=1"},
                      Case{"k=nvfp4,v=mxfp4,recent=0"},
                      Case{"k=wkv:b4:g64,v=wkv:b2:g64,recent=1,sink=2", {1, 1, 80}},
                      Case{"kv=nqfit,recent=8", {1, 1, 128}, 64, 40}),
    name_of);

class DeviceAppendTest : public test::OnDevice<> {
 protected:
  /// A few calls of many lengths.
  static void expect_twins(const CacheConfig& config) {
    Twins twins(config, 512);
    for (const auto& counts : std::vector<std::vector<std::int64_t>>{
             {70, 1, 0}, {1, 1, 1}, {200, 63, 64}, {0, 0, 0}, {1, 70, 1}}) {
      twins.reserve(counts);
      twins.append<float>(counts);
      twins.expect_equal("after " + std::to_string(counts[0]) + " tokens");
      if (HasFatalFailure()) return;
    }
  }
};

TEST_F(DeviceAppendTest, FactorsPerHeadThenRotation) {
  CacheConfig config = config_of({"k=int8,v=nqkv:g64,recent=1,sink=2"});
  std::vector<float> factors;
  for (int i = 0; i < 2 * 64; ++i) factors.push_back(0.5f + 0.01f * static_cast<float>(i % 97));
  const AnyTransform affine = ChannelAffine::bind({factors.data(), 2, 64}, 2, 64);
  config.layers[0].k.transform = affine;
  config.layers[0].k.transform.append(Hadamard{});
  config.layers[0].v.transform = affine;
  expect_twins(config);
}

TEST_F(DeviceAppendTest, FixedCentersAreSubtracted) {
  CacheConfig config = config_of({"k=hadamard+int8,v=int8,recent=0,sink=2"});
  std::vector<float> center;
  for (int i = 0; i < 2 * 64; ++i) center.push_back(0.1f * static_cast<float>(i % 23 - 11));
  config.layers[0].k.center = {Centering::Kind::fixed, 256, center.data()};
  expect_twins(config);
  config.layers[0].v.center = config.layers[0].k.center;
  expect_twins(config);
}

// In a row that stays in the window, in one that comes to be a sink, in one that goes straight to pages.
TEST_F(DeviceAppendTest, WhatIsNotFiniteFlagsItsSequence) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(), -1e30f};
  for (const std::int64_t token : {3, 40, 150}) {
    for (const char* plan :
         {"kv=int8,recent=1,sink=4", "k=kivi,v=hadamard+nqsym,recent=1,sink=4"}) {
      Twins twins(config_of({plan}), 256);
      for (int i = 0; i < 3; ++i) {
        auto& rows = i == 1 ? twins.tokens()[1].v : twins.tokens()[1].k;
        rows[static_cast<std::size_t>((token + i) * 128 + 7 * i)] = bad[i];
      }
      for (const auto& counts :
           std::vector<std::vector<std::int64_t>>{{5, 2, 5}, {130, 130, 1}, {1, 60, 1}}) {
        twins.reserve(counts);
        twins.append<float>(counts);
        twins.expect_equal(std::string(plan) + " with a bad token " + std::to_string(token));
      }
      EXPECT_EQ(twins.window().clamped(), (std::vector<std::uint32_t>{0, 1, 0}));
    }
  }
}

}  // namespace
}  // namespace kvcodec
