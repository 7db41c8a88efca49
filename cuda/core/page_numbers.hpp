// Which pages a view uses, for copies of it.
#pragma once

#include <unordered_map>
#include <vector>

#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::cuda {

/// The pages that rows lie in, renumbered in the order of their first use.
struct PageNumbers {
  std::vector<std::int32_t> old_page;  ///< by new number
  std::vector<std::int32_t> indices;   ///< as the view's, with new numbers; -1 where no row lies
};

/// `view` with its lists and lengths in host memory.
inline PageNumbers renumber(const KvView& view, std::int64_t n_streams) {
  PageNumbers numbers;
  if (view.indptr == nullptr) return numbers;
  std::unordered_map<std::int32_t, std::int32_t> known;
  numbers.indices.resize(static_cast<std::size_t>(view.indptr[n_streams]), -1);
  for (std::int64_t stream = 0; stream < n_streams; ++stream) {
    const std::int64_t n_rows = view.encoded_rows(stream);
    for (std::int64_t row = 0; row < n_rows; row += view.format.page_size) {
      const std::int32_t page = view.page_of(stream, row);
      const auto [at, is_new] =
          known.emplace(page, static_cast<std::int32_t>(numbers.old_page.size()));
      if (is_new) numbers.old_page.push_back(page);
      numbers.indices[static_cast<std::size_t>(view.indptr[stream] + row / view.format.page_size)] =
          at->second;
    }
  }
  return numbers;
}

}  // namespace kvcodec::cuda
