// Codec "codebook": per row an index into a table of unit vectors, a magnitude and a position
// (SpindleKV, arXiv 2507.06517, section 3.4). The table grows: see codebook_table.hpp.
//
// Bytes    uint32 index [64], row r at byte 4 r; f16 magnitude [64]; int32 position [64], left out
//          with option `norope`. Little-endian. K and V tiles are alike.
// Value    V: magnitude * entry.  K: magnitude * RoPE(entry, position), where a RopeTable is bound:
//          keys enter the table before position encoding, because that is where they are alike.
// Index    0xffffffff, and every index that the table does not have: the row is 0.
// Rows     independent of each other as long as the table keeps its entries.
// Limits   magnitudes above 65504 become 65504; rows whose norm is below 2^-25 become 0.
// Size     640 bytes, 10 per row; `norope` 384 bytes, 6 per row; any head_dim. The table comes on
//          top: 2 head_dim bytes per entry (CodebookTable::bytes).
//
// The owner of rows calls CodebookTable::cover and put_rows; encode_tile alone cannot extend a
// table, it only looks up. A value is bound to one table and moves with it: bind it again whenever
// the table has grown.
#pragma once

#include "kvcodec/codec/codebook_table.hpp"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/transform/rope.hpp"

namespace kvcodec {

/// Which rows share a table.
enum class CodebookScope : std::uint8_t {
  layer,  ///< all KV heads of a layer, K and V apart
  head,   ///< one KV head
};

struct Codebook {
  static constexpr const char* family = "codebook";
  static constexpr const char* options_help =
      "t<theta>: least cosine with an entry, 0..0.9999 (default 0.98); layer or head: what shares "
      "a "
      "table (default layer); first: the first matching entry instead of the best; norope: no "
      "positions, for V";
  static constexpr bool bit_exact = false;  ///< cosines are sums

  static constexpr std::size_t kMagnitudeOffset = 4 * kTileRows;
  static constexpr std::size_t kPositionOffset = kMagnitudeOffset + kScalePlaneBytes;

  float theta = 0.98f;
  CodebookScope scope = CodebookScope::layer;
  CodebookMatch match = CodebookMatch::best;
  bool positions = true;  ///< whether tiles have the plane of positions

  // Set by bind().
  const f16* entries = nullptr;  ///< [n_entries, head_dim]
  std::uint32_t n_entries = 0;
  RopeView rope;

  static Codebook parse(const std::string& options) {
    Codebook c;
    for (const std::string& option : split_options(options)) {
      if (option == "layer" || option == "head") {
        c.scope = option == "head" ? CodebookScope::head : CodebookScope::layer;
      } else if (option == "first") {
        c.match = CodebookMatch::first;
      } else if (option == "norope") {
        c.positions = false;
      } else if (option.empty() || option[0] != 't' ||
                 !parse_float(option.substr(1), 0.0f, CodebookTable::kMaxTheta, c.theta)) {
        throw invalid_argument(bad_value(family, "option", option, options_help));
      }
    }
    return c;
  }

  std::string name() const {
    std::string text = std::string(family) + ":t" + format_float(theta);
    if (scope == CodebookScope::head) text += ":head";
    if (match == CodebookMatch::first) text += ":first";
    return positions ? text : text + ":norope";
  }

  /// An empty table with these parameters. Throws as CodebookTable does.
  CodebookTable make_table(int head_dim) const { return {head_dim, theta, match}; }

  /// This codec reading `table` as it is now, and keys turned by `rope` (null: not turned). Both must
  /// outlive the value and have the tiles' head_dim.
  Codebook bind(const CodebookTable& table, const RopeTable* rope_table) const noexcept {
    Codebook bound = *this;
    bound.entries = table.entries();
    bound.n_entries = table.n_entries();
    bound.rope = rope_table != nullptr ? rope_table->view() : RopeView{};
    return bound;
  }

  /// The arrays of a bound value (MovableTables).
  template <class F>
  void each_table(int head_dim, F&& fn) {
    fn(entries, static_cast<std::size_t>(n_entries) * static_cast<std::size_t>(head_dim));
    rope.each_table(fn);
  }

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int) const noexcept {
    return positions ? kPositionOffset + 4 * kTileRows : kPositionOffset;
  }
  /// Of rows that cover() has given their entry. How far from `high` depends on the rows alone.
  constexpr LossBounds loss(int) const noexcept {
    return {0.0, 2.0 - 2.0 * static_cast<double>(theta) + 1e-3};
  }

