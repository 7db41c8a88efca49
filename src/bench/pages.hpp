// Encoded pages of one format, as many as a measurement rotates through, and attention over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/page/page_memory.hpp"
#include "src/bench/participant.hpp"

namespace kvcodec::bench {

/// K and V rows that are encoded once and repeated: times do not depend on values, and attention over
/// n copies of some rows is attention over the rows.
struct UniqueRows {
  int head_dim = 0;
  int n_kv_heads = 0;
  std::int64_t n = 0;
  std::vector<float> k, v;  ///< [n, n_kv_heads, head_dim]

  /// Standard normal rows.
  static UniqueRows gaussian(std::int64_t n, int n_kv_heads, int head_dim);
  /// Rows near one of a few directions, which codebooks need: cosines of about 0.995.
  static UniqueRows clustered(std::int64_t n, int n_kv_heads, int head_dim);
};

/// Standard normal values from a seed.
std::vector<float> gaussian_values(std::size_t n, unsigned seed);

/// "kv=" before what is a codec and not a plan, and no raw window.
std::string plan_of(const std::string& format);

/// Pages of one plan. All rows are encoded; with a policy, those that it keeps.
class Pages {
 public:
  /// At least `bytes` of pages, and at least as many as n_seq sequences of n_tokens need.
  /// Throws what make_cache_config and Cache throw, unsupported for a plan whose policy keeps
  /// different rows per query head.
  Pages(const std::string& plan, const UniqueRows& rows, std::size_t bytes, std::int64_t n_tokens,
        int n_seq);

  /// Encoded rows of a head that has seen n_tokens.
  std::int64_t encoded_rows(std::int64_t n_tokens) const;
  std::int64_t pages_of(std::int64_t n_tokens) const;
  std::int64_t n_pages() const { return n_pages_; }
  /// Whether a policy drops rows, so that the output is not comparable with that of all rows.
  bool drops_rows() const { return drops_rows_; }

  /// The view of one sequence of unique rows: format, codecs, raw rows.
  const KvView& view() const { return view_; }
  const LayerConfig& layer() const { return cache_->config().layers[0]; }
  const std::byte* data() const { return data_.get(); }
  const std::int32_t* positions() const { return positions_.data(); }
  /// Bytes of a codebook's tables, read beside the pages; 0 elsewhere.
  double table_bytes() const;
  /// Counts the steps of all who attend over these pages: whoever comes next reads other pages than
  /// the one before, whose pages the caches still have.
  std::size_t take_turn() { return turn_++; }

 private:
  std::unique_ptr<Cache> cache_;
  SeqId seq_ = 0;
  ViewBuffers buffers_;
  KvView view_;
  bool drops_rows_ = false;
  double kept_share_ = 1.0;
  std::int64_t n_pages_ = 0;
  PageMemory data_;
  std::vector<std::int32_t> positions_;  ///< of listed rows, all 0: everything is visible
  std::size_t turn_ = 0;
};

/// Decode attention over Pages.
class PagedAttention : public Participant {
 public:
  /// q [n_seq, n_q_heads, head_dim] in the model's space.
  PagedAttention(Pages& pages, const Shape& shape, const std::vector<float>& q,
                 const AttendOptions& options);

  void step(const Executor& executor) override;
  double bytes() const override;
  std::vector<float> output() const override;
  /// The list of pages that the last step read, the first stream's first.
  const std::int32_t* pages_read() const { return view_.indices; }

 private:
  void fill_lists(std::int64_t n_encoded, std::int64_t n_copies);

  Pages& pages_;
  Shape shape_;
  AttendOptions options_;
  KvView view_;
  std::vector<std::vector<std::int32_t>> indices_;  ///< one list of pages per copy
  std::vector<std::int64_t> indptr_, n_encoded_, query_indptr_;
  std::vector<std::int32_t> query_pos_;
  std::vector<AnyCodec> k_codecs_, v_codecs_;
  std::vector<RawRows> sinks_, kept_, recent_;
  std::vector<float> q_, out_;
  AttendWorkspace workspace_;
};

/// Relative L2 error of the query heads of the first and the last KV head against float64 attention
/// over the unique rows. n_tokens must be a multiple of rows.n.
double sample_error(const UniqueRows& rows, const Shape& shape, const std::vector<float>& q,
                    float sm_scale, const std::vector<float>& out);

}  // namespace kvcodec::bench
