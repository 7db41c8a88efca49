// Codec "qjl" (keys only): the signs of m random projections of a key, and its norm.
//
// Source   QJL, arXiv 2406.03482: Definition 3.1, Algorithm 1; outlier channels: section 4.
// Estimate q.k ~ sqrt(pi/2) / m * |k| * sum_i (s_i . q) * h_i,  h_i = +1 if s_i . k > 0, else -1.
//          The query is projected, not quantized. S: qjl_projection.hpp; the mean of the estimate is
//          q.k with a Gaussian S and qjl_bias(head_dim) * q.k with an orthogonal one ("cd" divides).
// Outliers o channels O are taken out of the key: k = k_in + k_out. Which ones is chosen by the
//          largest sum of squares over rows, ties to the lower channel:
//            (default)  anew for every 32 tokens, as the released code does
//            tile       for the 64 tokens of a tile
//            fixed      once per sequence and head, as the paper says: by the first tile, whose list
//                       all later tiles repeat (encode_tile_after). By its 64 tokens and not by the
//                       whole prompt: a tile is encoded when its rows leave the window, before
//                       anybody knows where the prompt ends, and must not depend on how the tokens
//                       were cut into appends. A prompt below 64 tokens is helped out by the answer
//            exact      anew for every 32 tokens; their values are stored as f16, not sketched
//          Sketched, k_out has mo signs of its own from rows 0..mo-1 of the same S (the two parts
//          touch different coordinates, so they stay independent), and the estimate is the sum of
//            sqrt(pi/2) / m  * |k_in|  * sum_{i<m}  (s_i . q_in)  h_i     q_in: q without O
//            sqrt(pi/2) / mo * |k_out| * sum_{i<mo} (s_i . q_out) h'_i.
//          Exact, it is q_out . f16(k_out) plus the first term with q itself for q_in: still
//          unbiased, since E is k_in . q, with |q| for |q_in| in its variance.
// Signs    1 where the projection is > 0; a zero projection is 0 (-1). Products are exact in float64
//          and their sum is float64, so a bit can differ only where |s.k| < 1e-14 |s| |k|.
// Bytes    m signs per key as a K plane of 1-bit codes [64 keys, m] (tile_layout.hpp; get(row, i) is
//          projection i); then, with sketched outliers, a plane of mo signs; one plane of f16 |k_in|;
//          with sketched outliers one of f16 |k_out|, with exact ones o planes of f16 values, one per
//          outlier in the order of the list; then the list of outlier channels, one byte each,
//          ascending, 32-token groups in order, zero bytes up to a multiple of 16.
//          The two norms are stored, never subtracted: sqrt(|k|^2 - |k_out|^2) of f16 norms loses
//          percents of |k_in| or is NaN. Without outliers their term does not exist (no 0 / 0).
// Size     8 m + 128, + 8 mo + 128 + round16(2 o) sketched (tile, fixed: o for 2 o), or + 128 o
//          + round16(2 o) exact. Bytes per key: m / 8 + 2, + mo / 8 + 2 + o / 32. m = 256: 34, 2.125 bits at 128.
// Limits   |x| above 65504 is clamped to it, and so is a norm. Norms below 2^-25 become 0.
// Decode   the vector whose product with q is the estimate: large error, no use as a key by itself.
#pragma once

#include <cmath>

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/qjl_outliers.hpp"
#include "kvcodec/codec/qjl_projection.hpp"
#include "kvcodec/codec/qjl_signs.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec {

/// Which channels are outliers and how they are stored.
enum class QjlOutliers : std::uint8_t { group, tile, fixed, exact };

struct Qjl {
  static constexpr const char* family = "qjl";
  static constexpr const char* options_help =
      "m<signs>: 64..1024 in steps of 32 (default 256); o<outlier channels>: 0..32 (default 0); "
      "mo<signs of the outliers>: 32..m in steps of 32 (default m); tile, fixed or exact: outliers "
      "per tile, per head, or stored as f16; gauss: independent rows; cd: no bias; "
      "s<seed>: 1..65535 (default 1)";
  static constexpr bool bit_exact = true;
  static constexpr bool key_only = true;
  static constexpr int kGroupTokens = 32;  ///< tokens that share outlier channels
  static constexpr int kMaxOutliers = 32;
  static constexpr float kHalfPiRoot = 1.2533141373155003f;  ///< sqrt(pi / 2)

