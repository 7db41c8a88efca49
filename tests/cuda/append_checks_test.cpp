// What is asked before an append, and what becomes of one that cannot be: pages, ranges, arguments.
#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "tests/cuda/append_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Twins;

CacheConfig config_of(const char* plan, std::int32_t n_seq = 3) {
  return make_cache_config(plan, {2, 2, 64}, 1, 4096, n_seq);
}

class DeviceAppendChecks : public test::OnDevice<> {};

// Without a page the sequence stays as it was, as often as it is asked, until its status is cleared.
TEST_F(DeviceAppendChecks, ASequenceThatLacksPagesIsLeftAlone) {
  Twins twins(config_of("kv=nqsym,recent=1,sink=2,page=64"), 512);
  twins.reserve({60, 60, 60});
  twins.append<float>({60, 60, 60});
  const std::vector<std::byte> before = test::contents(twins.fetched().view(), 1);
  const std::vector<std::byte> pages_before = twins.page_bytes();
  for (int i = 0; i < 2; ++i) {
    twins.append<float>({0, 70, 0}, 0, false);
    EXPECT_EQ(twins.window().status(), (std::vector<std::uint32_t>{0, cuda::kLacksPages, 0}));
    EXPECT_EQ(test::contents(twins.fetched().view(), 1), before);
    EXPECT_EQ(twins.page_bytes(), pages_before);
    twins.reserve({0, 70, 0});  // too late: the word is sticky
  }
  twins.window().clear_status();
  twins.append<float>({0, 70, 0});
  twins.reserve({0, 5, 0});
  twins.append<float>({0, 5, 0});
  twins.expect_equal("with pages");
}

// A list that ends where the next stream's begins, one that is short of a page, a page that no pool has.
TEST_F(DeviceAppendChecks, EveryPageOfAStepIsLookedFor) {
  Twins twins(config_of("kv=nqsym,recent=1,sink=2,page=64"), 512);
  twins.reserve({60, 135, 60});
  twins.append<float>({60, 135, 60});
  cuda::PageTable table = twins.pages().table();
  const auto last = static_cast<std::int32_t>(table.n_pages - 1);
  const std::vector<std::int64_t> indptr = {0, 1, 2, 5, 8, 10, 12};
  const std::vector<std::int32_t> good = {last, last - 1, 0,        1,  -1,       2,
                                          3,    -1,       last - 2, -1, last - 3, -1};
  const auto device_indptr = test::on_device(indptr);
  table.indptr = device_indptr.data();
  const auto status_after = [&](std::vector<std::int32_t> indices, std::int64_t n) {
    const auto lists = test::on_device(indices);
    table.indices = lists.data();
    const std::vector<std::byte> before = twins.page_bytes();
    twins.append<float>({n, 1, n}, 0, false, &table);
    const std::vector<std::uint32_t> status = twins.window().status();
    twins.window().clear_status();
    if (status[0] != 0 && status[2] != 0) {
      EXPECT_EQ(twins.page_bytes(), before);
    }
    twins.truncate({60, 135, 60});
    return status;
  };
  const std::uint32_t lacks = cuda::kLacksPages;
  EXPECT_EQ(status_after(good, 70), (std::vector<std::uint32_t>{0, 0, 0}));
  EXPECT_EQ(status_after(good, 134), (std::vector<std::uint32_t>{lacks, 0, lacks}));
  std::vector<std::int32_t> bad = good;
  bad[1] = bad[10] = last + 1;
  EXPECT_EQ(status_after(bad, 70), (std::vector<std::uint32_t>{lacks, 0, lacks}));
}

