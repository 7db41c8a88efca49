#include "kvcodec/page/page_pool.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <new>
#include <set>

#include "kvcodec/core/error.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

TEST(PagePool, GivesEveryPageOnceThenNone) {
  PagePool pool(128, 5);
  EXPECT_EQ(pool.n_pages(), 5);
  EXPECT_EQ(pool.page_bytes(), 128u);
  std::set<std::int32_t> seen;
  for (int i = 0; i < 5; ++i) {
    const std::int32_t page = pool.take();
    EXPECT_EQ(page, i) << "lowest first";
    EXPECT_TRUE(seen.insert(page).second);
    EXPECT_EQ(pool.n_free(), 4 - i);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pool.data(page)) % 64, 0u);
    EXPECT_EQ(pool.data(page), pool.base() + 128 * page);
    std::memset(pool.data(page), page, 128);
  }
  EXPECT_EQ(pool.take(), -1);
  EXPECT_EQ(pool.take(), -1);
  pool.give_back(3);
  EXPECT_EQ(pool.n_free(), 1);
  EXPECT_EQ(pool.take(), 3);
  EXPECT_EQ(pool.data(4)[127], std::byte{4});
}

TEST(PageMemory, LargeMemoryBeginsAtAHugePage) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{64}, 2 * kHugePage - 64, 2 * kHugePage, 5 * kHugePage + 4096}) {
    const PageMemory memory = allocate_page_memory(bytes);
    const auto at = reinterpret_cast<std::uintptr_t>(memory.get());
    EXPECT_EQ(at % (bytes < 2 * kHugePage ? 64 : kHugePage), 0u) << bytes;
    if (bytes > 0) std::memset(memory.get(), 1, bytes);
  }
  EXPECT_THROW(allocate_page_memory(std::size_t{1} << 62), std::bad_alloc);
}

TEST(PagePool, APageIsFreeWhenItsLastUserLeaves) {
  PagePool pool(64, 2);
  const std::int32_t page = pool.take();
  EXPECT_FALSE(pool.is_shared(page));
  pool.share(page);
  pool.share(page);
  EXPECT_TRUE(pool.is_shared(page));
  pool.give_back(page);
  EXPECT_TRUE(pool.is_shared(page));
  pool.give_back(page);
  EXPECT_FALSE(pool.is_shared(page));
  EXPECT_EQ(pool.n_free(), 1);
  pool.give_back(page);
  EXPECT_EQ(pool.n_free(), 2);
}

TEST(PagePool, RandomWalkAgainstAModel) {
  PagePool pool(64, 17);
  std::map<std::int32_t, int> users;
  test::Random random(9);
  for (int step = 0; step < 20000; ++step) {
    const std::int64_t action = random.below(3);
    if (action == 0) {
      const std::int32_t page = pool.take();
      ASSERT_EQ(page < 0, users.size() == 17) << step;
      const bool fresh = page < 0 || users.emplace(page, 1).second;
      ASSERT_TRUE(fresh) << step;
    } else if (!users.empty()) {
      auto it = users.begin();
      std::advance(it, random.below(static_cast<std::int64_t>(users.size())));
      if (action == 1 && it->second < 5) {
        pool.share(it->first);
        ++it->second;
      } else {
        pool.give_back(it->first);
        if (--it->second == 0) users.erase(it);
      }
    }
    ASSERT_EQ(pool.n_free(), 17 - static_cast<std::int64_t>(users.size())) << step;
    for (const auto& [page, n] : users) ASSERT_EQ(pool.is_shared(page), n > 1) << step;
  }
}

TEST(PagePool, MayBeEmpty) {
  PagePool pool(64, 0);
  EXPECT_EQ(pool.take(), -1);
  EXPECT_EQ(pool.n_free(), 0);
}

TEST(PagePool, RefusesBadSizes) {
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{96}}) {
    EXPECT_TRUE(
        test::contains(test::message_of<invalid_argument>([&] { PagePool(bytes, 1); }),
                       {"PagePool", "page_bytes = " + std::to_string(bytes), "multiple of 64"}));
  }
  for (const std::int64_t n : {std::int64_t{-1}, std::int64_t{1} << 31}) {
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { PagePool(64, n); }),
                               {"n_pages = " + std::to_string(n), "2147483647"}));
  }
  // More bytes than an address can count.
  const std::size_t huge = std::size_t{1} << 40;
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { PagePool(huge, 1 << 25); }),
                             {"n_pages", "2^63"}));
}

}  // namespace
}  // namespace kvcodec
