// The scalar kernel table: the definition of every kernel, in plain C++.
#include <cmath>
#include <limits>

#include "kernels.hpp"

namespace kvcodec::cpu {
namespace {

template <DType kType>
void score_rows(int head_dim, const void* k, std::int64_t row_stride, int n_rows, const float* q,
                int n_q, float* scores) {
  for (int i = 0; i < n_q; ++i) {
    for (int row = 0; row < n_rows; ++row) {
      float sum = 0.0f;
      for (int c = 0; c < head_dim; ++c) {
        sum += q[i * head_dim + c] * load_value(kType, k, row * row_stride + c);
      }
      scores[i * kTileRows + row] = sum;
    }
  }
}

template <DType kType>
void add_rows(int head_dim, const void* v, std::int64_t row_stride, int n_rows, const float* w,
              int n_q, float* acc) {
  for (int i = 0; i < n_q; ++i) {
    for (int row = 0; row < n_rows; ++row) {
      const float weight = w[i * kTileRows + row];
      for (int c = 0; c < head_dim; ++c) {
        acc[i * head_dim + c] += weight * load_value(kType, v, row * row_stride + c);
      }
    }
  }
}

void softmax_tile(int n_q, int head_dim, float sm_scale, float soft_cap,
                  const std::uint64_t* visible, Ahead&, float* scores, float* m, float* l,
                  float* acc) {
  for (int i = 0; i < n_q; ++i) {
    float* s = scores + i * kTileRows;
    const std::uint64_t rows = visible != nullptr ? visible[i] : ~std::uint64_t{0};
    float top = -std::numeric_limits<float>::infinity();
    for (int row = 0; row < kTileRows; ++row) {
      if (((rows >> row) & 1) == 0) continue;
      float logit = sm_scale * s[row];
      if (soft_cap > 0.0f) logit = soft_cap * std::tanh(logit / soft_cap);
      s[row] = logit;
      top = std::fmax(top, logit);
    }
    if (rows == 0) {
      for (int row = 0; row < kTileRows; ++row) s[row] = 0.0f;
      continue;
    }
    const float new_m = std::fmax(m[i], top);
    const float shrink = std::exp(m[i] - new_m);
    float sum = 0.0f;
    for (int row = 0; row < kTileRows; ++row) {
      s[row] = ((rows >> row) & 1) != 0 ? std::exp(s[row] - new_m) : 0.0f;
      sum += s[row];
    }
    l[i] = l[i] * shrink + sum;
    if (new_m != m[i]) {
      for (int c = 0; c < head_dim; ++c) acc[i * head_dim + c] *= shrink;
    }
    m[i] = new_m;
  }
}

void normalise_row(int head_dim, const float* acc, float factor, float l, float* out) {
  for (int c = 0; c < head_dim; ++c) out[c] = acc[c] * factor / l;
}

}  // namespace

const Kernels& scalar_kernels() noexcept {
  static const Kernels table = [] {
    Kernels t = {};
    t.isa = "scalar";
    t.score_rows[static_cast<int>(DType::f32)] = score_rows<DType::f32>;
    t.score_rows[static_cast<int>(DType::f16)] = score_rows<DType::f16>;
    t.score_rows[static_cast<int>(DType::bf16)] = score_rows<DType::bf16>;
    t.add_rows[static_cast<int>(DType::f32)] = add_rows<DType::f32>;
    t.add_rows[static_cast<int>(DType::f16)] = add_rows<DType::f16>;
    t.add_rows[static_cast<int>(DType::bf16)] = add_rows<DType::bf16>;
    t.softmax_tile = softmax_tile;
    t.normalise_row = normalise_row;
    return t;
  }();
  return table;
}

}  // namespace kvcodec::cpu