  /// Writes rows begin..end-1 of a tile; the others stay. index, magnitude and position hold
  /// end - begin values; position may be null when tiles have none.
  KVCODEC_HD void put_rows(int begin, int end, const std::uint32_t* index, const float* magnitude,
                           const std::int32_t* position, std::byte* tile) const noexcept {
    for (int row = begin; row < end; ++row, ++index, ++magnitude) {
      memcpy(tile + 4 * row, index, 4);
      put_scale(tile + kMagnitudeOffset, row, to_f16(clamp_finite(*magnitude, kF16Max)).bits);
      if (positions) memcpy(tile + kPositionOffset + 4 * row, position++, 4);
    }
  }
  /// Makes all rows of a tile zero rows.
  KVCODEC_HD void clear_tile(std::byte* tile) const noexcept {
    const std::uint32_t none = kNone;
    const float zero = 0.0f;
    const std::int32_t first = 0;
    for (int row = 0; row < kTileRows; ++row) put_rows(row, row + 1, &none, &zero, &first, tile);
  }
  KVCODEC_HD std::uint32_t index_of(const std::byte* tile, int row) const noexcept {
    std::uint32_t index;
    memcpy(&index, tile + 4 * row, 4);
    return index;
  }
  KVCODEC_HD float magnitude_of(const std::byte* tile, int row) const noexcept {
    return to_f32(f16{get_scale(tile + kMagnitudeOffset, row)});
  }
  /// 0 in tiles without positions.
  KVCODEC_HD std::int32_t position_of(const std::byte* tile, int row) const noexcept {
    std::int32_t position = 0;
    if (positions) memcpy(&position, tile + kPositionOffset + 4 * row, 4);
    return position;
  }

