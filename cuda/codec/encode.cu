#include <algorithm>

#include "cuda/codec/arguments.hpp"
#include "cuda/codec/encode.hpp"
#include "cuda/core/check.hpp"
#include "kvcodec/cuda/codec.hpp"

namespace kvcodec::cuda {
namespace {

constexpr const char* kEncodeRows = "encode_rows";

cudaError_t launch_encode(const AnyEncodeJob& job) {
  cudaError_t status = launch_encode_slice<0>(job);
  if (status == cudaErrorNotSupported) status = launch_encode_slice<1>(job);
  if (status == cudaErrorNotSupported) status = launch_encode_slice<2>(job);
  if (status == cudaErrorNotSupported) status = launch_encode_slice<3>(job);
  return status;
}

EncodeSource source_of(const EncodeSide& side, const char* name, int head_dim) {
  EncodeSource source;
  source.rows = side.rows;
  source.prepares = true;
  source.transform = packed_transform(kEncodeRows, name, side.transform, head_dim);
  source.raw_dtype = side.raw_dtype;
  source.center = side.center;
  return source;
}

void check_rows(const EncodeRows& job) {
  const PageFormat format = make_page_format(job.k.codec, job.v.codec, job.shape.head_dim,
                                             job.shape.n_kv_heads, job.format.page_size);
  if (!(format == job.format)) {
    throw invalid_argument(std::string(kEncodeRows) + ": format is not make_page_format of " +
                           job.k.codec.name() + " and " + job.v.codec.name());
  }
  if (job.max_rows < 0 || job.max_rows % kTileRows != 0) {
    throw invalid_argument(bad_value(kEncodeRows, "max_rows", job.max_rows,
                                     "0 or more, a multiple of " + std::to_string(kTileRows)));
  }
  if (job.n_seq < 0) {
    throw invalid_argument(bad_value(kEncodeRows, "n_seq", job.n_seq, "0 or more"));
  }
  if (job.k.rows.n_tokens != job.v.rows.n_tokens) {
    throw invalid_argument(bad_value(kEncodeRows, "v.rows.n_tokens", job.v.rows.n_tokens,
                                     std::to_string(job.k.rows.n_tokens) + ", as k.rows"));
  }
  require_pages(kEncodeRows, format, job.pages, job.page_stride);
  require_pointer(kEncodeRows, "k.rows.data", job.k.rows.data);
  require_pointer(kEncodeRows, "v.rows.data", job.v.rows.data);
  require_pointer(kEncodeRows, "row_indptr", job.row_indptr);
  require_pointer(kEncodeRows, "indptr", job.indptr);
  require_pointer(kEncodeRows, "indices", job.indices);
}

/// In two launches where later tiles take something from the first, which may be made now.
void launch_shares(AnyEncodeJob& job, const char* call) {
  if (job.codec[0].functions().encode_tile_after == nullptr) {
    check(launch_encode(job), call);
    return;
  }
  for (const Share share : {Share::first, Share::rest}) {
    job.target.share = share;
    check(launch_encode(job), call);
  }
  job.target.share = Share::all;
}

}  // namespace

void require_encoder(const char* call, const AnyCodec& codec, Side side, int head_dim) {
  if (!codec) throw invalid_argument(std::string(call) + ": codec is not set");
  if (!can_encode(codec, head_dim)) {
    throw unsupported(std::string(call) + ": codec " + codec.name() +
                      " is not encoded on the device for head_dim = " + std::to_string(head_dim));
  }
  require_side(call, codec, side);
  require_tables(call, codec, head_dim);
}

bool holds_tile(const AnyCodec& codec, int head_dim) noexcept {
  bool fits = false;
  BuiltinCodecs::for_each([&]<class C>() {
    if (const C* c = codec.as<C>()) fits = plan_tile(*c, head_dim).tile_fits;
  });
  return fits;
}

PackedChain packed_transform(const char* call, const char* name, const TransformChain& transform,
                             int head_dim) {
  PackedChain packed;
  if (!transform.supports(head_dim) || !pack(transform, packed)) {
    throw unsupported(std::string(call) + ": " + name + ".transform = " + transform.name() +
                      " does not run on the device for head_dim = " + std::to_string(head_dim));
  }
  return packed;
}

void require_pages(const char* call, const PageFormat& format, const std::byte* pages,
                   std::int64_t page_stride) {
  const auto page_bytes = static_cast<std::int64_t>(format.page_bytes());
  if (page_stride < page_bytes || page_stride % 16 != 0) {
    throw invalid_argument(bad_value(call, "page_stride", page_stride,
                                     std::to_string(page_bytes) + " or more, a multiple of 16"));
  }
  require_aligned(call, "pages", pages);
}

void launch_both_sides(AnyEncodeJob& job, const char* call) {
  job.side[0] = Side::key;
  job.side[1] = Side::value;
  job.n_sides = &job.codec[0].functions() == &job.codec[1].functions() ? 2 : 1;
  launch_shares(job, call);
  if (job.n_sides == 2) return;
  job.codec[0] = job.codec[1];
  job.side[0] = job.side[1];
  job.source[0] = job.source[1];
  launch_shares(job, call);
}

bool can_encode(const AnyCodec& codec, int head_dim) noexcept {
  bool listed = false;
  BuiltinCodecs::for_each([&]<class C>() { listed = listed || codec.as<C>() != nullptr; });
  return listed && codec.supports(head_dim);
}

void encode_tiles(const AnyCodec& codec, Side side, int head_dim, std::int64_t n_tiles,
                  ConstTileValues x, std::byte* tiles, std::uint32_t* not_finite, Stream stream) {
  constexpr const char* kCall = "encode_tiles";
  require_encoder(kCall, codec, side, head_dim);
  require_ctas(kCall, "n_tiles", n_tiles);
  if (n_tiles == 0) return;
  require_pointer(kCall, "x", x.data);
  require_aligned(kCall, "tiles", tiles);
  const int span = codec.head_span(head_dim);
  AnyEncodeJob job;
  job.codec[0] = codec;
  job.side[0] = side;
  job.source[0].rows.data = x.data;
  job.source[0].rows.dtype = x.dtype;
  job.source[0].rows.n_tokens = n_tiles * kTileRows;
  job.source[0].rows.token_stride = span * head_dim;
  job.source[0].rows.head_stride = head_dim;
  job.target.tiles = tiles;
  job.target.flags = not_finite;
  job.head_dim = head_dim;
  job.n_ctas = n_tiles;
  job.stream = stream;
  check(launch_encode(job), kCall);
}

void encode_rows(const EncodeRows& job, Stream stream) {
  const int head_dim = job.shape.head_dim;
  require_encoder(kEncodeRows, job.k.codec, Side::key, head_dim);
  require_encoder(kEncodeRows, job.v.codec, Side::value, head_dim);
  check_rows(job);
  AnyEncodeJob any;
  any.codec[0] = job.k.codec;
  any.codec[1] = job.v.codec;
  any.source[0] = source_of(job.k, "k", head_dim);
  any.source[1] = source_of(job.v, "v", head_dim);
  any.target.format = job.format;
  any.target.pages = job.pages;
  any.target.page_stride = job.page_stride;
  any.target.indptr = job.indptr;
  any.target.indices = job.indices;
  any.target.row_indptr = job.row_indptr;
  any.target.n_encoded = job.n_encoded;
  any.target.n_kv_heads = job.shape.n_kv_heads;
  any.target.max_tiles = static_cast<std::int32_t>(
      std::min<std::int64_t>(job.max_rows / kTileRows, std::numeric_limits<std::int32_t>::max()));
  any.target.flags = job.clamped;
  any.head_dim = head_dim;
  any.stream = stream;
  any.n_ctas = std::int64_t{job.n_seq} * job.shape.n_kv_heads * any.target.max_tiles;
  require_ctas(kEncodeRows, "n_seq * n_kv_heads * max_rows / 64", any.n_ctas);
  if (any.n_ctas == 0) return;
  launch_both_sides(any, kEncodeRows);
}

}  // namespace kvcodec::cuda
