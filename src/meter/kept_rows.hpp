// Which positions of a KV head a view still has.
#pragma once

#include <algorithm>
#include <span>

#include "kvcodec/page/kv_view.hpp"

namespace kvcodec {

inline void mark_raw(const RawRows& rows, std::span<KeepMask> masks) noexcept {
  for (std::int32_t r = 0; r < rows.n_rows; ++r) {
    const auto pos =
        static_cast<std::size_t>(rows.pos != nullptr ? rows.pos[r] : rows.first_pos + r);
    if (pos < masks.size()) masks[pos] = rows.mask != nullptr ? rows.mask[r] : kKeptByAll;
  }
}

/// masks[p] <- the query heads of the group that see the row at position p of KV head `head` of the
/// view's only sequence; 0 where it is gone.
inline void mark_kept(const KvView& view, std::int32_t head, std::span<KeepMask> masks) noexcept {
  std::fill(masks.begin(), masks.end(), KeepMask{0});
  const std::int64_t stream = head / view.format.span;
  const std::int64_t n = view.encoded_rows(stream);
  const std::int64_t first_pos = view.first_pos != nullptr ? view.first_pos[stream] : 0;
  for (std::int64_t row = 0; row < n; ++row) {
    const std::int64_t slot = std::int64_t{view.page_of(stream, row)} * view.format.page_size +
                              row % view.format.page_size;
    const auto pos =
        static_cast<std::size_t>(view.slot_pos != nullptr ? view.slot_pos[slot] : first_pos + row);
    if (pos >= masks.size()) continue;
    masks[pos] = view.slot_mask != nullptr ? view.slot_mask[slot] : kKeptByAll;
  }
  for (const RawRows* list : {view.sinks, view.kept, view.recent}) {
    if (list != nullptr) mark_raw(list[head], masks);
  }
}

}  // namespace kvcodec
