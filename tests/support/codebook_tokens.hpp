// Tokens for caches with codebooks: keys that are alike before position encoding, turned to their
// positions by a RoPE of the tests' own.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/support/cache_tools.hpp"
#include "tests/support/codebook_rows.hpp"

namespace kvcodec::test {

/// Turns the pairs (i, i + head_dim / 2) of one row by pos * frequency, in f64. Without frequencies
/// the row stays.
inline void turn_row(const std::vector<double>& frequencies, std::int64_t pos, float* x) {
  const std::size_t half = frequencies.size();
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(pos) * frequencies[i];
    const auto a = static_cast<double>(x[i]);
    const auto b = static_cast<double>(x[half + i]);
    x[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
    x[half + i] = static_cast<float>(a * std::sin(angle) + b * std::cos(angle));
  }
}

/// Tokens with these rows [n, n_kv_heads, head_dim] at positions 0, 1, ..; keys are turned.
inline Tokens rope_tokens(const CacheConfig& config, const std::vector<float>& k,
                          const std::vector<float>& v) {
  const HeadShape& shape = config.shape;
  Tokens tokens(shape, 0, 1);
  tokens.k = k;
  tokens.v = v;
  for (std::int64_t t = 0; t < tokens.size(); ++t) {
    for (std::int32_t head = 0; head < shape.n_kv_heads; ++head) {
      turn_row(config.rope_frequencies, t,
               tokens.k.data() + t * tokens.width() + head * shape.head_dim);
    }
  }
  return tokens;
}

/// n tokens whose rows lie around a few directions.
inline Tokens clustered_tokens(const CacheConfig& config, std::int64_t n, std::uint64_t seed) {
  const std::int64_t n_rows = n * config.shape.n_kv_heads;
  const int dim = config.shape.head_dim;
  return rope_tokens(config, clustered_rows(n_rows, 12, seed, dim),
                     clustered_rows(n_rows, 12, seed + 5, dim));
}

/// The codebook that one head of one sequence reads.
inline const Codebook& book_of(const KvView& view, Side side, std::int32_t head,
                               std::int64_t seq = 0) {
  const AnyCodec& codec =
      side == Side::key ? view.k_codec_of(seq, head) : view.v_codec_of(seq, head);
  return *codec.as<Codebook>();
}

inline std::uint32_t n_entries(const Cache& cache, SeqId seq, Side side, std::int32_t head = 0) {
  ViewBuffers buffers;
  return book_of(cache.view(0, {&seq, 1}, buffers), side, head).n_entries;
}

/// [n_entries, head_dim]
inline std::vector<f16> entries_of(const Cache& cache, SeqId seq, Side side,
                                   std::int32_t head = 0) {
  ViewBuffers buffers;
  const Codebook& book = book_of(cache.view(0, {&seq, 1}, buffers), side, head);
  const auto n = static_cast<std::size_t>(book.n_entries) *
                 static_cast<std::size_t>(cache.config().shape.head_dim);
  return {book.entries, book.entries + n};
}

}  // namespace kvcodec::test
