// A KvView over pages of one's own: what an engine that owns its memory would fill.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::golden {

/// Rows of a ragged batch, [n_rows, n_kv_heads, head_dim] each, sequence s at start[s]..start[s+1].
struct RaggedRows {
  HeadShape shape;
  const float* k = nullptr;
  const float* v = nullptr;
  std::vector<std::int64_t> start;
};

/// Which rows of each sequence are raw; the others are encoded.
struct RawPart {
  std::int64_t first = 0;  ///< this many first rows
  std::int64_t last = 0;   ///< and this many of the newest
};

/// Encodes rows into pages and owns everything a view points to.
class DensePages {
 public:
  /// Codecs must have head_span 1. Rows begin..end of each sequence with begin = share_begin of its
  /// length (0..1) and end likewise, so that halves of a batch can be built.
  DensePages(const RaggedRows& rows, const AnyCodec& k, const AnyCodec& v, RawPart raw,
             double share_begin = 0.0, double share_end = 1.0);

  const KvView& view() const noexcept { return view_; }

 private:
  void add_stream(const RaggedRows& rows, std::size_t seq, int head, std::int64_t begin,
                  std::int64_t end, RawPart raw);
  void encode(const RaggedRows& rows, int head, std::int64_t first, std::int64_t n);

  KvView view_;
  std::vector<std::byte> pages_;
  std::vector<std::int64_t> indptr_;
  std::vector<std::int32_t> indices_, last_page_len_, first_pos_;
  std::vector<RawRows> sinks_, recent_;
};

}  // namespace kvcodec::golden