TEST_F(DeviceAppendChecks, BadRangesOfRowsAreLeftAlone) {
  const HeadShape shape{2, 2, 64};
  Twins twins(config_of("kv=int8,recent=1,sink=2"), 256);
  const auto x = test::on_device(std::vector<float>(10 * 128, 1.0f));
  const auto try_append = [&](const std::vector<std::int64_t>& indptr) {
    const auto device = test::on_device(indptr);
    cuda::AppendRows rows;
    rows.k = rows.v = dense_rows(x.data(), 10, shape.n_kv_heads, shape.head_dim);
    rows.indptr = device.data();
    rows.max_tokens_per_seq = 4;
    cuda::append_rows(twins.window().window(), twins.pages().table(), rows);
    const std::vector<std::uint32_t> status = twins.window().status();
    twins.window().clear_status();
    return status;
  };
  const std::uint32_t bad = cuda::kBadRange;
  EXPECT_EQ(try_append({0, 5, 7, 7}), (std::vector<std::uint32_t>{bad, 0, 0}));
  EXPECT_EQ(try_append({0, 2, 1, 1}), (std::vector<std::uint32_t>{0, bad, 0}));
  EXPECT_EQ(try_append({-1, 2, 4, 6}), (std::vector<std::uint32_t>{bad, 0, 0}));
  EXPECT_EQ(try_append({4, 6, 8, 11}), (std::vector<std::uint32_t>{0, 0, bad}));
  const std::vector<cuda::WindowCounts> counts = twins.window().counts();
  EXPECT_EQ(counts[0].n_tokens(), 2 + 2);
  EXPECT_EQ(counts[1].n_tokens(), 2 + 2 + 2);
  EXPECT_EQ(counts[2].n_tokens(), 0 + 2);
}

// What an engine asks before a step is what a cache takes.
TEST_F(DeviceAppendChecks, PagesAreKnownAhead) {
  for (const char* plan : {"kv=int8,recent=100,sink=3,flush=128,page=128", "kv=int8,recent=0",
                           "kv=int8,recent=1,rollback=70,sink=1,page=64"}) {
    const CacheConfig config = config_of(plan, 1);
    const cuda::DeviceWindow window(config, 0);
    Cache cache(config);
    const SeqId seq = cache.open();
    const test::Tokens tokens({2, 2, 64}, 600, 1);
    for (std::int64_t n = 0; n < 600; ++n) {
      ViewBuffers buffers;
      const KvView view = cache.view(0, {&seq, 1}, buffers);
      ASSERT_EQ(window.window().encoded_rows(n), view.encoded_rows(0)) << plan << ", n = " << n;
      ASSERT_EQ(window.window().pages_needed(n), view.indptr[1]) << plan << ", n = " << n;
      ASSERT_EQ(append(cache, seq, 0, tokens, n, 1), Status::ok);
    }
    EXPECT_LE(2 * 64 * 2 * window.window().max_raw_rows(),
              static_cast<std::int64_t>(window.bytes()));
  }
}

TEST_F(DeviceAppendChecks, PagesAreGivenAndTakenBack) {
  const CacheConfig config = config_of("kv=int8,recent=0", 2);
  const cuda::DeviceWindow window(config, 0);
  cuda::DevicePages pages(window.window(), 4, 10);
  pages.reserve(0, 3);
  EXPECT_EQ(pages.n_free(), 4);
  EXPECT_TRUE(test::contains(test::message_of<out_of_pages>([&] { pages.reserve(1, 3); }),
                             {"sequence 1 wants 3", "free pages: 4"}));
  EXPECT_TRUE(test::contains(test::message_of<out_of_pages>([&] { pages.reserve(0, 5); }),
                             {"pages_per_stream = 4"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { pages.reserve(2, 1); }),
                             {"seq = 2", "0..1"}));
  EXPECT_EQ(pages.n_free(), 4);
  const std::vector<std::int32_t> lists = test::download(pages.table().indices, 16);
  EXPECT_EQ(lists,
            (std::vector<std::int32_t>{0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1}));
  pages.release(0);
  EXPECT_EQ(pages.n_free(), 10);
  pages.reserve(1, 4);
  EXPECT_EQ(test::download(pages.table().indices, 9)[8], 0);
}

