// What the kernels of policies know about the streams of a layer.
#pragma once

#include <cstdint>

#include "cuda/core/row_source.cuh"
#include "cuda/core/workspace.hpp"
#include "kvcodec/cuda/policy.hpp"

namespace kvcodec::cuda {

/// JudgedRows as kernels take it. A stream is one KV head of one sequence: seq * n_kv_heads + head.
struct Streams {
  RowSource k;
  RowSource v;
  const std::int64_t* first = nullptr;
  const std::int64_t* n_rows = nullptr;
  const std::int64_t* n_ahead = nullptr;
  const float* observed = nullptr;
  std::int64_t max_rows = 0;
  std::int32_t n_kv_heads = 1;
  std::int32_t gqa_group = 1;
  std::int32_t head_dim = 0;
  std::int32_t layer = 0;
  std::int32_t n_layers = 1;

  explicit Streams(const JudgedRows& rows) noexcept
      : k(rows.k),
        v(rows.v),
        first(rows.first),
        n_rows(rows.n_rows),
        n_ahead(rows.n_ahead),
        observed(rows.observed),
        max_rows(rows.max_rows),
        n_kv_heads(rows.shape.n_kv_heads),
        gqa_group(rows.shape.gqa_group()),
        head_dim(rows.shape.head_dim),
        layer(rows.layer),
        n_layers(rows.n_layers) {}

  __device__ __forceinline__ std::int64_t ahead(std::int64_t seq) const {
    return n_ahead == nullptr ? 0 : n_ahead[seq];
  }
};

/// One stream, and the share of it that a CTA takes: CTA x of a grid of streams times shares.
struct StreamShare {
  std::int64_t stream;
  std::int64_t seq;
  std::int64_t head;
  std::int64_t share;
  std::int64_t n_rows;
  std::int64_t first;

  __device__ StreamShare(const Streams& s, std::int64_t n_shares) {
    const auto cta = static_cast<std::int64_t>(blockIdx.x);
    stream = cta / n_shares;
    share = cta % n_shares;
    seq = stream / s.n_kv_heads;
    head = stream % s.n_kv_heads;
    n_rows = s.n_rows[seq];
    first = s.first[seq];
  }
};

/// Rows that a CTA of the score kernels takes.
inline constexpr int kScoreRows = 256;

}  // namespace kvcodec::cuda
