// Which rows an entry covers already, and who of the others is alike: one bit per pair, never a cosine in
// memory.
#include "cuda/codec/codebook.cuh"
#include "cuda/core/cta.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = kProductThreads;
constexpr int kListThreads = 1024;

/// to [rows, head_dim] <- rows of length 1, as normalise_row() makes them. Rows are read and written by
/// all threads, each is normalised by one: the order of its sum is the CPU's.
template <class Source, class Finish>
__device__ void normalise(int head_dim, std::int64_t n, const RowSource& from, float* to,
                          const Source& row_at, const Finish& finish) {
  float* tile = dynamic_shared<float>();
  const int stride = head_dim + 1;  // odd: neighbouring rows stand in different banks
  const int n_octets = head_dim / kOctet;
  for (int i = static_cast<int>(threadIdx.x); i < n * n_octets; i += kThreads) {
    float x[kOctet];
    load_octet(from, from.row(row_at(i / n_octets), 0) + i % n_octets * kOctet, x);
    for (int j = 0; j < kOctet; ++j) {
      tile[i / n_octets * stride + i % n_octets * kOctet + j] = x[j];
    }
  }
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x);
  if (own < n) {
    float* row = tile + own * stride;
    finish(own, normalise_row(head_dim, row, row));
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n * head_dim; i += kThreads) {
    to[i] = tile[i / head_dim * stride + i % head_dim];
  }
}

__device__ __forceinline__ std::int64_t at_most(std::int64_t n, std::int64_t most) {
  return n < most ? n : most;
}

/// Grid: tables times ceil_div(piece_rows, kLeftRows).
__global__ void __launch_bounds__(kThreads, 8)
    normalise_rows_kernel(const __grid_constant__ CoverJob job) {
  const TableShare at(ceil_div(job.piece_rows, kLeftRows));
  const std::int64_t begin = at.share * kLeftRows;
  const std::int64_t n = job.rows_of(at.table) - begin;
  if (n <= 0 || job.full[at.table] != 0) return;
  const std::int64_t slot = at.table * job.piece_rows + begin;
  const std::int64_t place = job.place(at.table, begin);
  normalise(
      job.head_dim, at_most(n, kLeftRows), job.x, job.units + slot * job.head_dim,
      [&](int i) { return job.row_of == nullptr ? place + i : job.row_of[place + i]; },
      [&](int i, float magnitude) {
        job.magnitude[place + i] = magnitude;
        job.best[slot + i] = 0;
      });
}

/// Grid: tables times ceil_div(capacity, kLeftRows).
__global__ void __launch_bounds__(kThreads, 8)
    normalise_entries_kernel(const __grid_constant__ CoverJob job) {
  const TableShare at(ceil_div(job.capacity, kLeftRows));
  const std::int64_t begin = at.share * kLeftRows;
  const std::int64_t n = job.n_entries[at.table] - begin;
  if (n <= 0 || job.full[at.table] != 0) return;
  const std::int64_t slot = at.table * job.capacity + begin;
  normalise(
      job.head_dim, at_most(n, kLeftRows), job.entry_rows, job.entry_units + slot * job.head_dim,
      [&](int i) { return slot + i; }, [](int, float) {});
}

