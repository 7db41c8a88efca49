// Host side of appending: checks, launches.
#include <algorithm>
#include <limits>

#include "cuda/codec/arguments.hpp"
#include "cuda/codec/encode.hpp"
#include "cuda/codec/window.cuh"
#include "cuda/core/check.hpp"
#include "kvcodec/cuda/append.hpp"

namespace kvcodec::cuda {
namespace {

constexpr const char* kAppendRows = "append_rows";
constexpr const char* kTruncateRows = "truncate_rows";
constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;

void require_window(const char* call, const LayerWindow& window) {
  if (window.n_seq < 0) {
    throw invalid_argument(bad_value(call, "window.n_seq", window.n_seq, "0 or more"));
  }
  if (window.n_seq > 0) require_pointer(call, "window.counts", window.counts);
}

void require_rows(const LayerWindow& window, const AnyRows& rows, const char* name) {
  const std::string side = name;
  if (rows.n_tokens < 0) {
    throw invalid_argument(
        bad_value(kAppendRows, (side + ".n_tokens").c_str(), rows.n_tokens, "0 or more"));
  }
  if (rows.n_tokens > 0) require_pointer(kAppendRows, (side + ".data").c_str(), rows.data);
  if (rows.token_stride < 0) {
    throw invalid_argument(
        bad_value(kAppendRows, (side + ".token_stride").c_str(), rows.token_stride, "0 or more"));
  }
  if (window.shape.n_kv_heads > 1 && rows.head_stride < window.shape.head_dim) {
    throw invalid_argument(bad_value(kAppendRows, (side + ".head_stride").c_str(), rows.head_stride,
                                     std::to_string(window.shape.head_dim) + " or more"));
  }
}

void check_arguments(const LayerWindow& window, const PageTable& pages, const AppendRows& rows) {
  require_rows(window, rows.k, "k");
  require_rows(window, rows.v, "v");
  if (rows.k.n_tokens != rows.v.n_tokens) {
    throw invalid_argument(bad_value(kAppendRows, "v.n_tokens", rows.v.n_tokens,
                                     std::to_string(rows.k.n_tokens) + ", as k"));
  }
  if (rows.max_tokens_per_seq < 1 || rows.max_tokens_per_seq > kMostTokens) {
    throw invalid_argument(bad_value(kAppendRows, "max_tokens_per_seq", rows.max_tokens_per_seq,
                                     "1.." + std::to_string(kMostTokens)));
  }
  require_pointer(kAppendRows, "indptr", rows.indptr);
  if (pages.n_pages < 0) {
    throw invalid_argument(bad_value(kAppendRows, "pages.n_pages", pages.n_pages, "0 or more"));
  }
  if (pages.n_pages > 0) {
    require_pages(kAppendRows, window.format, pages.pages, pages.page_stride);
  }
  require_pointer(kAppendRows, "pages.indptr", pages.indptr);
  require_pointer(kAppendRows, "pages.indices", pages.indices);
}

EncodeSource source_of(const LayerWindow& window, const WindowSide& side, const AnyRows& rows,
                       const char* name) {
  EncodeSource source;
  source.rows = rows;
  source.prepares = true;
  source.transform = packed_transform(kAppendRows, name, side.transform, window.shape.head_dim);
  source.raw_dtype = side.raw_dtype;
  source.center = side.center;
  source.window = side.recent;
  return source;
}

AnyEncodeJob encode_job(const LayerWindow& window, const PageTable& pages, const AppendRows& rows,
                        Stream stream) {
  AnyEncodeJob job;
  job.codec[0] = window.k.codec;
  job.codec[1] = window.v.codec;
  job.source[0] = source_of(window, window.k, rows.k, "k");
  job.source[1] = source_of(window, window.v, rows.v, "v");
  job.target.format = window.format;
  job.target.pages = pages.pages;
  job.target.page_stride = pages.page_stride;
  job.target.indptr = pages.indptr;
  job.target.indices = pages.indices;
  job.target.plans = window.plans;
  job.target.capacity = window.rule.capacity();
  job.target.n_kv_heads = window.shape.n_kv_heads;
  job.target.flags = window.clamped;
  job.head_dim = window.shape.head_dim;
  job.stream = stream;
  // At most flush_rows - 1 rows were about to leave before, and the first tile may be a cut one.
  const std::int64_t leaving = rows.max_tokens_per_seq + window.rule.flush_rows - 1;
  job.target.max_tiles = static_cast<std::int32_t>((leaving + kTileRows - 1) / kTileRows);
  job.n_ctas = std::int64_t{window.n_seq} * window.shape.n_kv_heads * job.target.max_tiles;
  require_ctas(kAppendRows, "n_seq * n_kv_heads * max_tokens_per_seq / 64", job.n_ctas);
  return job;
}

}  // namespace

void append_rows(const LayerWindow& window, const PageTable& pages, const AppendRows& rows,
                 Stream stream) {
  require_window(kAppendRows, window);
  check_arguments(window, pages, rows);
  require_encoder(kAppendRows, window.k.codec, Side::key, window.shape.head_dim);
  require_encoder(kAppendRows, window.v.codec, Side::value, window.shape.head_dim);
  AnyEncodeJob job = encode_job(window, pages, rows, stream);
  if (window.n_seq == 0 || rows.k.n_tokens == 0) return;
  StoreJob store{window, {job.source[0], job.source[1]}, kTileRows};
  store.chunk_rows = static_cast<int>(std::min<std::int64_t>(kTileRows, rows.max_tokens_per_seq));
  const std::size_t store_bytes = static_cast<std::size_t>(store.chunk_rows) *
                                  static_cast<std::size_t>(job.head_dim + 1) * sizeof(float);
  const auto n_seq = static_cast<unsigned>(window.n_seq);
  const auto n_heads = static_cast<unsigned>(window.n_seq * window.shape.n_kv_heads);
  check(launch(plan_kernel, {dim3(n_seq), dim3(kPlanThreads), 0, stream}, window, pages, rows),
        "append_rows, planning");
  launch_both_sides(job, "append_rows, encoding");
  check(launch(store_kernel, {dim3(n_heads, 1, 2), dim3(kTileThreads), store_bytes, stream}, store),
        "append_rows, moving rows");
}

void truncate_rows(const LayerWindow& window, const std::int64_t* n_tokens, Stream stream) {
  require_window(kTruncateRows, window);
  if (window.n_seq == 0) return;
  require_pointer(kTruncateRows, "n_tokens", n_tokens);
  check(launch(truncate_kernel,
               {dim3(static_cast<unsigned>(window.n_seq)), dim3(kPlanThreads), 0, stream}, window,
               n_tokens),
        kTruncateRows);
}

}  // namespace kvcodec::cuda
