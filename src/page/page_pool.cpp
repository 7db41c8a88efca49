// Pages with counts of users.
#include "kvcodec/page/page_pool.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "kvcodec/core/error.hpp"

namespace kvcodec {
namespace {

PageMemory allocate(std::size_t page_bytes, std::int64_t n_pages) {
  if (page_bytes == 0 || page_bytes % 64 != 0) {
    throw invalid_argument(
        bad_value("PagePool", "page_bytes", page_bytes, "a positive multiple of 64"));
  }
  const std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (n_pages < 0 || n_pages > most) {
    throw invalid_argument(bad_value("PagePool", "n_pages", n_pages, "0..2147483647"));
  }
  const auto n = static_cast<std::size_t>(n_pages);
  if (n > std::numeric_limits<std::ptrdiff_t>::max() / page_bytes) {
    throw invalid_argument(
        bad_value("PagePool", "n_pages", n_pages,
                  "fewer than 2^63 bytes in all at page_bytes = " + std::to_string(page_bytes)));
  }
  return allocate_page_memory(n * page_bytes);
}

}  // namespace

PagePool::PagePool(std::size_t page_bytes, std::int64_t n_pages, std::int32_t listed_rows)
    : page_bytes_(page_bytes), listed_rows_(listed_rows), memory_(allocate(page_bytes, n_pages)) {
  positions_.resize(static_cast<std::size_t>(n_pages * listed_rows));
  masks_.resize(static_cast<std::size_t>(n_pages * listed_rows));
  users_.assign(static_cast<std::size_t>(n_pages), 0);
  free_.resize(static_cast<std::size_t>(n_pages));
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void PagePool::copy_page(std::int32_t from, std::int32_t to) noexcept {
  std::memcpy(data(to), data(from), page_bytes_);
  if (listed_rows_ == 0) return;
  std::copy_n(positions(from), listed_rows_, positions(to));
  std::copy_n(masks(from), listed_rows_, masks(to));
}

std::int32_t PagePool::take() noexcept {
  if (free_.empty()) return -1;
  const std::int32_t page = free_.back();
  free_.pop_back();
  users_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void PagePool::give_back(std::int32_t page) noexcept {
  // free_ was as long as the pool at construction, so push_back never allocates.
  if (--users_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

}  // namespace kvcodec