/// Grid: tables times ceil_div(piece_rows, kLeftRows) times ceil_div(capacity, kSplitEntries).
__global__ void __launch_bounds__(kThreads, 4) match_kernel(const __grid_constant__ CoverJob job) {
  const std::int64_t n_splits = ceil_div(job.capacity, kSplitEntries);
  const TableShare at(ceil_div(job.piece_rows, kLeftRows) * n_splits);
  const std::int64_t begin = at.share / n_splits * kLeftRows;
  const std::int64_t n = job.rows_of(at.table) - begin;
  const std::int64_t first_entry = at.share % n_splits * kSplitEntries;
  const std::int64_t end =
      at_most(std::int64_t{job.n_entries[at.table]}, first_entry + kSplitEntries);
  if (n <= 0 || first_entry >= end || job.full[at.table] != 0) return;
  float* rows = dynamic_shared<float>();
  float* entries = rows + kLeftRows * job.head_dim;
  const std::int64_t slot = at.table * job.piece_rows + begin;
  stage_rows<kLeftRows>(job.head_dim, n, rows, [&](int row, int channel, float(&x)[kOctet]) {
    load_octet(job.unit_rows, job.unit_rows.row(slot + row, 0) + channel, x);
  });
  std::uint64_t best[4] = {};
  for (std::int64_t entry = first_entry; entry < end; entry += kRightRows) {
    __syncthreads();
    stage_rows<kRightRows>(
        job.head_dim, end - entry, entries, [&](int row, int channel, float(&x)[kOctet]) {
          const std::int64_t from = at.table * job.capacity + entry + row;
          load_octet(job.entry_unit_rows, job.entry_unit_rows.row(from, 0) + channel, x);
        });
    __syncthreads();
    float dot[4][4];
    dots_in_order(job.head_dim, rows, entries, dot);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // The padding's cosines are 0, which no theta is below.
        if (!(dot[i][j] > job.theta)) continue;
        const std::uint64_t key = match_key(job.match, dot[i][j], entry + right_row() + j);
        best[i] = key > best[i] ? key : best[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (int step = 8; step > 0; step /= 2) {
      const std::uint64_t other = __shfl_xor_sync(0xffffffffu, best[i], step);
      best[i] = other > best[i] ? other : best[i];
    }
    if (right_row() != 0 || left_row() + i >= n || best[i] == 0) continue;
    atomicMax(reinterpret_cast<unsigned long long*>(job.best + slot + left_row() + i),
              static_cast<unsigned long long>(best[i]));
  }
}

/// index, and the rows that have none yet, in order. Grid: tables.
__global__ void __launch_bounds__(kListThreads, 1)
    list_kernel(const __grid_constant__ CoverJob job) {
  const std::int64_t table = blockIdx.x;
  if (job.full[table] != 0) return;
  const std::int64_t n = job.rows_of(table);
  const std::int64_t slot = table * job.piece_rows;
  std::int64_t n_listed = 0;
  for (std::int64_t base = 0; base < n; base += kListThreads) {
    const std::int64_t i = base + threadIdx.x;
    bool open = false;
    if (i < n) {
      const std::uint64_t key = job.best[slot + i];
      const std::int64_t place = job.place(table, i);
      job.index[place] = key == 0 ? CodebookTable::kNone : entry_of(key);
      open = key == 0 && job.magnitude[place] != 0.0f;
    }
    int n_here = 0;
    const int before = cta_count_before(open, n_here);
    if (open) job.list[slot + n_listed + before] = static_cast<std::uint32_t>(i);
    n_listed += n_here;
  }
  if (threadIdx.x == 0) job.n_list[table] = n_listed;
}

/// Bits of one tile of pairs: of its rows over columns, and of its columns over rows.
struct TileBits {
  std::uint32_t rows[kLeftRows][2];
  std::uint32_t columns[kRightRows];
};

/// Whether the tile of row group `a` (of 32) and column word `b` (of 64) is computed; the others, below the
/// diagonal, are the transposed of one that is.
KVCODEC_HD constexpr bool is_computed(std::int64_t a, std::int64_t b) noexcept {
  return kRightRows * b + kRightRows - 1 >= kLeftRows * a;
}

__device__ void set_bits(const float (&dot)[4][4], float theta, std::int64_t row,
                         std::int64_t column, TileBits& bits) {
  unsigned by_row[4] = {};
  unsigned by_column[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool linked = dot[i][j] > theta || row + left_row() + i == column + right_row() + j;
      by_row[i] |= linked ? 1u << j : 0u;
      by_column[j] |= linked ? 1u << i : 0u;
    }
  }
  for (int i = 0; i < 4; ++i) {
    atomicOr(&bits.rows[left_row() + i][right_row() / 32], by_row[i] << (right_row() % 32));
    atomicOr(&bits.columns[right_row() + i], by_column[i] << left_row());
  }
}

