// What benchmarks rotate through, so that memory and not a cache is measured.
#include "src/bench/pages.hpp"

#include <gtest/gtest.h>

#include "src/bench/machine.hpp"

namespace kvcodec::bench {
namespace {

TEST(RotatedBytes, TogetherFourCachesOrHalfTheMemory) {
  const Machine small{"small", 2, std::size_t{32} << 20, std::size_t{16} << 30};
  EXPECT_EQ(rotated_bytes(small, 16), std::size_t{64} << 20);
  const Machine large_cache{"large cache", 2, std::size_t{480} << 20, std::size_t{16} << 30};
  EXPECT_EQ(rotated_bytes(large_cache, 16), std::size_t{120} << 20);
  const Machine little_memory{"little memory", 2, std::size_t{480} << 20, std::size_t{2} << 30};
  EXPECT_EQ(rotated_bytes(little_memory, 4), std::size_t{256} << 20);
  EXPECT_GT(this_machine().memory_bytes, std::size_t{64} << 20);
}

// An arithmetic that read what another has just read would be measured from the cache.
TEST(Pages, TwoThatShareThemReadDifferentOnes) {
  constexpr int kTokens = 128;
  const Shape shape{64, 2, 2, kTokens, 1};
  const UniqueRows rows = UniqueRows::gaussian(kTokens, shape.n_kv_heads, shape.head_dim);
  const std::size_t bytes = std::size_t{3} * 2 * kTokens * 2 * 64 * 2;
  Pages pages(plan_of("f16"), rows, bytes, kTokens, 1);
  const std::vector<float> q = gaussian_values(4 * 64, 13);
  AttendOptions options;
  options.sm_scale = 0.125f;
  PagedAttention one(pages, shape, q, options);
  PagedAttention other(pages, shape, q, options);
  std::vector<const std::int32_t*> read;
  for (int round = 0; round < 2; ++round) {
    for (PagedAttention* attention : {&one, &other}) {
      attention->step({});
      read.push_back(attention->pages_read());
    }
  }
  const auto first_page = [&](int i) { return *read[static_cast<std::size_t>(i)]; };
  EXPECT_EQ(first_page(0), 0);
  EXPECT_NE(first_page(1), first_page(0));
  EXPECT_NE(first_page(2), first_page(1));
  EXPECT_NE(first_page(2), first_page(0));
  EXPECT_EQ(first_page(3), first_page(0));  // three copies, taken in turn
  EXPECT_EQ(one.output(), other.output());
}

}  // namespace
}  // namespace kvcodec::bench
