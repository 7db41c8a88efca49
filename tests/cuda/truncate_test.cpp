// truncate_rows leaves what Cache::truncate leaves, and appending goes on from there.
#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "tests/cuda/append_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Twins;

class DeviceTruncate : public test::OnDevice<::testing::TestWithParam<const char*>> {};

std::string name_of(const ::testing::TestParamInfo<const char*>& info) {
  return test::test_name(info.param);
}

/// Cuts both sides; the host says what may be cut.
void cut(Twins& twins, const std::vector<std::int64_t>& n_tokens) {
  twins.truncate(n_tokens);
  const std::vector<std::uint32_t> status = twins.window().status();
  twins.window().clear_status();
  for (std::size_t s = 0; s < n_tokens.size(); ++s) {
    if (n_tokens[s] < 0) continue;
    const Status host = twins.cache().truncate(twins.seq(s), n_tokens[s]);
    const std::uint32_t want = host == Status::ok                ? cuda::kWindowOk
                               : host == Status::cannot_truncate ? cuda::kCannotTruncate
                                                                 : cuda::kBadRange;
    ASSERT_EQ(status[s], want) << "sequence " << s << " to " << n_tokens[s];
  }
}

// Into the window, into the sinks, into tiles (again before the tile was completed), to its edge, to more
// than there is; then on, past the next flush.
TEST_P(DeviceTruncate, IsThatOfACache) {
  Twins twins(make_cache_config(GetParam(), {4, 2, 64}, 1, 1024, 3), 512);
  const std::vector<std::vector<std::int64_t>> counts = {{200, 90, 30}, {7, 150, 1}, {1, 1, 130},
                                                         {150, 64, 1},  {1, 90, 90}, {90, 1, 1}};
  const std::vector<std::vector<std::int64_t>> lengths = {{197, 85, 2},        {171, 64 + 3, -1},
                                                          {70, 30, 100},       {69, 3000, 50},
                                                          {1, 64 + 3 + 5, 33}, {40, 3, -1}};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    twins.reserve(counts[i]);
    twins.append<float>(counts[i]);
    twins.expect_equal("appended " + std::to_string(i));
    if (HasFailure()) return;
    cut(twins, lengths[i]);
    if (HasFailure()) return;
    twins.expect_equal("cut " + std::to_string(i));
    if (HasFailure()) return;
    if (cuda::supports(twins.device_view())) twins.expect_equal_attention("cut");
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Plans, DeviceTruncate,
    ::testing::Values("kv=nqsym,recent=8,sink=3", "kv=int8,recent=0,page=128",
                      "k=hadamard+lm:b3,v=wkv:b4:g64,recent=1,sink=3,flush=128",
                      "kv=f32,recent=1,sink=3", "k=kivi,v=nqsym,recent=20,sink=3",
                      "k=qjl:m64:o6:fixed,v=int8,recent=1,rollback=40",
                      "k=nvfp4,v=rabitq:b4,recent=1,rollback=70"),
    name_of);

class DeviceTruncateTest : public test::OnDevice<> {};

TEST_F(DeviceTruncateTest, SharedHeadsAreCutTogether) {
  Twins twins(make_cache_config("k=nqkv:g256,v=nqkv:g128,recent=0", {4, 4, 64}, 1, 1024, 2), 512);
  for (const std::int64_t length : {150, 90, 75}) {
    twins.reserve({130, 70});
    twins.append<float>({130, 70});
    cut(twins, {length, 33});
    twins.expect_equal("cut to " + std::to_string(length));
    if (HasFailure()) return;
  }
}

// Length 0: a new sequence with a clean word, whatever was.
TEST_F(DeviceTruncateTest, NothingLeftIsANewSequence) {
  Twins twins(make_cache_config("k=kivi,v=int8,recent=1,sink=2", {2, 2, 64}, 1, 1024, 2), 256);
  twins.tokens()[0].k[5] = std::numeric_limits<float>::infinity();
  twins.reserve({100, 100});
  twins.append<float>({100, 100});
  EXPECT_EQ(twins.window().clamped()[0], 1u);
  twins.truncate({40, 98});
  EXPECT_EQ(twins.window().status(), (std::vector<std::uint32_t>{cuda::kCannotTruncate, 0}));
  twins.truncate({99, 97});  // the word is sticky
  EXPECT_EQ(twins.window().counts()[0].n_tokens(), 100);
  EXPECT_EQ(twins.window().counts()[1].n_tokens(), 97);
  twins.truncate({0, -1});
  EXPECT_EQ(twins.window().status(), (std::vector<std::uint32_t>{0, 0}));
  EXPECT_EQ(twins.window().clamped(), (std::vector<std::uint32_t>{0, 0}));
  EXPECT_EQ(twins.window().counts()[0].n_tokens(), 0);
  EXPECT_EQ(twins.fetched().view().sinks[0].n_rows, 0);
}

// The mean of a prompt is that of rows that must stay.
TEST_F(DeviceTruncateTest, RowsThatACenterIsTheMeanOfStay) {
  Twins twins(make_cache_config("kv=mean:n100+int8,recent=1,sink=2", {2, 2, 64}, 1, 1024, 1), 512);
  ASSERT_EQ(append(twins.cache(), twins.seq(0), 0, twins.tokens()[0], 0, 300), Status::ok);
  ViewBuffers buffers;
  twins.window().load(twins.host_view(buffers));
  twins.pages().load(twins.host_view(buffers));
  for (const std::int64_t length : {250, 101, 102}) {
    cut(twins, {length});
    if (HasFailure()) return;
    twins.reserve({1});
    twins.append<float>({1});
    twins.expect_equal("cut to " + std::to_string(length));
  }
  cut(twins, {0});
  twins.append<float>({1}, 0, false);
  EXPECT_EQ(twins.window().status()[0], std::uint32_t{cuda::kLacksCenter});
  EXPECT_EQ(twins.window().counts()[0].n_tokens(), 0);
}

}  // namespace
}  // namespace kvcodec
