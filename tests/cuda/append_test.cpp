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
    if (HasFailure()) return;
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
      if (HasFailure()) return;
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

TEST_F(DeviceAppendTest, AttentionSeesWhatItSeesOfACache) {
  for (const char* plan :
       {"kv=nqsym,recent=8,sink=4", "kv=hadamard+lm:b4,recent=0,page=128",
        "kv=int8,recent=100,sink=1", "k=lm:b4,v=kivi:b4:g32,recent=1,flush=128"}) {
    Twins twins(config_of({plan, {4, 2, 64}}), 512);
    for (const auto& counts : std::vector<std::vector<std::int64_t>>{
             {100, 3, 1}, {1, 1, 1}, {300, 80, 1}, {1, 1, 1}, {60, 60, 60}}) {
      twins.reserve(counts);
      twins.append<f16>(counts);
      twins.expect_equal_attention(plan);
      if (HasFailure()) return;
    }
    twins.expect_equal(plan);
  }
}

// A batch filled on the host goes on on the device.
TEST_F(DeviceAppendTest, GoesOnWhereACacheWas) {
  for (const char* plan :
       {"kv=nqsym,recent=8,sink=4,page=128", "k=kivi,v=kivi:b4:g32,recent=0,flush=128",
        "k=qjl:m64:o6:fixed,v=int8,recent=1", "kv=mean:n32+nqsym,recent=1,sink=2"}) {
    SCOPED_TRACE(plan);
    Twins twins(config_of({plan, {4, 2, 64}}), 512);
    const std::vector<std::int64_t> prompts = {330, 2, 129};
    for (std::size_t s = 0; s < 3; ++s) {
      ASSERT_EQ(append(twins.cache(), twins.seq(s), 0, twins.tokens()[s], 0, prompts[s]),
                Status::ok);
    }
    ViewBuffers buffers;
    const bool centered = twins.window().window().n_centered > 0;
    if (centered) {  // a sequence without a settled center stays on the host
      const std::string message =
          test::message_of<unsupported>([&] { twins.window().load(twins.host_view(buffers)); });
      EXPECT_TRUE(test::contains(message, {"sequence 1 of the view", "mean of its prompt"}));
      ASSERT_EQ(append(twins.cache(), twins.seq(1), 0, twins.tokens()[1], 2, 100), Status::ok);
    }
    twins.window().load(twins.host_view(buffers));
    twins.pages().load(twins.host_view(buffers));
    twins.expect_equal("loaded");
    for (const auto& counts :
         std::vector<std::vector<std::int64_t>>{{1, 1, 1}, {63, 130, 1}, {1, 1, 64}}) {
      twins.reserve(counts);
      twins.append<float>(counts);
      twins.expect_equal("continued");
      if (HasFailure()) return;
    }
  }
}

// One sequence of a host's view into another slot, over one that was there before.
TEST_F(DeviceAppendTest, LoadsIntoAnySlot) {
  const CacheConfig config = config_of({"kv=int8,recent=1,sink=2"});
  Twins twins(config, 256);
  twins.reserve({100, 100, 100});
  twins.append<float>({100, 100, 100});
  Cache other(config);
  const SeqId seq = other.open();
  ASSERT_EQ(append(other, seq, 0, twins.tokens()[0], 30, 140), Status::ok);
  ViewBuffers buffers;
  const KvView view = other.view(0, {&seq, 1}, buffers);
  twins.pages().release(1);
  twins.window().load(view, 1);
  twins.pages().load(view, 1);
  const cuda::HostView fetched = twins.fetched();
  EXPECT_EQ(test::contents(fetched.view(), 1), test::contents(other, seq, 0));
  for (const std::size_t s : {0u, 2u}) {
    EXPECT_EQ(test::contents(fetched.view(), static_cast<std::int64_t>(s)),
              test::contents(twins.cache(), twins.seq(s), 0));
  }
  EXPECT_TRUE(
      test::contains(test::message_of<invalid_argument>([&] { twins.window().load(view, 3); }),
                     {"DeviceWindow::load", "first_seq = 3"}));
}

}  // namespace
}  // namespace kvcodec
