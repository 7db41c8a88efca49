// Choice of the kernel for a codec's tiles.
#include "tile_kernels.hpp"

#include <algorithm>

#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/codec/qjl.hpp"
#include "src/cpu/matrix.hpp"

namespace kvcodec::cpu {
namespace {

/// kFormatKinds: there are no kernels for such codes.
FormatKind kind_of(const TileFormat& f) noexcept {
  using Level = TileFormat::Level;
  switch (f.level) {
    case Level::table:
      return f.bits == 1   ? kTable1
             : f.bits == 2 ? kTable2
             : f.bits == 3 ? kTable3
             : f.bits == 4 ? kTable4
                           : kFormatKinds;
    case Level::int8: return f.bits == 8 ? kInt8 : kFormatKinds;
    case Level::uint8: return f.bits == 8 && f.has_zeros() ? kUint8 : kFormatKinds;
    case Level::e4m3: return f.bits == 8 ? kE4m3 : kFormatKinds;
    case Level::f16: return f.bits == 16 ? kF16 : kFormatKinds;
    case Level::bf16: return f.bits == 16 ? kBf16 : kFormatKinds;
    case Level::f32: return f.bits == 32 ? kF32 : kFormatKinds;
  }
  return kFormatKinds;
}

/// Whether the groups of a format fall into the segments that kernels work in.
bool fits_segments(const TileFormat& f, Side side, int span) noexcept {
  if (f.width % kLanes != 0) return false;
  if (f.has_zeros() && f.width > kMaxHeadDim) return false;
  if (f.group == 0) return true;
  if (f.run > 0) {
    return side == Side::key && span == 1 && f.stored == TileFormat::Stored::f16 &&
           f.width <= kMaxHeadDim && f.run % (2 * kLanes) == 0 && kTileRows % f.run == 0;
  }
  if (f.group >= f.width) return f.group % f.width == 0 || span == 1;
  // A segment of keys begins with a word: 32 channels if codes have one bit.
  const int unit = side == Side::key && f.bits == 1 ? 32 : kLanes;
  return f.group % unit == 0 && (f.width % f.group == 0 || span == 1);
}

/// Kind of the tiles of one side if kernels for formats can read them, else kFormatKinds.
FormatKind readable_kind(const AnyCodec& codec, Side side, int head_dim, TileFormat& f) noexcept {
  if (!codec.tile_format(side, head_dim, f)) return kFormatKinds;
  return fits_segments(f, side, codec.head_span(head_dim)) ? kind_of(f) : kFormatKinds;
}

/// Whether kernels in matrices read all tiles of one side.
bool in_matrices(const Kernels& table, const AnyCodec& codec, Side side, int head_dim) noexcept {
  TileFormat f;
  const FormatKind kind = readable_kind(codec, side, head_dim, f);
  if (kind == kFormatKinds || f.run > 0 || head_dim % kMatrixDepth != 0) return false;
  if (f.group != 0 && f.group < f.width && f.group % kMatrixDepth != 0) return false;
  return table.add_integers[kind] != table.vectors->add_integers[kind];
}

SketchTiles sketch_of(const Qjl& codec) noexcept {
  return {codec.table.columns,
          codec.table.sketch_dim,
          codec.sketch_dim,
          codec.outlier_channels,
          codec.sketches_outliers() ? codec.outlier_sketch_dim : 0,
          codec.set_rows(),
          codec.constant,
          codec.norm_offset(),
          codec.outlier_sign_offset(),
          codec.outlier_offset(),
          codec.channel_offset()};
}

CodebookTiles codebook_of(const Codebook& codec) noexcept {
  const bool turned = codec.positions && codec.rope;
  static_assert(sizeof(f16) == sizeof(std::uint16_t));
  return {reinterpret_cast<const std::uint16_t*>(codec.entries),
          codec.n_entries,
          Codebook::kMagnitudeOffset,
          Codebook::kPositionOffset,
          turned ? codec.rope.fine : nullptr,
          codec.rope.coarse,
          codec.rope.n_positions};
}

}  // namespace

const Kernels& table_for(const AnyCodec& k_codec, const AnyCodec& v_codec, int head_dim,
                         bool integers) noexcept {
  const Kernels& best = kernels();
  if (best.vectors == nullptr) return best;
  const bool both = integers && in_matrices(best, k_codec, Side::key, head_dim) &&
                    in_matrices(best, v_codec, Side::value, head_dim);
  return both && matrix_usable() ? best : *best.vectors;
}

KeyKernel::KeyKernel(const Kernels& table, const AnyCodec& codec, int head_dim, bool own_tables,
                     bool integers) noexcept
    : head_dim_(head_dim), table_(table) {
  const FormatKind kind =
      own_tables ? kFormatKinds : readable_kind(codec, Side::key, head_dim, format_);
  if (kind != kFormatKinds) {
    score_ = format_.run > 0 ? table.score_runs[kind] : table.score_format[kind];
  }
  if (score_ != nullptr) {
    reading_ = TileReading::format;
    q_stride_ = static_cast<std::size_t>(codec.query_width(head_dim));
    q_skip_ = q_stride_ - static_cast<std::size_t>(format_.width);
    if (!integers) return;
    // Codes of one bit take any width, but whole words of it.
    if (format_.bits == 1 ? format_.width % 32 != 0 : format_.width > kMaxHeadDim) return;
    score_integers_ = format_.run > 0 ? table.score_run_integers[kind] : table.score_integers[kind];
    if (score_integers_ == nullptr) return;
    if (format_.run == 0) prepare_ = table.prepare_integers[kind];
    levels_ = integer_levels(format_, table.level_steps[kind]);
    reading_ = TileReading::integer;
  } else if (table.score_sketch != nullptr && codec.as<Qjl>() != nullptr) {
    // Tables in bytes pay where a list of outliers serves many tiles.
    const Qjl& qjl = *codec.as<Qjl>();
    const bool lasting = qjl.outliers == QjlOutliers::fixed || qjl.outliers == QjlOutliers::exact;
    const bool bytes = integers && lasting && table.score_sketch_integers != nullptr;
    reading_ = bytes ? TileReading::integer_sketch : TileReading::sketch;
  } else if (table.score_codebook != nullptr && codec.as<Codebook>() != nullptr) {
    reading_ = TileReading::codebook;
  } else if (codec.functions().scores_itself) {
    reading_ = TileReading::codec;
  }
}

std::size_t KeyKernel::bytes_per_query(const AnyCodec& codec, int head_dim) noexcept {
  TileFormat format;
  if (codec.tile_format(Side::key, head_dim, format)) return integer_query_bytes(format);
  const Qjl* qjl = codec.as<Qjl>();
  if (qjl == nullptr) return 0;
  const SketchTiles t = sketch_of(*qjl);
  const auto n = static_cast<std::size_t>(t.n_signs + t.n_outlier_signs);
  return sizeof(SketchQuery) + 4 * n;
}

void KeyKernel::widen(const AnyCodec& codec, const float* q, int n_q,
                      float* prepared) const noexcept {
  const int width = codec.query_width(head_dim_);
  const Qjl* qjl = codec.as<Qjl>();
  if (qjl != nullptr && table_.project_queries != nullptr) {
    table_.project_queries(sketch_of(*qjl), head_dim_, q, n_q, static_cast<std::size_t>(width),
                           prepared + head_dim_);
    for (int i = 0; i < n_q; ++i) std::copy_n(q + i * head_dim_, head_dim_, prepared + i * width);
    return;
  }
  for (int i = 0; i < n_q; ++i, q += head_dim_, prepared += width) {
    codec.prepare_query(head_dim_, q, prepared);
  }
}

void KeyKernel::prepare(const AnyCodec& codec, const float* q, int n_q,
                        std::byte* bytes) const noexcept {
  if (reading_ == TileReading::integer_sketch) {
    table_.prepare_sketch(sketch_of(*codec.as<Qjl>()), head_dim_, q, n_q, bytes);
  }
  if (prepare_ != nullptr) prepare_(format_, q + q_skip_, q_stride_, n_q, bytes);
}

void KeyKernel::operator()(const AnyCodec& codec, const std::byte* tile, int head, const float* q,
                           std::byte* bytes, int n_q, Ahead& ahead, float* scores) const noexcept {
  switch (reading_) {
    case TileReading::integer:
      score_integers_(format_, levels_, tile, head, q + q_skip_, q_stride_, bytes, n_q, ahead,
                      scores);
      return;
    case TileReading::format:
      score_(format_, tile, head, q + q_skip_, q_stride_, n_q, ahead, scores);
      return;
    case TileReading::integer_sketch:
      table_.score_sketch_integers(sketch_of(*codec.as<Qjl>()), head_dim_, tile, q, bytes, n_q,
                                   scores);
      return;
    case TileReading::sketch:
      table_.score_sketch(sketch_of(*codec.as<Qjl>()), head_dim_, tile, q, n_q, scores);
      return;
    case TileReading::codebook:
      table_.score_codebook(codebook_of(*codec.as<Codebook>()), head_dim_, tile, q, n_q, scores);
      return;
    default: codec.functions().score_tile(codec.value(), head_dim_, tile, head, q, n_q, scores);
  }
}

ValueKernel::ValueKernel(const Kernels& table, const AnyCodec& codec, int head_dim, bool own_tables,
                         bool integers) noexcept
    : head_dim_(head_dim), table_(table) {
  const FormatKind kind =
      own_tables ? kFormatKinds : readable_kind(codec, Side::value, head_dim, format_);
  if (kind != kFormatKinds && format_.width == head_dim) add_ = table.add_format[kind];
  if (add_ != nullptr) {
    reading_ = TileReading::format;
    if (!integers || table.add_integers[kind] == nullptr) return;
    add_integers_ = table.add_integers[kind];
    levels_ = integer_levels(format_, table.level_steps[kind]);
    reading_ = TileReading::integer;
  } else if (table.add_codebook != nullptr && codec.as<Codebook>() != nullptr) {
    reading_ = TileReading::codebook;
  } else if (codec.functions().sums_itself) {
    reading_ = TileReading::codec;
  }
}

void ValueKernel::operator()(const AnyCodec& codec, const std::byte* tile, int head, const float* w,
                             int n_q, Ahead& ahead, float* acc) const noexcept {
  switch (reading_) {
    case TileReading::format: add_(format_, tile, head, w, n_q, ahead, acc); return;
    case TileReading::integer:
      add_integers_(format_, levels_, tile, head, w, n_q, ahead, acc);
      return;
    case TileReading::codebook:
      table_.add_codebook(codebook_of(*codec.as<Codebook>()), head_dim_, tile, w, n_q, acc);
      return;
    default: codec.functions().add_tile(codec.value(), head_dim_, tile, head, w, n_q, acc);
  }
}

}  // namespace kvcodec::cpu