TEST_F(DeviceAppendChecks, BadArgumentsAreNamed) {
  const CacheConfig config = config_of("k=int8,v=nqsym,recent=1,sink=2");
  Twins twins(config, 256);
  const auto x = test::on_device(std::vector<float>(4 * 128));
  const auto indptr = test::on_device(std::vector<std::int64_t>{0, 1, 2, 4});
  cuda::AppendRows good;
  good.k = good.v = dense_rows(x.data(), 4, 2, 64);
  good.indptr = indptr.data();
  good.max_tokens_per_seq = 2;
  const cuda::PageTable table = twins.pages().table();
  const auto refused = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::AppendRows rows = good;
    cuda::PageTable pages = table;
    spoil(rows, pages);
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                                 cuda::append_rows(twins.window().window(), pages, rows);
                               }),
                               parts));
  };
  refused([](auto& r, auto&) { r.v.n_tokens = 3; }, {"append_rows", "v.n_tokens = 3", "4"});
  refused([](auto& r, auto&) { r.k.n_tokens = -1; }, {"k.n_tokens = -1"});
  refused([](auto& r, auto&) { r.k.data = nullptr; }, {"k.data = null"});
  refused([](auto& r, auto&) { r.v.head_stride = 63; }, {"v.head_stride = 63", "64 or more"});
  refused([](auto& r, auto&) { r.v.token_stride = -1; }, {"v.token_stride = -1"});
  refused([](auto& r, auto&) { r.indptr = nullptr; }, {"indptr = null"});
  refused([](auto& r, auto&) { r.max_tokens_per_seq = 0; }, {"max_tokens_per_seq = 0", "1.."});
  refused([](auto&, auto& p) { p.n_pages = -1; }, {"pages.n_pages = -1"});
  refused([](auto&, auto& p) { p.page_stride -= 16; }, {"page_stride", "or more"});
  refused([](auto&, auto& p) { p.pages += 8; }, {"pages", "a multiple of 16"});
  refused([](auto&, auto& p) { p.indices = nullptr; }, {"pages.indices = null"});
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>(
                                 [&] { cuda::truncate_rows(twins.window().window(), nullptr); }),
                             {"truncate_rows", "n_tokens = null"}));
  EXPECT_EQ(twins.window().counts()[0].n_tokens(), 0);
}

TEST_F(DeviceAppendChecks, WindowsOfWhatNeedsTheHostAreRefused) {
  const auto refused = [](const char* plan) {
    return test::message_of<unsupported>([&] { cuda::DeviceWindow window(config_of(plan), 0); });
  };
  EXPECT_TRUE(test::contains(refused("kv=int8,policy=lagkv:l64:r0.5,sink=16"),
                             {"DeviceWindow: layer 0", "policy lagkv", "host only"}));
  EXPECT_TRUE(test::contains(refused("k=codebook:norope,v=int8"), {"a codebook", "host only"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>(
                                 [] { cuda::DeviceWindow window(config_of("kv=int8"), 1); }),
                             {"DeviceWindow", "layer = 1"}));
  // Views of other layers do not fit.
  cuda::DeviceWindow window(config_of("kv=int8,recent=1,sink=2"), 0);
  const auto misfit = [&](const char* plan, std::int64_t n) {
    Cache cache(config_of(plan));
    const SeqId seq = cache.open();
    EXPECT_EQ(append(cache, seq, 0, test::Tokens({2, 2, 64}, n, 1), 0, n), Status::ok);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    return test::message_of<invalid_argument>([&] { window.load(view); });
  };
  EXPECT_TRUE(test::contains(misfit("kv=int8,recent=200", 150), {"150 recent rows"}));
  EXPECT_TRUE(test::contains(misfit("kv=int8,recent=1,sink=3", 10), {"3 sinks"}));
  EXPECT_TRUE(test::contains(misfit("kv=nqsym,recent=1", 10), {"another page format"}));
  EXPECT_TRUE(test::contains(misfit("kv=wkv:b8,recent=1", 10), {"DeviceWindow::load"}));
}

}  // namespace
}  // namespace kvcodec
