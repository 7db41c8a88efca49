// The query rows of a unit in shared memory, in f32, behind the table that describes them.
#pragma once

#include "cuda/attend/queries.cuh"

namespace kvcodec::cuda {

/// Where they begin, and end, in dynamic shared memory, bytes; the QueryTable is at 0.
inline constexpr std::size_t kUnitQueriesOffset = (sizeof(QueryTable) + 15) / 16 * 16;
KVCODEC_HD inline std::size_t queries_end(const AttendParams& p) noexcept {
  return kUnitQueriesOffset +
         sizeof(float) * static_cast<std::size_t>(p.unit_rows * p.view.shape.head_dim);
}

/// [unit_rows, head_dim]
__device__ __forceinline__ float* unit_queries() {
  return reinterpret_cast<float*>(dynamic_shared<std::byte>() + kUnitQueriesOffset);
}

/// q [n_rows, head_dim] <- the query rows over their units; after fill_query_table and a barrier.
__device__ inline void load_unit_queries(const AttendParams& p, const Unit& u,
                                         const QueryTable& queries, float* q) {
  const int head_dim = p.view.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < u.n_rows * head_dim; i += kAttendThreads) {
    q[i] = query_value(p, u, i / head_dim, i % head_dim) / queries.unit[i / head_dim];
  }
}

}  // namespace kvcodec::cuda
