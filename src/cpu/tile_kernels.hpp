// Which kernel reads the tiles of a codec: chosen once per call of attention, for one side each.
#pragma once

#include <cstddef>

#include "kernels.hpp"
#include "kvcodec/codec/any_codec.hpp"

namespace kvcodec::cpu {

/// How tiles are read.
enum class TileReading {
  decoded,  ///< decode_tile, then score_rows or add_rows: nothing better is there
  codec,    ///< the codec's own score_tile or add_tile
  format,   ///< a kernel of its TileFormat
  integer,  ///< the same in integers
  sketch,   ///< signs with outliers
  integer_sketch,
  codebook,
};

/// The table in use, or its part without matrices unless K and V are both multiplied in them: the
/// processor runs more slowly meanwhile, which the other kernels would pay for.
const Kernels& table_for(const AnyCodec& k_codec, const AnyCodec& v_codec, int head_dim,
                         bool integers) noexcept;

/// Scores the K tiles of a codec. In integers a KernelUnit of the table must live, here and below.
class KeyKernel {
 public:
  /// own_tables: codecs differ in their tables from head to head (KvView::k_codecs).
  /// integers: in integers where there is such a kernel.
  KeyKernel(const Kernels& table, const AnyCodec& codec, int head_dim, bool own_tables = false,
            bool integers = false) noexcept;

  /// False: decode tiles, then score_rows.
  explicit operator bool() const noexcept { return reading_ != TileReading::decoded; }
  TileReading reading() const noexcept { return reading_; }

  /// Prepared queries [n_q, query_width] from q [n_q, head_dim], as AnyCodec::prepare_query makes them.
  void widen(const AnyCodec& codec, const float* q, int n_q, float* prepared) const noexcept;

  /// Bytes that prepare() fills per query of a codec, with any kernel table; a multiple of 64.
  static std::size_t bytes_per_query(const AnyCodec& codec, int head_dim) noexcept;
  /// Fills `bytes` from q [n_q, query_width] where kernels in integers read tiles, or does nothing.
  void prepare(const AnyCodec& codec, const float* q, int n_q, std::byte* bytes) const noexcept;

  /// scores [n_q, kTileRows] = q . rows of head `head` of the tile; q [n_q, query_width] prepared
  /// queries, `bytes` what prepare() made of them and calls may change. `codec` is the one of the constructor, or one that
  /// differs in its tables. Kernels of formats ask for some of `ahead`.
  void operator()(const AnyCodec& codec, const std::byte* tile, int head, const float* q,
                  std::byte* bytes, int n_q, Ahead& ahead, float* scores) const noexcept;

 private:
  TileReading reading_ = TileReading::decoded;
  int head_dim_;
  std::size_t q_skip_ = 0;  ///< of a prepared query, before what the format multiplies with
  std::size_t q_stride_ = 0;
  ScoreFormat score_ = nullptr;
  PrepareIntegers prepare_ = nullptr;
  ScoreIntegers score_integers_ = nullptr;
  IntegerLevels levels_ = {};
  TileFormat format_;
  const Kernels& table_;
};

/// Sums the V tiles of a codec.
class ValueKernel {
 public:
  ValueKernel(const Kernels& table, const AnyCodec& codec, int head_dim, bool own_tables = false,
              bool integers = false) noexcept;

  explicit operator bool() const noexcept { return reading_ != TileReading::decoded; }
  TileReading reading() const noexcept { return reading_; }

  /// acc [n_q, head_dim] += w [n_q, kTileRows] . rows of head `head` of the tile; `ahead` as above.
  void operator()(const AnyCodec& codec, const std::byte* tile, int head, const float* w, int n_q,
                  Ahead& ahead, float* acc) const noexcept;

 private:
  TileReading reading_ = TileReading::decoded;
  int head_dim_;
  AddFormat add_ = nullptr;
  AddIntegers add_integers_ = nullptr;
  IntegerLevels levels_ = {};
  TileFormat format_;
  const Kernels& table_;
};

}  // namespace kvcodec::cpu
