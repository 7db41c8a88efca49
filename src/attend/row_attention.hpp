// What one unit of work does with rows: encoded ones in pages, raw ones, and the query's own.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/attend/visibility.hpp"
#include "src/attend/work.hpp"
#include "src/cpu/kernels.hpp"
#include "src/cpu/prefetch.hpp"
#include "src/cpu/tile_kernels.hpp"

namespace kvcodec {

/// One unit of work (see work.hpp).
struct Unit {
  std::int64_t seq;
  std::int32_t head;         ///< KV head
  std::int64_t first_token;  ///< among all query tokens of the call
  std::int32_t n_tokens;
  std::int32_t n_rows;  ///< n_tokens * gqa_group
};

/// Memory of one worker.
struct Scratch {
  float* q;                ///< [kUnitRows, head_dim]
  float* prepared;         ///< [kUnitRows, query_width], or q where codecs take queries as they are
  std::byte* bytes;        ///< [kUnitRows, bytes_per_query] the same in bytes
  float* rows;             ///< [kTileRows, kMaxTileWidth] a decoded tile
  float* center;           ///< [kUnitRows] q . k_center
  float* scores;           ///< [kUnitRows, kTileRows]
  std::uint64_t* visible;  ///< [kUnitRows]
  float* running;          ///< PartialState of kUnitRows rows
  float* split;            ///< PartialState of kUnitRows rows

  static std::int64_t floats(const KvView& view) noexcept {
    const std::int64_t head_dim = view.shape.head_dim;
    return kUnitRows * (head_dim + prepared_width(view)) + kUnitRows * byte_floats(view) +
           kTileRows * kMaxTileWidth + kUnitRows + kUnitRows * kTileRows + 2 * kUnitRows +
           2 * state_floats(kUnitRows, head_dim);
  }
  static Scratch at(float* memory, const KvView& view) noexcept {
    const std::int64_t head_dim = view.shape.head_dim;
    Scratch s;
    s.q = memory;
    s.prepared = prepared_width(view) > 0 ? s.q + kUnitRows * head_dim : s.q;
    float* bytes = s.q + kUnitRows * (head_dim + prepared_width(view));
    s.bytes = reinterpret_cast<std::byte*>(bytes);
    s.rows = bytes + kUnitRows * byte_floats(view);
    s.center = s.rows + kTileRows * kMaxTileWidth;
    s.scores = s.center + kUnitRows;
    s.visible = reinterpret_cast<std::uint64_t*>(s.scores + kUnitRows * kTileRows);
    s.running = s.scores + kUnitRows * kTileRows + 2 * kUnitRows;
    s.split = s.running + state_floats(kUnitRows, head_dim);
    return s;
  }

  /// Floats of a prepared query, rounded up to 16; 0 where the codec takes queries as they are.
  static std::int64_t prepared_width(const KvView& view) noexcept {
    const int head_dim = view.shape.head_dim;
    const int width = view.k_codec.query_width(head_dim);
    return width == head_dim ? 0 : (width + 15) / 16 * 16;
  }

 private:
  static std::int64_t byte_floats(const KvView& view) noexcept {
    const std::size_t bytes = cpu::KeyKernel::bytes_per_query(view.k_codec, view.shape.head_dim);
    return static_cast<std::int64_t>(bytes / sizeof(float));
  }
};

/// Adds rows to the online softmax of a unit's queries.
class RowAttention {
 public:
  RowAttention(const KvView& view, const Queries& queries, const AttendOptions& options) noexcept
      : view_(view),
        queries_(queries),
        options_(options),
        table_(cpu::table_for(view.k_codec, view.v_codec, view.shape.head_dim,
                              options.arithmetic == Arithmetic::integer)),
        score_kernel_(table_, view.k_codec, view.shape.head_dim, view.k_codecs != nullptr,
                      options.arithmetic == Arithmetic::integer),
        add_kernel_(table_, view.v_codec, view.shape.head_dim, view.v_codecs != nullptr,
                    options.arithmetic == Arithmetic::integer) {}

  /// The kernels in use.
  const cpu::Kernels& table() const noexcept { return table_; }

  /// Queries as the key codec takes them, and their products with the center of the keys: what
  /// encoded() needs once per unit.
  void prepare_queries(const Unit& u, const Scratch& scratch) const noexcept {
    if (scratch.prepared != scratch.q) widen_queries(u, scratch, scratch.prepared);
    prepare_widened(u, scratch);
  }

