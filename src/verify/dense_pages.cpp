#include "src/verify/dense_pages.hpp"
#include "src/verify/backend.hpp"

#include <algorithm>

namespace kvcodec::golden {

DensePages::DensePages(const RaggedRows& rows, const AnyCodec& k, const AnyCodec& v, RawPart raw,
                       double share_begin, double share_end) {
  view_.shape = rows.shape;
  view_.n_seq = static_cast<std::int32_t>(rows.start.size()) - 1;
  view_.k_codec = k;
  view_.v_codec = v;
  view_.format = make_page_format(k, v, rows.shape.head_dim, rows.shape.n_kv_heads, kTileRows);
  view_.page_stride = static_cast<std::int64_t>(view_.format.page_bytes());
  indptr_.push_back(0);
  for (std::size_t s = 0; s + 1 < rows.start.size(); ++s) {
    const auto length = static_cast<double>(rows.start[s + 1] - rows.start[s]);
    for (int head = 0; head < rows.shape.n_kv_heads; ++head) {
      add_stream(rows, s, head, static_cast<std::int64_t>(share_begin * length),
                 static_cast<std::int64_t>(share_end * length), raw);
    }
  }
  view_.pages = pages_.data();
  view_.indptr = indptr_.data();
  view_.indices = indices_.data();
  view_.last_page_len = last_page_len_.data();
  view_.first_pos = first_pos_.data();
  view_.sinks = sinks_.data();
  view_.recent = recent_.data();
}

void DensePages::add_stream(const RaggedRows& rows, std::size_t seq, int head, std::int64_t begin,
                            std::int64_t end, RawPart raw) {
  const std::int64_t width = std::int64_t{rows.shape.n_kv_heads} * rows.shape.head_dim;
  const std::int64_t first = std::min(end, begin + raw.first);
  const std::int64_t last = std::max(first, end - raw.last);
  const auto raw_rows = [&](std::int64_t from, std::int64_t to) {
    const std::int64_t at =
        (rows.start[seq] + from) * width + std::int64_t{head} * rows.shape.head_dim;
    return RawRows{rows.k + at, rows.v + at, width, static_cast<std::int32_t>(to - from),
                   static_cast<std::int32_t>(from)};
  };
  sinks_.push_back(raw_rows(begin, first));
  recent_.push_back(raw_rows(last, end));
  first_pos_.push_back(static_cast<std::int32_t>(first));
  for (std::int64_t at = first; at < last; at += kTileRows) {
    encode(rows, head, rows.start[seq] + at, std::min<std::int64_t>(kTileRows, last - at));
  }
  indptr_.push_back(static_cast<std::int64_t>(indices_.size()));
  last_page_len_.push_back(
      static_cast<std::int32_t>((last - first + kTileRows - 1) % kTileRows + 1));
}

void DensePages::encode(const RaggedRows& rows, int head, std::int64_t first, std::int64_t n) {
  const std::int64_t d = rows.shape.head_dim;
  const std::int64_t width = rows.shape.n_kv_heads * d;
  const auto page = static_cast<std::size_t>(indices_.size());
  indices_.push_back(static_cast<std::int32_t>(page));
  const auto stride = static_cast<std::size_t>(view_.page_stride);
  pages_.resize((page + 1) * stride);
  std::byte* memory = pages_.data() + page * stride;
  std::vector<float> x(static_cast<std::size_t>(kTileRows * d));
  for (const Side side : {Side::key, Side::value}) {
    const bool key = side == Side::key;
    std::fill(x.begin(), x.end(), 0.0f);
    for (std::int64_t row = 0; row < n; ++row) {
      const float* from = (key ? rows.k : rows.v) + (first + row) * width + head * d;
      std::copy_n(from, d, x.begin() + row * d);
    }
    const AnyCodec& codec = key ? view_.k_codec : view_.v_codec;
    backend().encode_tile(
        codec, side, static_cast<int>(d), x.data(),
        (key ? view_.format.k_tile(memory, 0, 0) : view_.format.v_tile(memory, 0, 0)).tile);
  }
}

}  // namespace kvcodec::golden
