// What a cache is built from: per layer and side a transform and a codec, per layer a window.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/raw.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/transform/chain.hpp"

namespace kvcodec {

/// How one side (K or V) of a layer is stored.
struct SideConfig {
  TransformChain transform;  ///< applied to every row before anything else
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
  /// Newest tokens that are never encoded; 1..65536. 1 is WKVQuant's past-only quantization. Rows
  /// leave the window kTileRows at a time, so between n_recent and n_recent + 63 wait in it.
  std::int32_t n_recent = 1;
  /// Further raw rows kept so that as many tokens can always be taken back; 0..65536.
  std::int32_t rollback_rows = 0;
};

/// A whole cache.
struct CacheConfig {
  HeadShape shape;
  std::vector<LayerConfig> layers;
  std::int32_t page_size = kTileRows;  ///< tokens per page, a multiple of kTileRows
  std::int64_t max_tokens = 0;         ///< over all sequences; sizes the page pools
  std::int32_t max_sequences = 1;      ///< open at one time
};

/// Bytes a cache or a sequence holds, by kind.
struct CacheBytes {
  std::int64_t payload = 0;   ///< pages in use, whole pages
  std::int64_t window = 0;    ///< memory reserved for sinks and recent rows
  std::int64_t tables = 0;    ///< page lists and bookkeeping
  std::int64_t n_values = 0;  ///< K and V values the sequences hold

  std::int64_t total() const noexcept { return payload + window + tables; }
  /// All bytes over all values; 0 for an empty cache.
  double bits_per_value() const noexcept {
    return n_values == 0 ? 0.0 : 8.0 * static_cast<double>(total()) / static_cast<double>(n_values);
  }
};

}  // namespace kvcodec
