// Attention over rows that are not encoded: sinks, kept and recent rows, the query tokens' own.
//
// They are few, so this is the plain way: scores and weights of 64 rows at a time in shared memory,
// f32 products.
#pragma once

#include "cuda/attend/piece.cuh"

namespace kvcodec::cuda {

/// A piece of up to kPieceRows neighbouring rows of one kind.
struct RawPiece {
  const void* k;
  const void* v;
  DType k_type;
  DType v_type;
  std::int64_t row_stride;  ///< elements
  std::int32_t n_rows;
  std::int32_t first_pos;
  const std::int32_t* pos;
  const KeepMask* masks;
};

/// Shared memory of a CTA at work on raw rows.
struct RawMemory {
  float q[kUnitRows][kMaxHeadDim];
  PieceSoftmax softmax;
};

/// The piece of the rows of (sequence, KV head) that begins with row `row`, counted over all kinds
/// (n_raw_rows); at most `most` rows.
__device__ inline RawPiece raw_piece(const AttendParams& p, const Unit& u, std::int64_t row,
                                     std::int64_t most) {
  const std::int64_t at = u.seq * p.view.shape.n_kv_heads + u.head;
  const RawRows* const kinds[3] = {p.view.sinks, p.view.kept, p.view.recent};
  if (most > kPieceRows) most = kPieceRows;
  RawPiece piece{};
  for (const RawRows* kind : kinds) {
    if (kind == nullptr) continue;
    const RawRows& rows = kind[at];
    if (row >= rows.n_rows) {
      row -= rows.n_rows;
      continue;
    }
    const auto skip = row * rows.row_stride;
    piece.k_type = p.view.k_raw_dtype;
    piece.v_type = p.view.v_raw_dtype;
    piece.k = static_cast<const std::byte*>(rows.k) +
              skip * static_cast<std::int64_t>(dtype_bytes(piece.k_type));
    piece.v = static_cast<const std::byte*>(rows.v) +
              skip * static_cast<std::int64_t>(dtype_bytes(piece.v_type));
    piece.row_stride = rows.row_stride;
    piece.n_rows = static_cast<std::int32_t>(rows.n_rows - row < most ? rows.n_rows - row : most);
    piece.first_pos = rows.first_pos + static_cast<std::int32_t>(row);
    piece.pos = rows.pos == nullptr ? nullptr : rows.pos + row;
    piece.masks = rows.mask == nullptr ? nullptr : rows.mask + row;
    return piece;
  }
  const std::int64_t token = p.q_indptr[u.seq] + row;
  const std::int64_t left = p.q_indptr[u.seq + 1] - token;
  piece.row_stride = std::int64_t{p.view.shape.n_kv_heads} * p.view.shape.head_dim;
  const std::int64_t offset =
      token * piece.row_stride + std::int64_t{u.head} * p.view.shape.head_dim;
  piece.k_type = DType::f32;
  piece.v_type = DType::f32;
  piece.k = p.k_new + offset;
  piece.v = p.v_new + offset;
  piece.n_rows = static_cast<std::int32_t>(left < most ? left : most);
  piece.pos = p.q_pos + token;
  return piece;
}

/// Logits of a piece into memory.softmax; -inf where a query row does not see a row.
__device__ inline void score_piece(const AttendParams& p, const Unit& u, const RawPiece& piece,
                                   RawMemory& memory) {
  const int head_dim = p.view.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < u.n_rows * kPieceRows; i += kAttendThreads) {
    const int row = i % kPieceRows;
    const int q_row = i / kPieceRows;
    bool seen = row < piece.n_rows;
    if (seen && piece.masks != nullptr)
      seen = ((piece.masks[row] >> u.head_in_group(q_row)) & 1) != 0;
    if (seen) {
      const std::int32_t pos = piece.pos != nullptr ? piece.pos[row] : piece.first_pos + row;
      seen = in_view(p, pos, p.q_pos[u.token(q_row)]);
    }
    float logit = minus_infinity();
    if (seen) {
      float score = 0.0f;
      const std::int64_t first = row * piece.row_stride;
      for (int c = 0; c < head_dim; ++c) {
        score = fmaf(memory.q[q_row][c], load_f32(piece.k, piece.k_type, first + c), score);
      }
      logit = logit_of(p, score, p.sm_scale, 0.0f);
    }
    memory.softmax.weight[q_row][row] = logit;
  }
}

/// The state of raw rows begin .. end - 1 of a unit. kHeadDim: 0 for any.
template <int kHeadDim>
__device__ void attend_raw_rows(const AttendParams& p, const Unit& u, std::int64_t begin,
                                std::int64_t end, float* out) {
  const int head_dim = kHeadDim > 0 ? kHeadDim : p.view.shape.head_dim;
  RawMemory& memory = *dynamic_shared<RawMemory>();
  for (int i = static_cast<int>(threadIdx.x); i < u.n_rows * head_dim; i += kAttendThreads) {
    memory.q[i / head_dim][i % head_dim] =
        load_f32(p.q, p.q_dtype, u.q_row(p, i / head_dim) * head_dim + i % head_dim);
  }
  memory.softmax.start();
  ChannelSums<kHeadDim> sums(head_dim, u.n_rows);
  for (std::int64_t row = begin; row < end;) {
    const RawPiece piece = raw_piece(p, u, row, end - row);
    row += piece.n_rows;
    __syncthreads();
    score_piece(p, u, piece, memory);
    __syncthreads();
    soften_piece(u.n_rows, memory.softmax);
    __syncthreads();
    sums.add(memory.softmax, [&](int r, int c) {
      return r < piece.n_rows ? load_f32(piece.v, piece.v_type, r * piece.row_stride + c) : 0.0f;
    });
  }
  __syncthreads();
  sums.store(memory.softmax, nullptr, p.unit_rows, out);
}

}  // namespace kvcodec::cuda