  /// Queries as the key codec takes them, to `out` [u.n_rows, query_width].
  void widen_queries(const Unit& u, const Scratch& scratch, float* out) const noexcept {
    score_kernel_.widen(view_.k_codec, scratch.q, u.n_rows, out);
  }

  /// The rest of prepare_queries, where scratch.prepared is filled.
  void prepare_widened(const Unit& u, const Scratch& scratch) const noexcept {
    const int head_dim = view_.shape.head_dim;
    score_kernel_.prepare(view_.k_codec, scratch.prepared, u.n_rows, scratch.bytes);
    if (view_.k_center == nullptr) return;
    const float* center = center_of(view_.k_center, u);
    for (int i = 0; i < u.n_rows; ++i) {
      float sum = 0.0f;
      for (int c = 0; c < head_dim; ++c) sum += scratch.q[i * head_dim + c] * center[c];
      scratch.center[i] = sum;
    }
  }

  /// Encoded rows first_row .. first_row + kSplitRows - 1 of the unit's stream; `state` holds
  /// nothing else. `following`: the number seq * n_kv_heads + head of the head whose tiles this thread most
  /// likely reads after those of the stream; may be out of range.
  void encoded(const Unit& u, std::int64_t first_row, std::int64_t following,
               const Scratch& scratch, const PartialState& state) const noexcept {
    const PageFormat& format = view_.format;
    const std::int64_t stream = u.seq * view_.n_streams_per_seq() + u.head / format.span;
    const int head_in_page = u.head % format.span;
    const std::int64_t n_encoded = view_.encoded_rows(stream);
    const std::int64_t end = std::min(n_encoded, first_row + kSplitRows);
    const std::int32_t pos0 = view_.first_pos != nullptr ? view_.first_pos[stream] : 0;
    const cpu::KernelUnit unit(table_, u.n_rows);
    const int pace = pace_of(u.n_rows);
    for (std::int64_t row = first_row; row < end; row += kTileRows) {
      const auto n_rows = static_cast<int>(std::min<std::int64_t>(kTileRows, end - row));
      const std::int64_t slot =
          std::int64_t{view_.page_of(stream, row)} * format.page_size + row % format.page_size;
      const Positions positions{view_.slot_pos == nullptr ? nullptr : view_.slot_pos + slot,
                                static_cast<std::int32_t>(pos0 + row)};
      const KeepMask* masks = view_.slot_mask == nullptr ? nullptr : view_.slot_mask + slot;
      const std::uint64_t* visible = nullptr;
      if (!mask(u, positions, masks, n_rows, scratch, &visible)) continue;
      const TilePair now = tiles_at(stream, row, head_in_page);
      // The split that follows is most likely this thread's next.
      const TilePair next = row + kTileRows < n_encoded
                                ? tiles_at(stream, row + kTileRows, head_in_page)
                                : first_tiles(following);
      const HeadPart keys = part_of(next.k, format.k_tile_bytes, format.k_span);
      const HeadPart values = part_of(next.v, format.v_tile_bytes, format.v_span);
      const HeadPart summed = part_of(now.v, format.v_tile_bytes, format.v_span);
      cpu::Ahead ahead = {keys.begin, keys.end, values.begin, values.end, nullptr, nullptr, pace};
      score_tile(u, now.k, ahead, scratch);
      ahead.soon = summed.begin;
      ahead.soon_end = summed.end;
      softmax(u, visible, ahead, scratch, state);
      ahead.soon = keys.begin;
      ahead.soon_end = keys.end;
      add_tile(u, now.v, ahead, scratch, state);
      ahead.finish_both();
    }
    add_center(u, state);
  }

  /// Rows that are not encoded.
  void raw(const Unit& u, const RawRows& rows, const Scratch& scratch,
           const PartialState& state) const noexcept {
    const auto k_step = static_cast<std::int64_t>(dtype_bytes(view_.k_raw_dtype)) * rows.row_stride;
    const auto v_step = static_cast<std::int64_t>(dtype_bytes(view_.v_raw_dtype)) * rows.row_stride;
    for (std::int32_t row = 0; row < rows.n_rows; row += kTileRows) {
      const RowSpan span{{rows.pos == nullptr ? nullptr : rows.pos + row, rows.first_pos + row},
                         rows.mask == nullptr ? nullptr : rows.mask + row,
                         std::min(kTileRows, rows.n_rows - row)};
      add_rows(u, span, view_.k_raw_dtype, static_cast<const std::byte*>(rows.k) + row * k_step,
               view_.v_raw_dtype, static_cast<const std::byte*>(rows.v) + row * v_step,
               rows.row_stride, scratch, state);
    }
  }

