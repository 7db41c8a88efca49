// Fixed-size pages in host memory: take, share, give back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/page/page_memory.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// Owns n_pages pages of page_bytes bytes in one aligned piece of memory, with a count of users
/// per page and, on request, a position and a mask per row of a page. The memory is that of
/// allocate_page_memory().
///
/// Not thread-safe; reading pages while another thread takes or gives back pages is allowed.
class PagePool {
 public:
  /// page_bytes: a positive multiple of 64. n_pages: 0..2^31-1. listed_rows: rows of a page whose
  /// positions and masks are listed; 0: none are. Throws invalid_argument, or std::bad_alloc when
  /// the memory cannot be had.
  PagePool(std::size_t page_bytes, std::int64_t n_pages, std::int32_t listed_rows = 0);

  /// A page with one user, or -1 when none is free. Its bytes are whatever they were.
  std::int32_t take() noexcept;
  /// Adds a user.
  void share(std::int32_t page) noexcept { ++users_[static_cast<std::size_t>(page)]; }
  /// Removes a user; the page is free again when the last one left.
  void give_back(std::int32_t page) noexcept;

  bool is_shared(std::int32_t page) const noexcept {
    return users_[static_cast<std::size_t>(page)] > 1;
  }
  std::byte* data(std::int32_t page) noexcept {
    return memory_.get() + static_cast<std::size_t>(page) * page_bytes_;
  }
  const std::byte* base() const noexcept { return memory_.get(); }
  /// Positions and masks of a page's rows, [listed_rows]; of all pages with page = 0. Null if no
  /// rows are listed.
  std::int32_t* positions(std::int32_t page) noexcept {
    return listed_rows_ == 0 ? nullptr : positions_.data() + std::int64_t{page} * listed_rows_;
  }
  KeepMask* masks(std::int32_t page) noexcept {
    return listed_rows_ == 0 ? nullptr : masks_.data() + std::int64_t{page} * listed_rows_;
  }
  const std::int32_t* positions() const noexcept {
    return listed_rows_ == 0 ? nullptr : positions_.data();
  }
  const KeepMask* masks() const noexcept { return listed_rows_ == 0 ? nullptr : masks_.data(); }
  std::int32_t listed_rows() const noexcept { return listed_rows_; }
  /// Copies bytes, positions and masks of a page to another.
  void copy_page(std::int32_t from, std::int32_t to) noexcept;
  std::size_t page_bytes() const noexcept { return page_bytes_; }
  std::int64_t n_pages() const noexcept { return static_cast<std::int64_t>(users_.size()); }
  std::int64_t n_free() const noexcept { return static_cast<std::int64_t>(free_.size()); }

 private:
  std::size_t page_bytes_;
  std::int32_t listed_rows_;
  PageMemory memory_;
  std::vector<std::int32_t> users_;
  std::vector<std::int32_t> positions_;
  std::vector<KeepMask> masks_;
  std::vector<std::int32_t> free_;  ///< lowest page last, so that it is taken first
};

}  // namespace kvcodec
