#include "cuda/attend/general/general.hpp"

#include <algorithm>

#include "cuda/attend/general/launchers.hpp"
#include "cuda/attend/raw_rows.cuh"
#include "cuda/core/check.hpp"
#include "kvcodec/codec/make_codec.hpp"

namespace kvcodec::cuda {
namespace {

/// AttendLimits::logits_bytes by default: CTAs enough to fill any card, little enough for its L2.
constexpr std::size_t kDefaultLogitsBytes = std::size_t{64} << 20;

/// Grid: x splits of rows that are not encoded, y KV heads times units, z sequences.
__global__ void __launch_bounds__(kAttendThreads) raw_kernel(const AttendParams p) {
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.y);
  const std::int64_t n_rows = n_raw_rows(p, u.seq, u.head);
  const std::int64_t begin = std::int64_t{split} * kRawSplitRows;
  if (u.n_rows == 0 || begin >= n_rows) return;
  attend_raw_rows<0>(p, u, begin, n_rows < begin + kRawSplitRows ? n_rows : begin + kRawSplitRows,
                     p.state(u.index, p.n_page_splits + split));
}

/// Whether `format` describes the tiles of one side of all heads, in a way that kernels read.
bool describe(const KvView& view, Side side, TileFormat& format) {
  const bool is_key = side == Side::key;
  const AnyCodec& codec = is_key ? view.k_codec : view.v_codec;
  if ((is_key ? view.k_codecs : view.v_codecs) != nullptr) return false;
  const int head_dim = view.shape.head_dim;
  if (!codec.tile_format(side, head_dim, format)) return false;
  if (!format.one_plane() || format.width != head_dim) return false;
  if (is_key && codec.query_width(head_dim) != head_dim) return false;
  // All channels of a word of keys take the parameters of the first.
  const int width = codec.head_span(head_dim) * head_dim;
  return !is_key || format.group == 0 || format.group >= width ||
         format.group % (32 / format.bits) == 0;
}

cudaError_t launch_sums(const GeneralParams& g, cudaStream_t stream) {
  TileFormat format;
  if (describe(g.p.view, Side::value, format)) return launch_formatted_sums(g, format, stream);
  cudaError_t status = launch_sums_slice<0>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_sums_slice<1>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_sums_slice<2>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_sums_slice<3>(g, stream);
  return status;
}

/// Why one side's codec has no kernels, or "".
std::string why_not(const KvView& view, Side side) {
  const int head_dim = view.shape.head_dim;
  const AnyCodec& codec = side == Side::key ? view.k_codec : view.v_codec;
  const std::string which = "codec " + codec.name() + " for " + to_string(side);
  if (side == Side::value && codec.key_only()) return which + ": it is for keys only";
  if (!codec.supports(head_dim)) {
    return which + " has no tiles for head_dim = " + std::to_string(head_dim);
  }
  bool listed = false;
  CacheCodecs::for_each([&]<class C>() { listed = listed || codec.as<C>() != nullptr; });
  TileFormat format;
  if (listed || describe(view, side, format)) return "";
  return which + " is none of the built-in ones (" + codec_families<CacheCodecs>() +
         ") and has no TileFormat that kernels read";
}

}  // namespace

std::string why_not_general_keys(const KvView& view) { return why_not(view, Side::key); }

std::string why_not_general(const KvView& view) {
  const std::string why = why_not(view, Side::key);
  return why.empty() ? why_not(view, Side::value) : why;
}

Waves plan_waves(const AttendParams& p, const AttendLimits& limits) noexcept {
  const auto rows = std::min<std::int64_t>(p.split_rows, limits.max_encoded_rows);
  Waves w;
  w.tiles_per_split = static_cast<std::int32_t>((rows + kTileRows - 1) / kTileRows);
  const auto split_bytes =
      sizeof(float) *
      static_cast<std::size_t>(std::int64_t{p.view.n_seq} * p.view.shape.n_kv_heads * p.n_units *
                               p.unit_rows * kTileRows * w.tiles_per_split);
  const std::size_t most = limits.logits_bytes > 0 ? limits.logits_bytes : kDefaultLogitsBytes;
  const std::size_t n = split_bytes == 0 ? 0 : most / split_bytes;
  w.wave_splits = static_cast<std::int32_t>(std::clamp<std::size_t>(
      n, 1, static_cast<std::size_t>(std::max<std::int32_t>(1, p.n_page_splits))));
  w.bytes = (split_bytes * static_cast<std::size_t>(w.wave_splits) + 255) / 256 * 256;
  return w;
}

cudaError_t launch_scores(const GeneralParams& g, cudaStream_t stream) {
  TileFormat format;
  if (describe(g.p.view, Side::key, format)) return launch_formatted_scores(g, format, stream);
  cudaError_t status = launch_scores_slice<0>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_scores_slice<1>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_scores_slice<2>(g, stream);
  if (status == cudaErrorNotSupported) status = launch_scores_slice<3>(g, stream);
  return status;
}

TileFormat general_format(std::int32_t head_dim) noexcept {
  TileFormat f;
  f.width = head_dim;
  return f;
}

void launch_general(const AttendParams& p, const AttendLimits& limits, const float* sketch,
                    float* logits, cudaStream_t stream) {
  const Waves waves = plan_waves(p, limits);
  GeneralParams g{p, sketch, logits, waves.wave_splits, waves.tiles_per_split, 0};
  for (; g.first_split < p.n_page_splits; g.first_split += waves.wave_splits) {
    check(launch_scores(g, stream), "attend on the device, logits");
    check(launch_sums(g, stream), "attend on the device, sums");
  }
  const dim3 grid(static_cast<unsigned>(p.n_raw_splits),
                  static_cast<unsigned>(p.view.shape.n_kv_heads * p.n_units),
                  static_cast<unsigned>(p.view.n_seq));
  check(launch(raw_kernel, {grid, dim3(kAttendThreads), sizeof(RawMemory), stream}, p),
        "attend on the device, rows that are not encoded");
}

}  // namespace kvcodec::cuda