  /// The query tokens' own K and V.
  void fresh(const Unit& u, const Scratch& scratch, const PartialState& state) const noexcept {
    const std::int64_t stride = std::int64_t{view_.shape.n_kv_heads} * view_.shape.head_dim;
    const std::int64_t begin = queries_.indptr[u.seq];
    const std::int64_t end = queries_.indptr[u.seq + 1];
    for (std::int64_t t = begin; t < end; t += kTileRows) {
      const std::int64_t offset = t * stride + std::int64_t{u.head} * view_.shape.head_dim;
      const RowSpan span{{queries_.pos + t, 0},
                         nullptr,
                         static_cast<int>(std::min<std::int64_t>(kTileRows, end - t))};
      add_rows(u, span, DType::f32, queries_.k_new + offset, DType::f32, queries_.v_new + offset,
               stride, scratch, state);
    }
  }

 private:
  struct TilePair {
    TileRef<const std::byte> k;
    TileRef<const std::byte> v;
  };

  /// What a tile holds of one head; null: there is no tile.
  struct HeadPart {
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
  };

  /// Up to kTileRows rows that are not encoded.
  struct RowSpan {
    Positions positions;
    const KeepMask* masks;
    int n_rows;
  };

  TilePair tiles_at(std::int64_t stream, std::int64_t row, int head_in_page) const noexcept {
    const PageFormat& format = view_.format;
    const std::byte* base = view_.page_data(view_.page_of(stream, row));
    const int strip = static_cast<int>(row % format.page_size) / kTileRows;
    return {format.k_tile(base, strip, head_in_page), format.v_tile(base, strip, head_in_page)};
  }

  /// The first tiles of head `number`, as encoded() counts them; null where there are none.
  TilePair first_tiles(std::int64_t number) const noexcept {
    const std::int64_t seq = number / view_.shape.n_kv_heads;
    if (number < 0 || seq >= view_.n_seq) return {};
    const std::int64_t head = number % view_.shape.n_kv_heads;
    const std::int64_t span = view_.format.span;
    const std::int64_t stream = seq * view_.n_streams_per_seq() + head / span;
    if (view_.encoded_rows(stream) == 0) return {};
    return tiles_at(stream, 0, static_cast<int>(head % span));
  }

  /// The part of a tile that holds the meant head.
  static HeadPart part_of(const TileRef<const std::byte>& t, std::size_t tile_bytes,
                          int span) noexcept {
    if (t.tile == nullptr) return {};
    const std::size_t bytes = tile_bytes / static_cast<std::size_t>(span);
    const std::byte* first = t.tile + static_cast<std::size_t>(t.head) * bytes;
    return {first, first + bytes};
  }

  /// Lines that kernels with n_q queries ask for per step (cpu::Ahead), so that a pair of tiles lasts for about
  /// all steps: eight per query, 2 in scores, 2 in softmax, 4 in the sum of values.
  int pace_of(int n_q) const noexcept {
    const PageFormat& format = view_.format;
    const std::size_t bytes = format.k_tile_bytes / static_cast<std::size_t>(format.k_span) +
                              format.v_tile_bytes / static_cast<std::size_t>(format.v_span);
    const std::size_t lines = bytes / cpu::kCacheLine;
    const auto steps = static_cast<std::size_t>(8 * n_q);
    return 8 * lines <= 9 * steps ? 1 : 8 * lines <= 18 * steps ? 2 : 4;
  }

  void score_tile(const Unit& u, const TileRef<const std::byte>& t, cpu::Ahead& ahead,
                  const Scratch& scratch) const noexcept {
    const int head_dim = view_.format.head_dim;
    const AnyCodec& codec = view_.k_codec_of(u.seq, u.head);
    if (score_kernel_) {
      score_kernel_(codec, t.tile, t.head, scratch.prepared, scratch.bytes, u.n_rows, ahead,
                    scratch.scores);
    } else {
      codec.decode_tile(Side::key, head_dim, t.tile, scratch.rows);
      const std::int64_t width = std::int64_t{view_.format.k_span} * head_dim;
      table_.score_rows[static_cast<int>(DType::f32)](head_dim, scratch.rows + t.head * head_dim,
                                                      width, kTileRows, scratch.q, u.n_rows,
                                                      scratch.scores);
    }
    if (view_.k_center == nullptr) return;
    // q . k = q . (k - center) + q . center
    for (int i = 0; i < u.n_rows; ++i) {
      float* scores = scratch.scores + i * kTileRows;
      for (int row = 0; row < kTileRows; ++row) scores[row] += scratch.center[i];
    }
  }

