// One layer of a cache: what its sequences share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/cache/cache_stats.hpp"
#include "kvcodec/cache/window_rule.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/page/page_format.hpp"

namespace kvcodec {

struct LayerInfo {
  HeadShape shape;
  LayerConfig config;
  PageFormat format;
  DType k_dtype = DType::f16;
  DType v_dtype = DType::f16;
  std::size_t pool = 0;  ///< index into the cache's pools
  std::int32_t index = 0;
  std::int32_t n_layers = 1;
  const RopeTable* rope = nullptr;  ///< for codebooks of keys; null: keys come without rotation
  bool stages_rows = false;  ///< rows pass through StagedRows, and pages list their positions

  int n_streams() const noexcept { return shape.n_kv_heads / format.span; }
  const SideConfig& side(Side s) const noexcept { return s == Side::key ? config.k : config.v; }
  DType raw_dtype(Side s) const noexcept { return s == Side::key ? k_dtype : v_dtype; }

  /// The side's codec if it is a codebook.
  const Codebook* book(Side s) const noexcept { return side(s).codec.as<Codebook>(); }
  /// The query heads of a group that exist.
  KeepMask group_mask() const noexcept {
    return static_cast<KeepMask>((std::uint32_t{1} << shape.gqa_group()) - 1u);
  }
  bool judges_at_prompt() const noexcept {
    return static_cast<bool>(config.policy) && config.policy.chunk_rows() == 0;
  }
  /// Newest rows that stay raw when rows leave the window.
  std::int64_t keep() const noexcept {
    const std::int64_t window = std::int64_t{config.n_recent} + config.rollback_rows;
    return config.policy ? std::max<std::int64_t>(window, config.policy.lookahead_rows()) : window;
  }
  /// Rows that leave the window together.
  std::int64_t leaving() const noexcept {
    return config.policy && !judges_at_prompt() ? config.policy.chunk_rows() : config.flush_rows;
  }
  /// Rows the recent window holds at most, once nothing waits for a center or the end of the prompt.
  std::int64_t capacity() const noexcept { return keep() + leaving(); }
  /// Of layers without staged rows.
  WindowRule rule() const noexcept { return {keep(), config.flush_rows}; }
};

/// Layer `index` of a configuration, its codecs with tables. Throws as Cache does, about this layer.
/// Not filled in: pool, rope.
LayerInfo make_layer(const CacheConfig& config, std::size_t index);

/// Throws invalid_argument unless low <= value <= high.
void check_range(const std::string& where, const char* name, std::int64_t value, std::int64_t low,
                 std::int64_t high);

/// Working memory of appends; one per cache.
struct AppendScratch {
  std::vector<float> row;            ///< [head_dim]
  std::vector<float> rows;           ///< [kTileRows, kMaxTileWidth]
  std::vector<std::byte> tile;       ///< the largest tile of the cache
  std::vector<float> judged_k;       ///< [chunk + lookahead, head_dim] of the largest policy
  std::vector<float> judged_v;       ///< the same
  std::vector<KeepMask> judgement;   ///< [n_kv_heads, chunk]
  std::vector<std::int64_t> n_rows;  ///< [n_kv_heads]

  // Counters of all its layers and sequences, see CacheStats.
  CallTimes flush;
  std::int64_t tiles_encoded = 0;
};

}  // namespace kvcodec
