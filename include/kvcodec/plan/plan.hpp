// Plans: what to store how, as text or JSON, turned into a CacheConfig.
//
// Text     section [; section ...]
//          section = [layers :] key = value [, key = value ...]
//          layers  = 3  |  0-1  |  4-   (from 4 to the last)    no layers: all of them
//          A later section changes only the keys it names.
// Keys     k, v      [mean+][transform+...]codec, e.g. k=mean+hadamard+nqkv:g64
//          kv        both sides
//          sink      first tokens that stay raw             (default 0)
//          recent    newest tokens that stay raw            (default 32)
//          flush     tokens that leave the window together  (default 64)
//          policy    which tokens stay at all: lagkv:l128:r0.5, snapkv:r0.25, none
//          rollback  further raw tokens to take back        (default 0)
//          kraw, vraw, raw   f32, f16, bf16: type of raw rows (default: by codec)
//          page      tokens per page, all layers            (default 64)
//          calibration  file of static shifts, scales and clips, for the transform "affine"
//          rope         base of the rotary frequencies, for codebooks of keys (default: the engine's)
// JSON     {"k": ..., "recent": ..., "page": ..., "layers": {"0-1": {"v": ...}}}, the same keys.
//
// Names    a plan of named_plans.hpp by its name alone: "qjl-3.03"
//
// Example  "k=hadamard+nqkv:g64,v=nqsym:g64,recent=32,sink=4;0-1:kv=int8"
#pragma once

#include <cstdint>
#include <string>

#include "kvcodec/cache/cache_config.hpp"

namespace kvcodec {

/// Newest tokens that stay raw where a plan does not say.
inline constexpr std::int32_t kDefaultRecent = 32;

/// Builds the configuration of a cache from a plan.
///
/// n_layers: 1..65536; max_tokens and max_sequences as in CacheConfig. Layers without a codec for
/// K or V are an error. Throws invalid_argument naming the part of the plan that is wrong and what
/// exists: keys, codecs, transforms, options or layers.
CacheConfig make_cache_config(const std::string& plan, const HeadShape& shape,
                              std::int32_t n_layers, std::int64_t max_tokens,
                              std::int32_t max_sequences = 1);

/// The plan of a configuration as text that make_cache_config reads back.
std::string to_plan(const CacheConfig& config);

/// One line per codec, transform and key: what a plan may say.
std::string plan_help();

}  // namespace kvcodec