  QjlTables table;  ///< at least sketch_dim rows; set by load_tables or with_projection
  std::uint32_t seed = 1;
  float constant = kHalfPiRoot;  ///< sqrt(pi / 2), over c_d with "cd" once tables are loaded
  std::int16_t sketch_dim = 256;
  std::int16_t outlier_channels = 0;
  std::int16_t outlier_sketch_dim = 256;  ///< of no meaning without sketched outliers
  QjlOutliers outliers = QjlOutliers::group;
  QjlKind kind = QjlKind::orthogonal;
  bool unbiased = false;          ///< "cd"
  bool given_projection = false;  ///< the table is the caller's

  static Qjl parse(const std::string& options);
  std::string name() const;

  /// Makes the value refer to the process-wide S of its parameters; keeps a caller's own.
  void load_tables(int head_dim) {
    if (!given_projection) {
      table = QjlProjection::shared(seed, sketch_dim, head_dim, kind).tables();
    }
    constant = static_cast<float>(1.2533141373155003 / (unbiased ? qjl_bias(head_dim) : 1.0));
  }

  /// S in both layouts (MovableTables); null where it has not been loaded.
  template <class F>
  void each_table(int head_dim, F&& fn) {
    const int rows = table.sketch_dim > sketch_dim ? table.sketch_dim : sketch_dim;
    const auto n = static_cast<std::size_t>(rows * head_dim);
    fn(table.rows, n);
    fn(table.columns, n);
  }

