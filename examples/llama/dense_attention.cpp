#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "examples/llama/kernels.hpp"
#include "examples/llama/matmul.hpp"
#include "examples/llama/model.hpp"

namespace llama {
namespace {

constexpr std::int64_t kQueryTile = 64;

float dot(const float* a, const float* b, std::int64_t n) {
  float sum = 0.0f;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Queries first..last-1 of one query head over keys 0..last-1, which `keys` and `values` hold. With
// past_v, the values in `values`, every query sees its own row as it is in `call` instead.
void attend_tile(const AttentionCall& call, const kvcodec::HeadShape& shape, std::int64_t head,
                 std::int64_t first, std::int64_t last, std::int32_t window,
                 const PackedMatrix& keys, const PackedMatrix& values, const float* past_v) {
  const std::int64_t d = shape.head_dim, stride = shape.n_q_heads * d;
  const std::int64_t rows = last - first;
  const auto kv_row = [&](std::int64_t pos) {
    return (pos * shape.n_kv_heads + head / shape.gqa_group()) * d;
  };
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  std::vector<float> scores(static_cast<std::size_t>(rows * last));
  keys.multiply(call.q + first * stride + head * d, stride, rows, d, last, scores.data(), last, {});
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = scores.data() + r * last;
    const std::int64_t end = first + r + 1;
    const std::int64_t begin = window > 0 ? std::max<std::int64_t>(0, end - window) : 0;
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + last, 0.0f);
    if (past_v != nullptr) {
      row[end - 1] = dot(call.q + (end - 1) * stride + head * d, call.k + kv_row(end - 1), d);
    }
    for (std::int64_t j = begin; j < end; ++j) row[j] *= scale;
    softmax(row + begin, end - begin);
  }
  values.multiply(scores.data(), last, rows, last, d, call.out + first * stride + head * d, stride,
                  {});
  if (past_v == nullptr) return;
  for (std::int64_t pos = first; pos < last; ++pos) {
    const float weight = scores[static_cast<std::size_t>((pos - first) * last + pos)];
    const float* exact = call.v + kv_row(pos);
    const float* stored = past_v + kv_row(pos);
    float* out = call.out + pos * stride + head * d;
    for (std::int64_t c = 0; c < d; ++c) out[c] += weight * (exact[c] - stored[c]);
  }
}

// Attention over rows k and v; past_v as for attend_tile().
void attend_all(const AttentionCall& call, const kvcodec::HeadShape& shape, std::int32_t window,
                const float* k, const float* v, const float* past_v,
                const kvcodec::Executor& executor) {
  const std::int64_t d = shape.head_dim, kv_stride = shape.n_kv_heads * d;
  std::vector<PackedMatrix> keys, values;
  for (std::int64_t h = 0; h < shape.n_kv_heads; ++h) {
    keys.push_back(PackedMatrix::from_weight(k + h * d, call.n, d, kv_stride));
    values.push_back(PackedMatrix::from_rows(v + h * d, call.n, d, kv_stride));
  }
  const std::int64_t n_tiles = (call.n + kQueryTile - 1) / kQueryTile;
  executor.parallel_for(n_tiles * shape.n_q_heads, [&](std::int64_t task, int) {
    const std::int64_t head = task % shape.n_q_heads;
    const auto kv = static_cast<std::size_t>(head / shape.gqa_group());
    // The longest tiles first, so that no thread is left with one at the end.
    const std::int64_t first = (n_tiles - 1 - task / shape.n_q_heads) * kQueryTile;
    attend_tile(call, shape, head, first, std::min(call.n, first + kQueryTile), window, keys[kv],
                values[kv], past_v);
  });
}

}  // namespace

void dense_attention(const AttentionCall& call, const kvcodec::HeadShape& shape,
                     std::int32_t window, const kvcodec::Executor& executor) {
  attend_all(call, shape, window, call.k, call.v, nullptr, executor);
}

void past_only_attention(const AttentionCall& call, const kvcodec::HeadShape& shape,
                         std::int32_t window, const float* past_k, const float* past_v,
                         const kvcodec::Executor& executor) {
  attend_all(call, shape, window, past_k, past_v, past_v, executor);
}

}  // namespace llama