  /// Looks every row up: the entry of the largest cosine, however small, and position 0. Without
  /// entries all rows become 0. x holds keys before position encoding.
  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    return encode_parts(*this, side, head_dim, x, out);
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    decode_parts(*this, side, head_dim, in, x);
  }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    float values[kMaxHeadDim];
    double square = 0.0;
    const bool finite = load_finite(x + row * row_stride, head_dim, kF16Max, values);
    for (int c = 0; c < head_dim; ++c) {
      square += static_cast<double>(values[c]) * static_cast<double>(values[c]);
    }
    const float magnitude = static_cast<float>(sqrt(square));
    const bool zero = n_entries == 0 || to_f16(magnitude).bits == 0;
    const std::uint32_t index = zero ? kNone : nearest_entry(head_dim, values);
    const float stored = zero ? 0.0f : magnitude;
    const std::int32_t position = 0;
    put_rows(row, row + 1, &index, &stored, &position, own_bytes(out));
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    x += row * row_stride;
    load_row(side, head_dim, in, row, x);
    const float magnitude = magnitude_of(in, row);
    for (int c = 0; c < head_dim; ++c) x[c] *= magnitude;
  }

  /// The magnitude scales the score, not the row.
  KVCODEC_HD void score_tile(int head_dim, const std::byte* tile, int, const float* q, int n_q,
                             float* scores) const noexcept {
    float key[kMaxHeadDim];
    for (int row = 0; row < kTileRows; ++row) {
      load_row(Side::key, head_dim, tile, row, key);
      const float magnitude = magnitude_of(tile, row);
      for (int i = 0; i < n_q; ++i) {
        scores[i * kTileRows + row] = magnitude * dot(head_dim, q + i * head_dim, key);
      }
    }
  }

  /// Sums the weights of the rows that share an entry, then multiplies once per entry.
  KVCODEC_HD void add_tile(int head_dim, const std::byte* tile, int, const float* w, int n_q,
                           float* acc) const noexcept {
    int next[kTileRows];  // the next row with the same index, or -1
    bool first[kTileRows];
    link_rows(tile, next, first);
    float magnitude[kTileRows];
    for (int row = 0; row < kTileRows; ++row) magnitude[row] = magnitude_of(tile, row);
    float entry[kMaxHeadDim];
    for (int row = 0; row < kTileRows; ++row) {
      if (!first[row] || index_of(tile, row) >= n_entries) continue;
      load_row(Side::value, head_dim, tile, row, entry);
      for (int i = 0; i < n_q; ++i) {
        float sum = 0.0f;
        for (int r = row; r >= 0; r = next[r]) sum += w[i * kTileRows + r] * magnitude[r];
        float* to = acc + i * head_dim;
        for (int c = 0; c < head_dim; ++c) to[c] += sum * entry[c];
      }
    }
  }

  KVCODEC_HD void copy_rows(Side, int, const std::byte* from, std::byte* to, int begin,
                            int end) const noexcept {
    const auto copy = [&](std::size_t plane, int bytes) {
      memcpy(to + plane + bytes * begin, from + plane + bytes * begin,
             static_cast<std::size_t>(bytes * (end - begin)));
    };
    copy(0, 4);
    copy(kMagnitudeOffset, 2);
    if (positions) copy(kPositionOffset, 4);
  }

 private:
  static constexpr std::uint32_t kNone = CodebookTable::kNone;

  /// A finite f16 as f32, exact and without branches: for loops over entries.
  KVCODEC_HD static float entry_value(f16 h) noexcept {
    const auto bits = static_cast<std::uint32_t>(h.bits);
    return bit_cast<float>((bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13) * 0x1p112f;
  }

  /// x [head_dim] <- the unit vector of a row, turned to its position if it is a key; 0 without one.
  KVCODEC_HD void load_row(Side side, int head_dim, const std::byte* tile, int row,
                           float* x) const noexcept {
    const std::uint32_t index = index_of(tile, row);
    if (index >= n_entries) {
      for (int c = 0; c < head_dim; ++c) x[c] = 0.0f;
      return;
    }
    const f16* entry =
        entries + static_cast<std::size_t>(index) * static_cast<std::size_t>(head_dim);
    for (int c = 0; c < head_dim; ++c) x[c] = entry_value(entry[c]);
    if (side == Side::key && positions && rope) rope.rotate(position_of(tile, row), x);
  }

  /// Chains of rows with the same index.
  KVCODEC_HD void link_rows(const std::byte* tile, int* next, bool* first) const noexcept {
    for (int row = 0; row < kTileRows; ++row) first[row] = true;
    for (int row = 0; row < kTileRows; ++row) {
      next[row] = -1;
      const std::uint32_t index = index_of(tile, row);
      for (int r = row + 1; r < kTileRows && next[row] < 0; ++r) {
        if (index_of(tile, r) == index) next[row] = r;
      }
      if (next[row] >= 0) first[next[row]] = false;
    }
  }

  /// Eight sums side by side, in a fixed order.
  KVCODEC_HD static float dot(int n, const float* a, const float* b) noexcept {
    float sum[8] = {};
    int c = 0;
    for (; c + 8 <= n; c += 8) {
      for (int j = 0; j < 8; ++j) sum[j] += a[c + j] * b[c + j];
    }
    for (; c < n; ++c) sum[c % 8] += a[c] * b[c];
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
  }

  KVCODEC_HD std::uint32_t nearest_entry(int head_dim, const float* x) const noexcept {
    std::uint32_t nearest = 0;
    float best = -kF32Max;
    for (std::uint32_t e = 0; e < n_entries; ++e) {
      float entry[kMaxHeadDim];
      for (int c = 0; c < head_dim; ++c) {
        entry[c] =
            entry_value(entries[static_cast<std::size_t>(e) * static_cast<std::size_t>(head_dim) +
                                static_cast<std::size_t>(c)]);
      }
      // Entries have length 1 up to their rounding, which must not decide between two of them.
      const float cosine = dot(head_dim, x, entry) / sqrtf(dot(head_dim, entry, entry));
      if (cosine > best) {
        best = cosine;
        nearest = e;
      }
    }
    return nearest;
  }
};

static_assert(PartedCodec<Codebook> && RowCodec<Codebook> && ScoringCodec<Codebook> &&
              SummingCodec<Codebook> && MovableTables<Codebook>);

}  // namespace kvcodec