  /// The codec with rows 0..sketch_dim-1 of a projection that the caller keeps alive; for its
  /// head_dim only. Throws invalid_argument if it has fewer rows.
  Qjl with_projection(const QjlProjection& projection) const;

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0 &&
           (!given_projection || head_dim == table.head_dim);
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int) const noexcept {
    return channel_offset() +
           (static_cast<std::size_t>(n_sets() * outlier_channels) + 15) / 16 * 16;
  }
  /// See tile_format.hpp: the signs of a prepared query's sketch. With outliers there is none.
  bool tile_format(Side, int, TileFormat& f) const noexcept {
    if (outlier_channels > 0) return false;
    f = {TileFormat::Level::table,
         1,
         sketch_dim,
         sketch_dim,
         static_cast<std::uint32_t>(norm_offset()),
         0,
         constant / static_cast<float>(sketch_dim),
         {-1.0f, 1.0f}};
    return true;
  }
  LossBounds loss(int head_dim) const noexcept;

  /// Whether the outliers have signs and a norm of their own.
  KVCODEC_HD constexpr bool sketches_outliers() const noexcept {
    return outlier_channels > 0 && outliers != QjlOutliers::exact;
  }
  KVCODEC_HD constexpr TileLayout signs() const noexcept { return {Side::key, 1, sketch_dim}; }
  KVCODEC_HD constexpr TileLayout outlier_signs() const noexcept {
    return {Side::key, 1, sketches_outliers() ? outlier_sketch_dim : 0};
  }
  KVCODEC_HD constexpr std::size_t outlier_sign_offset() const noexcept {
    return signs().plane_bytes();
  }
  KVCODEC_HD constexpr std::size_t norm_offset() const noexcept {
    return outlier_sign_offset() + outlier_signs().plane_bytes();
  }
  /// Offset of the plane of |k_out|, or of the first plane of exact values.
  KVCODEC_HD constexpr std::size_t outlier_offset() const noexcept {
    return norm_offset() + kScalePlaneBytes;
  }
  KVCODEC_HD constexpr std::size_t channel_offset() const noexcept {
    const int n = outliers == QjlOutliers::exact ? outlier_channels : sketches_outliers() ? 1 : 0;
    return outlier_offset() + kScalePlaneBytes * static_cast<std::size_t>(n);
  }
  /// Lists of outlier channels in a tile, and rows that share one.
  KVCODEC_HD constexpr int n_sets() const noexcept { return kTileRows / set_rows(); }
  KVCODEC_HD constexpr int set_rows() const noexcept {
    const bool one_set = outliers == QjlOutliers::tile || outliers == QjlOutliers::fixed;
    return one_set ? kTileRows : kGroupTokens;
  }
  /// Outlier channels [outlier_channels], ascending, of the rows of one set of a tile.
  template <class Byte>
  KVCODEC_HD Byte* channels_of(Byte* tile, int set) const noexcept {
    return tile + channel_offset() + static_cast<std::size_t>(set * outlier_channels);
  }

  /// What the sum over `n_signs` signs of a row is multiplied with: sqrt(pi / 2) / n_signs * norm, the norm
  /// from `plane` = norm_offset() or, for sketched outliers, outlier_offset().
  KVCODEC_HD float weight_of(const std::byte* tile, std::size_t plane, int row,
                             int n_signs) const noexcept {
    return constant / static_cast<float>(n_signs) * to_f32(f16{get_scale(tile + plane, row)});
  }
  /// The stored value of the outlier-th channel of a row's list, with exact outliers.
  KVCODEC_HD float exact_value(const std::byte* tile, int row, int outlier) const noexcept {
    const std::size_t plane =
        outlier_offset() + kScalePlaneBytes * static_cast<std::size_t>(outlier);
    return to_f32(f16{get_scale(tile + plane, row)});
  }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  /// A row. Every row chooses the outliers of its set, the set's first one writes them down.
  template <class Out>
  KVCODEC_HD bool encode_part(Side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    const int first = row / set_rows() * set_rows();
    std::byte channels[kMaxOutliers];
    if (outlier_channels > 0) {
      qjl_choose_outliers(head_dim, set_rows(), x + first * row_stride, row_stride,
                          outlier_channels, channels);
    }
    return encode_row(head_dim, x + row * row_stride, row, channels, row == first, own_bytes(out));
  }

  /// encode_tile_after in parts.
  template <class Out>
  KVCODEC_HD bool encode_part_after(Side side, int head_dim, const std::byte* first_tile,
                                    const float* x, int row_stride, int row,
                                    Out out) const noexcept {
    if (outliers != QjlOutliers::fixed) {
      return encode_part(side, head_dim, x, row_stride, row, out);
    }
    return encode_row(head_dim, x + row * row_stride, row, channels_of(first_tile, 0), row == 0,
                      own_bytes(out));
  }

  KVCODEC_HD void decode_part(Side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    float* y = x + row * row_stride;
    qjl_signed_sum(signs(), table, in, row, y);
    const float weight = weight_of(in, norm_offset(), row, sketch_dim);
    float special[kMaxOutliers];
    outlier_values(in, row, y, weight, special);
    for (int c = 0; c < head_dim; ++c) y[c] *= weight;
    const std::byte* channels = channels_of(in, row / set_rows());
    for (int j = 0; j < outlier_channels; ++j) y[static_cast<int>(channels[j])] = special[j];
  }

  /// What the tile says of a row besides its signs: norms and exact values. x [head_dim] is finite and
  /// has its outliers, channels [outlier_channels], set to zero: the signs are those of what remains.
  /// Returns the norm of that before it is rounded.
  KVCODEC_HD float encode_magnitudes(int head_dim, float* x, int row, const std::byte* channels,
                                     std::byte* tile) const noexcept {
    const double taken_square = take_outliers(x, row, channels, tile);
    if (sketches_outliers()) put_norm(tile, outlier_offset(), row, taken_square);
    double square = 0.0;
    for (int c = 0; c < head_dim; ++c) {
      square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    }
    put_norm(tile, norm_offset(), row, square);
    return static_cast<float>(sqrt(square));
  }

  /// Sets the outliers of a row x [head_dim] to zero; exact values go to the tile. Returns the sum of
  /// their squares.
  KVCODEC_HD double take_outliers(float* x, int row, const std::byte* channels,
                                  std::byte* tile) const noexcept {
    double taken_square = 0.0;
    for (int j = 0; j < outlier_channels; ++j) {
      const auto c = static_cast<int>(channels[j]);
      taken_square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
      if (outliers == QjlOutliers::exact) {
        std::byte* plane = tile + outlier_offset() + kScalePlaneBytes * static_cast<std::size_t>(j);
        put_scale(plane, row, to_f16(x[c]).bits);
      }
      x[c] = 0.0f;
    }
    return taken_square;
  }

  /// Stores a row's norm in `plane` = norm_offset() or outlier_offset().
  KVCODEC_HD void put_norm(std::byte* tile, std::size_t plane, int row,
                           double square) const noexcept {
    put_scale(tile + plane, row,
              to_f16(clamp_finite(static_cast<float>(sqrt(square)), kF16Max)).bits);
  }

  /// Zeroes the lists of outliers and the padding behind them.
  KVCODEC_HD void clear_channels(int head_dim, std::byte* tile) const noexcept {
    const std::size_t end = tile_bytes(head_dim);
    for (std::size_t i = channel_offset(); i < end; ++i) tile[i] = std::byte{0};
  }

  // The parts one after the other, with one choice of outliers for the rows of a set.
  KVCODEC_HD bool encode_tile(Side, int head_dim, const float* x, std::byte* out) const noexcept {
    clear_channels(head_dim, out);
    bool finite = true;
    std::byte channels[kMaxOutliers];
    for (int row = 0; row < kTileRows; ++row) {
      const bool first = row % set_rows() == 0;
      if (first && outlier_channels > 0) {
        qjl_choose_outliers(head_dim, set_rows(), x + row * head_dim, head_dim, outlier_channels,
                            channels);
      }
      finite &= encode_row(head_dim, x + row * head_dim, row, channels, first, out);
    }
    return finite;
  }

  /// With `fixed`: the outlier channels are those of the head's first tile.
  KVCODEC_HD bool encode_tile_after(Side side, int head_dim, const std::byte* first_tile,
                                    const float* x, std::byte* out) const noexcept {
    if (outliers != QjlOutliers::fixed) return encode_tile(side, head_dim, x, out);
    clear_channels(head_dim, out);
    bool finite = true;
    for (int row = 0; row < kTileRows; ++row) {
      finite &= encode_part_after(side, head_dim, first_tile, x, head_dim, row, out);
    }
    return finite;
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    decode_parts(*this, side, head_dim, in, x);
  }

  /// A prepared query: q, then S q.
  KVCODEC_HD constexpr int query_width(int head_dim) const noexcept {
    return head_dim + sketch_dim;
  }
  KVCODEC_HD void prepare_query(int head_dim, const float* q, float* prepared) const noexcept {
    for (int c = 0; c < head_dim; ++c) prepared[c] = q[c];
    float* sketch = prepared + head_dim;
    for (int i = 0; i < sketch_dim; ++i) sketch[i] = 0.0f;
    for (int c = 0; c < head_dim; ++c) add_column(c, q[c], sketch_dim, sketch);
  }

  KVCODEC_HD void score_tile(int head_dim, const std::byte* tile, int, const float* q, int n_q,
                             float* scores) const noexcept {
    const int width = query_width(head_dim);
    for (int i = 0; i < n_q; ++i) {
      score_query(head_dim, tile, q + i * width, scores + i * kTileRows);
    }
  }

 private:
  /// x [head_dim], channels [outlier_channels]; the list itself is written where `lists` says so.
  KVCODEC_HD bool encode_row(int head_dim, const float* x, int row, const std::byte* channels,
                             bool lists, std::byte* tile) const noexcept {
    float in[kMaxHeadDim];
    const bool finite = load_finite(x, head_dim, kF16Max, in);
    if (sketches_outliers()) {
      float taken[kMaxHeadDim];
      for (int c = 0; c < head_dim; ++c) taken[c] = 0.0f;
      for (int j = 0; j < outlier_channels; ++j) {
        const auto c = static_cast<int>(channels[j]);
        taken[c] = in[c];
      }
      qjl_put_signs(outlier_signs(), table, taken, tile + outlier_sign_offset(), row);
    }
    encode_magnitudes(head_dim, in, row, channels, tile);
    qjl_put_signs(signs(), table, in, tile, row);
    if (!lists) return finite;
    std::byte* list = channels_of(tile, row / set_rows());
    for (int j = 0; j < outlier_channels; ++j) list[j] = channels[j];
    return finite;
  }

  KVCODEC_HD void add_column(int channel, float factor, int n, float* sum) const noexcept {
    const float* column = table.columns + static_cast<std::ptrdiff_t>(channel) * table.sketch_dim;
    for (int i = 0; i < n; ++i) sum[i] += factor * column[i];
  }

  /// Decoded values [outlier_channels] of a row's outliers; sum [head_dim] of its inlier signs.
  KVCODEC_HD void outlier_values(const std::byte* tile, int row, const float* sum, float weight,
                                 float* values) const noexcept {
    const std::byte* channels = channels_of(tile, row / set_rows());
    if (sketches_outliers()) {
      qjl_signed_sum_at(outlier_signs(), table, tile + outlier_sign_offset(), row, channels,
                        outlier_channels, values);
      const float own_weight = weight_of(tile, outlier_offset(), row, outlier_sketch_dim);
      for (int j = 0; j < outlier_channels; ++j) values[j] *= own_weight;
      return;
    }
    for (int j = 0; j < outlier_channels; ++j) {  // in float64 the product is exact, fused or not
      const auto product =
          static_cast<double>(sum[static_cast<int>(channels[j])]) * static_cast<double>(weight);
      values[j] = static_cast<float>(product + static_cast<double>(exact_value(tile, row, j)));
    }
  }

  KVCODEC_HD void score_query(int head_dim, const std::byte* tile, const float* q,
                              float* scores) const noexcept {
    float sketch[kMaxSketchDim];
    float outlier_sketch[kMaxSketchDim];
    for (int first = 0; first < kTileRows; first += kLanes) {
      const std::byte* channels = channels_of(tile, first / set_rows());
      if (sketches_outliers() && first % set_rows() == 0) {
        for (int i = 0; i < sketch_dim; ++i) outlier_sketch[i] = 0.0f;
        for (int j = 0; j < outlier_channels; ++j) {
          const auto c = static_cast<int>(channels[j]);
          add_column(c, q[c], sketch_dim, outlier_sketch);
        }
        for (int i = 0; i < sketch_dim; ++i) sketch[i] = q[head_dim + i] - outlier_sketch[i];
      }
      const float* used = sketches_outliers() ? sketch : q + head_dim;
      float sum[kLanes];
      qjl_flip_sum(signs(), tile, first, used, sum);
      for (int lane = 0; lane < kLanes; ++lane) {
        scores[first + lane] = weight_of(tile, norm_offset(), first + lane, sketch_dim) * sum[lane];
      }
      if (sketches_outliers()) {
        qjl_flip_sum(outlier_signs(), tile + outlier_sign_offset(), first, outlier_sketch, sum);
        for (int lane = 0; lane < kLanes; ++lane) {
          scores[first + lane] +=
              weight_of(tile, outlier_offset(), first + lane, outlier_sketch_dim) * sum[lane];
        }
        continue;
      }
      for (int j = 0; j < outlier_channels; ++j) {
        const float factor = q[static_cast<int>(channels[j])];
        for (int lane = 0; lane < kLanes; ++lane) {
          scores[first + lane] += factor * exact_value(tile, first + lane, j);
        }
      }
    }
  }
};

static_assert(PreparingCodec<Qjl> && TableCodec<Qjl> && ContinuingParts<Qjl> &&
              MovableTables<Qjl> && is_key_only<Qjl>());

}  // namespace kvcodec