  void add_tile(const Unit& u, const TileRef<const std::byte>& t, cpu::Ahead& ahead,
                const Scratch& scratch, const PartialState& state) const noexcept {
    const int head_dim = view_.format.head_dim;
    const AnyCodec& codec = view_.v_codec_of(u.seq, u.head);
    if (add_kernel_) {
      add_kernel_(codec, t.tile, t.head, scratch.scores, u.n_rows, ahead, state.acc);
      return;
    }
    codec.decode_tile(Side::value, head_dim, t.tile, scratch.rows);
    const std::int64_t width = std::int64_t{view_.format.v_span} * head_dim;
    table_.add_rows[static_cast<int>(DType::f32)](head_dim, scratch.rows + t.head * head_dim, width,
                                                  kTileRows, scratch.scores, u.n_rows, state.acc);
  }

  const float* center_of(const float* centers, const Unit& u) const noexcept {
    return centers + (u.seq * view_.shape.n_kv_heads + u.head) * view_.shape.head_dim;
  }

  /// What the encoded values lack of a split's sum: its weights add up to l.
  void add_center(const Unit& u, const PartialState& state) const noexcept {
    if (view_.v_center == nullptr) return;
    const int head_dim = view_.shape.head_dim;
    const float* center = center_of(view_.v_center, u);
    for (int i = 0; i < u.n_rows; ++i) {
      float* acc = state.acc + i * head_dim;
      for (int c = 0; c < head_dim; ++c) acc[c] += state.l[i] * center[c];
    }
  }

  void add_rows(const Unit& u, const RowSpan& span, DType k_type, const void* k, DType v_type,
                const void* v, std::int64_t stride, const Scratch& scratch,
                const PartialState& state) const noexcept {
    const std::uint64_t* visible = nullptr;
    if (!mask(u, span.positions, span.masks, span.n_rows, scratch, &visible)) return;
    const int head_dim = view_.shape.head_dim;
    table_.score_rows[static_cast<int>(k_type)](head_dim, k, stride, span.n_rows, scratch.q,
                                                u.n_rows, scratch.scores);
    cpu::Ahead nothing;
    softmax(u, visible, nothing, scratch, state);
    table_.add_rows[static_cast<int>(v_type)](head_dim, v, stride, span.n_rows, scratch.scores,
                                              u.n_rows, state.acc);
  }

  /// Rows of a tile that each query row sees. Returns false if none sees any; leaves *visible null
  /// if all see all 64.
  bool mask(const Unit& u, const Positions& positions, const KeepMask* masks, int n_rows,
            const Scratch& scratch, const std::uint64_t** visible) const noexcept {
    const int group = view_.shape.gqa_group();
    std::uint64_t kept_by[kMaxGqaGroup];
    for (int g = 0; g < group; ++g) kept_by[g] = rows_kept_by(masks, n_rows, g);
    std::uint64_t any = 0;
    std::uint64_t all = ~std::uint64_t{0};
    for (int t = 0; t < u.n_tokens; ++t) {
      const std::uint64_t in_view =
          visible_rows(options_, positions, n_rows, queries_.pos[u.first_token + t]);
      for (int g = 0; g < group; ++g) {
        const std::uint64_t rows = in_view & kept_by[g];
        scratch.visible[t * group + g] = rows;
        any |= rows;
        all &= rows;
      }
    }
    if (all != ~std::uint64_t{0}) *visible = scratch.visible;
    return any != 0;
  }

  void softmax(const Unit& u, const std::uint64_t* visible, cpu::Ahead& ahead,
               const Scratch& scratch, const PartialState& state) const noexcept {
    table_.softmax_tile(u.n_rows, view_.shape.head_dim, options_.sm_scale, options_.logits_soft_cap,
                        visible, ahead, scratch.scores, state.m, state.l, state.acc);
  }

  const KvView& view_;
  const Queries& queries_;
  const AttendOptions& options_;
  const cpu::Kernels& table_;
  cpu::KeyKernel score_kernel_;
  cpu::ValueKernel add_kernel_;
};

}  // namespace kvcodec
