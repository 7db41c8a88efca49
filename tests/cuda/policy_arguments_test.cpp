// What the calls of kvcodec/cuda/policy.hpp refuse: before anything is launched, so also where there is no
// device.
#include <gtest/gtest.h>

#include "tests/cuda/policy_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

TEST(DevicePolicyArguments, AreRefusedByName) {
  alignas(256) static std::byte here[256] = {};
  cuda::JudgedRows good;
  good.shape = {2, 1, 64};
  good.n_seq = 1;
  good.max_rows = 128;
  good.k.data = good.v.data = here;
  good.first = good.n_rows = good.n_ahead = reinterpret_cast<const std::int64_t*>(here);
  good.observed = reinterpret_cast<const float*>(here);
  auto* keep = reinterpret_cast<KeepMask*>(here);
  const auto message = [&](const char* spec, const auto& spoil, KeepMask* masks = nullptr,
                           std::size_t bytes = 1 << 30, std::size_t offset = 0) {
    cuda::JudgedRows rows = good;
    spoil(rows);
    return test::message_of<invalid_argument>(
        [&] { cuda::select_rows(make_policy(spec), rows, masks, here + offset, bytes); });
  };
  const auto refused = [&](const char* spec, const auto& spoil, std::vector<std::string> parts) {
    parts.emplace_back("select_rows");
    EXPECT_TRUE(test::contains(message(spec, spoil, keep), parts)) << spec;
  };
  const auto as_is = [](cuda::JudgedRows&) {};
  refused("knorm", [](auto& r) { r.n_seq = -1; }, {"n_seq = -1"});
  refused("knorm", [](auto& r) { r.max_rows = -1; }, {"max_rows = -1"});
  refused("knorm", [](auto& r) { r.max_rows = std::int64_t{1} << 31; }, {"max_rows = 2147483648"});
  refused("knorm", [](auto& r) { r.n_seq = 200000, r.max_rows = 1 << 20; },
          {"n_seq * n_kv_heads * (max_rows / 8 + 1)"});
  refused("knorm", [](auto& r) { r.layer = 3; }, {"layer = 3", "0..0"});
  refused("knorm", [](auto& r) { r.n_layers = 0; }, {"n_layers = 0"});
  refused("knorm", [](auto& r) { r.k.data = nullptr; }, {"k.data = null"});
  refused("lagkv", [](auto& r) { r.v.data = nullptr; }, {"v.data = null"});
  refused("knorm", [](auto& r) { r.first = nullptr; }, {"first = null"});
  refused("knorm", [](auto& r) { r.n_rows = nullptr; }, {"n_rows = null"});
  refused("snapkv:w32", [](auto& r) { r.observed = nullptr; }, {"observe the newest 32 queries"});
  refused("spindle", [](auto& r) { r.observed = nullptr; }, {"observe the newest 32 queries"});
  EXPECT_TRUE(test::contains(message("knorm", as_is), {"keep = null"}));
  EXPECT_TRUE(
      test::contains(message("knorm", as_is, keep, 8), {"workspace_bytes = 8", "at least"}));
  EXPECT_TRUE(test::contains(message("knorm", as_is, keep, 1 << 20, 16), {"workspace = ", "256"}));
  EXPECT_TRUE(test::contains(message(
                                 "knorm", [](auto& r) { r.shape.head_dim = 72; }, keep),
                             {"head_dim = 72"}));
  cuda::JudgedRows nothing = good;
  nothing.n_seq = 0;
  nothing.k.data = nullptr;
  cuda::select_rows(make_policy("knorm"), nothing, nullptr, nullptr, 0);  // nothing to do
}

TEST(DevicePolicyArguments, PoliciesThatAreNotThere) {
  cuda::JudgedRows rows;
  rows.shape = {1, 1, 64};
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                               static_cast<void>(cuda::select_workspace_bytes({}, rows));
                             }),
                             {"policy is not set"}));
  struct Other : Knorm {
    static Other parse(const std::string&) { return {}; }
  };
  EXPECT_FALSE(cuda::can_select({}));
  EXPECT_FALSE(cuda::can_select(Other{}));
  EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                               static_cast<void>(cuda::select_workspace_bytes(Other{}, rows));
                             }),
                             {"policy knorm:r0.5", "not judged"}));
  EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                               cuda::score_rows(make_policy("window"), rows, nullptr, nullptr, 0);
                             }),
                             {"score_rows", "window:n1024 has no scores"}));
  BuiltinPolicies::for_each([&]<class P>() { EXPECT_TRUE(cuda::can_select(P{})) << P::family; });
  const auto refused = [](std::int64_t n, std::int64_t stride, std::vector<std::string> parts) {
    const std::string message = test::message_of<invalid_argument>(
        [&] { cuda::keep_largest(n, stride, nullptr, nullptr, nullptr, nullptr); });
    parts.emplace_back("keep_largest");
    EXPECT_TRUE(test::contains(message, parts));
  };
  refused(2, 8, {"score = null"});
  refused(-1, 8, {"n_segments = -1"});
  refused(1, -8, {"stride = -8"});
}

}  // namespace
}  // namespace kvcodec