/// Grid: tables times groups of kLeftRows rows times words of kRightRows columns.
__global__ void __launch_bounds__(kThreads, 4) graph_kernel(const __grid_constant__ CoverJob job) {
  KVCODEC_SHARED(bits, TileBits);
  static_assert(kRightRows == 64 && kLeftRows == 32, "words of the graph");
  const TableShare at(ceil_div(job.piece_rows, kLeftRows) * job.n_words);
  const std::int64_t a = at.share / job.n_words;
  const std::int64_t b = at.share % job.n_words;
  if (!is_computed(a, b) || job.full[at.table] != 0) return;
  const std::int64_t row = a * kLeftRows;
  const std::int64_t column = b * kRightRows;
  const std::int64_t n = job.n_list[at.table];
  if (row >= n || column >= n) return;
  float* left = dynamic_shared<float>();
  float* right = left + kLeftRows * job.head_dim;
  const std::int64_t slot = at.table * job.piece_rows;
  const auto load_from = [&](std::int64_t first) {
    return [&job, slot, first](int i, int channel, float(&x)[kOctet]) {
      const std::int64_t from = slot + job.list[slot + first + i];
      load_octet(job.unit_rows, job.unit_rows.row(from, 0) + channel, x);
    };
  };
  const int own = static_cast<int>(threadIdx.x);
  if (own < kLeftRows) bits.rows[own][0] = bits.rows[own][1] = 0;
  if (own < kRightRows) bits.columns[own] = 0;
  stage_rows<kLeftRows>(job.head_dim, n - row, left, load_from(row));
  stage_rows<kRightRows>(job.head_dim, n - column, right, load_from(column));
  __syncthreads();
  float dot[4][4];
  dots_in_order(job.head_dim, left, right, dot);
  set_bits(dot, job.theta, row, column, bits);
  __syncthreads();
  std::uint64_t* graph = job.graph + slot * job.n_words;
  if (own < kLeftRows && row + own < n) {
    graph[(row + own) * job.n_words + b] =
        std::uint64_t{bits.rows[own][1]} << 32 | bits.rows[own][0];
  }
  const std::int64_t other = column + own;  // the row of the transposed tile
  if (own >= kRightRows || other >= n || is_computed(other / kLeftRows, row / kRightRows)) return;
  reinterpret_cast<std::uint32_t*>(graph)[other * job.n_words * 2 + a] = bits.columns[own];
}

}  // namespace

cudaError_t launch_link(const CoverJob& job, std::int64_t n_tables, cudaStream_t stream) {
  const std::int64_t n_groups = ceil_div(job.piece_rows, kLeftRows);
  const std::size_t products = static_cast<std::size_t>(product_floats(job.head_dim)) * 4;
  const std::size_t tile = static_cast<std::size_t>(kLeftRows * (job.head_dim + 1)) * 4;
  const auto shape = [&](std::int64_t n_shares, int n_threads, std::size_t shared) {
    return LaunchShape{dim3(static_cast<unsigned>(n_tables * n_shares)),
                       dim3(static_cast<unsigned>(n_threads)), shared, stream};
  };
  cudaError_t status = launch(normalise_rows_kernel, shape(n_groups, kThreads, tile), job);
  if (status != cudaSuccess) return status;
  status = launch(normalise_entries_kernel,
                  shape(ceil_div(job.capacity, kLeftRows), kThreads, tile), job);
  if (status != cudaSuccess) return status;
  status = launch(match_kernel,
                  shape(n_groups * ceil_div(job.capacity, kSplitEntries), kThreads, products), job);
  if (status != cudaSuccess) return status;
  status = launch(list_kernel, shape(1, kListThreads, 0), job);
  if (status != cudaSuccess) return status;
  return launch(graph_kernel, shape(n_groups * job.n_words, kThreads, products), job);
}

}  // namespace kvcodec::cuda
