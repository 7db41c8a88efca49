// What a cache is built from: per layer and side a transform and a codec, per layer a window.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/raw.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/policy/policy.hpp"
#include "kvcodec/transform/chain.hpp"

namespace kvcodec {

/// What is subtracted from the rows of a head before they are encoded, and added back exactly: q .
/// center to the scores of encoded keys, the center to the sum of encoded values. Rows that are not
/// encoded stay whole, so soft caps, sink logits, LSE and merges are exact as well.
struct Centering {
  enum class Kind : std::uint8_t {
    none,
    prompt,  ///< the mean of the sequence's first n_rows rows (sinks not counted)
    fixed,   ///< `values`
  };
  Kind kind = Kind::none;
  /// For prompt: 1..2^30. Rows wait raw until so many are there or the prompt is declared complete.
  std::int32_t n_rows = 256;
  /// For fixed: [n_kv_heads, head_dim] in the model's own space; kept alive by the caller or by
  /// CacheConfig::tables.
  const float* values = nullptr;
};

/// How one side (K or V) of a layer is stored.
struct SideConfig {
  TransformChain transform;  ///< applied to every row before anything else
  Centering center;          ///< between transform and codec
  AnyCodec codec;            ///< required
  /// Storage type of rows that are not encoded (sinks, recent); unset: default_raw_dtype(codec).
  std::optional<DType> raw_dtype;
};

/// f32 for codec "f32", bf16 for "bf16", f16 for all others: what the codec can tell apart.
inline DType default_raw_dtype(const AnyCodec& codec) noexcept {
  if (codec.as<RawF32>() != nullptr) return DType::f32;
  return codec.as<RawBf16>() != nullptr ? DType::bf16 : DType::f16;
}

/// One layer.
struct LayerConfig {
  SideConfig k;
  SideConfig v;
  /// First tokens of a sequence that are never encoded; 0..65536.
  std::int32_t n_sink = 0;
  /// Newest tokens that are never encoded; 0..65536. Rows leave the window flush_rows at a time, so
  /// between n_recent and n_recent + flush_rows - 1 wait in it. With 0 the current token is still
  /// exact where a step hands it over by Step::k_new (WKVQuant's past-only quantization).
  std::int32_t n_recent = 1;
  /// Tokens that leave the window together: a multiple of kTileRows up to 65536. n_recent = 0 with
  /// flush_rows = 128 is the rule of KIVI's and QJL's keys: all but the last n mod 128 are encoded.
  std::int32_t flush_rows = kTileRows;
  /// Further raw rows kept so that as many tokens can always be taken back; 0..65536.
  std::int32_t rollback_rows = 0;
  /// Which rows stay at all; empty: every row. Rows that a policy judges are raw until then.
  AnyPolicy policy;
};

/// A whole cache.
struct CacheConfig {
  HeadShape shape;
  std::vector<LayerConfig> layers;
  std::int32_t page_size = kTileRows;  ///< tokens per page, a multiple of kTileRows
  std::int64_t max_tokens = 0;         ///< over all sequences; sizes the page pools
  std::int32_t max_sequences = 1;      ///< open at one time
  /// [head_dim / 2] radians per position by which the engine rotates the pair (i, i + head_dim / 2)
  /// of keys. Codebooks keep keys unrotated and need it; empty: keys come without rotation.
  std::vector<double> rope_frequencies;
  /// Keeps alive what transforms and centers point to.
  std::shared_ptr<const void> tables;
  std::string calibration;  ///< file that the tables were read from, as plans name it
};

/// Bytes a cache or a sequence holds, by kind.
struct CacheBytes {
  std::int64_t payload = 0;   ///< pages in use, whole pages
  std::int64_t window = 0;    ///< memory reserved for sinks, recent rows and kept rows on their way
  std::int64_t tables = 0;    ///< page lists, positions, centers and bookkeeping
  std::int64_t n_values = 0;  ///< K and V values that were appended, evicted ones included

  std::int64_t total() const noexcept { return payload + window + tables; }
  /// All bytes over all values; 0 for an empty cache.
  double bits_per_value() const noexcept {
    return n_values == 0 ? 0.0 : 8.0 * static_cast<double>(total()) / static_cast<double>(n_values);
  }
};

}  // namespace kvcodec
