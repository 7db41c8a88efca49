// A cache of one layer whose codecs are chosen at compile time.
#pragma once

#include <utility>

#include "kvcodec/cache/cache.hpp"

namespace kvcodec {

/// One layer with codecs fixed by type; a codec of your own works here without being on any list.
///
/// `cache()` is an ordinary Cache with a single layer 0, so attend() and everything else take it.
template <Codec KeyCodec, Codec ValueCodec>
class LayerCache {
 public:
  /// window.k.codec and window.v.codec are ignored. Throws as Cache does.
  LayerCache(HeadShape shape, std::int64_t max_tokens, LayerConfig window = {}, KeyCodec k = {},
             ValueCodec v = {}, std::int32_t max_sequences = 1)
      : cache_(make_config(shape, max_tokens, window, k, v, max_sequences)) {}

  Cache& cache() noexcept { return cache_; }
  const Cache& cache() const noexcept { return cache_; }

  SeqId open() { return cache_.open(); }
  void close(SeqId seq) { cache_.close(seq); }
  void append(SeqId seq, const AnyRows& k, const AnyRows& v) { cache_.append(seq, 0, k, v); }

 private:
  static CacheConfig make_config(HeadShape shape, std::int64_t max_tokens, LayerConfig layer,
                                 KeyCodec k, ValueCodec v, std::int32_t max_sequences) {
    layer.k.codec = k;
    layer.v.codec = v;
    CacheConfig config;
    config.shape = shape;
    config.layers = {layer};
    config.max_tokens = max_tokens;
    config.max_sequences = max_sequences;
    return config;
  }

  Cache cache_;
};

}  // namespace kvcodec
