// Greedy cover of the rows without an entry, and the call that puts the launches together.
#include "cuda/codec/codebook.cuh"
#include "cuda/core/check.hpp"
#include "cuda/core/cta.cuh"
#include "cuda/core/require.hpp"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr std::int64_t kMaxWords = CodebookTable::kPieceRows / 64;
static_assert(CodebookTable::kPieceRows <= 1 << 16, "rows are 16 bits of a rank");

/// Grid: 256 tables each.
__global__ void begin_kernel(const __grid_constant__ CoverJob job, std::int64_t n_tables) {
  const std::int64_t table = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (table >= n_tables) return;
  job.n_before[table] = job.n_entries[table];
  job.full[table] = 0;
}

/// Calls use(64 first + i) for every set bit i of a word.
template <class Use>
__device__ void for_each_bit(std::uint64_t bits, std::int64_t first, const Use& use) {
  for (; bits != 0; bits &= bits - 1) {
    use(64 * first + __ffsll(static_cast<long long>(bits)) - 1);
  }
}

/// degree <- summed weights of the rows linked to each. Grid: tables times kWarps listed rows.
__global__ void __launch_bounds__(kThreads, 1) degree_kernel(const __grid_constant__ CoverJob job) {
  const TableShare at(ceil_div(job.piece_rows, kWarps));
  if (job.full[at.table] != 0) return;
  const std::int64_t n = job.n_list[at.table];
  const std::int64_t row = at.share * kWarps + threadIdx.x / 32;
  if (row >= n) return;
  const std::int64_t slot = at.table * job.piece_rows;
  const std::uint64_t* linked = job.graph + (slot + row) * job.n_words;
  std::int64_t sum = 0;
  for (std::int64_t w = threadIdx.x % 32; w < ceil_div(n, 64); w += 32) {
    if (job.weights == nullptr) {
      sum += __popcll(linked[w]);
    } else {
      for_each_bit(linked[w], w, [&](std::int64_t b) { sum += job.weight(at.table, b); });
    }
  }
  sum = row_sum(sum, 32);
  if (threadIdx.x % 32 == 0) job.degree[slot + row] = sum;
}

/// Rows of a round.
struct Rounds {
  std::uint64_t left[kMaxWords];     ///< rows that no entry covers yet
  std::uint64_t removed[kMaxWords];  ///< rows that the round's entry covers
};

/// Takes the rows of `rounds.removed` out of the graph: their weights from the degrees of rows that are left.
__device__ void remove_rows(const CoverJob& job, std::int64_t table, std::uint32_t code,
                            const Rounds& rounds, std::int64_t n_words) {
  const std::int64_t slot = table * job.piece_rows;
  const std::int64_t lane = threadIdx.x % 32;
  for (std::int64_t w = threadIdx.x / 32; w < n_words; w += kWarps) {
    for_each_bit(rounds.removed[w], w, [&](std::int64_t b) {
      if (lane == 0) {
        job.code[slot + b] = code;
        job.degree[slot + b] = 0;  // below every weight
      }
      const auto weight = static_cast<unsigned long long>(job.weight(table, b));
      const std::uint64_t* linked = job.graph + (slot + b) * job.n_words;
      for (std::int64_t v = lane; v < n_words; v += 32) {
        for_each_bit(linked[v] & rounds.left[v], v, [&](std::int64_t c) {
          atomicAdd(reinterpret_cast<unsigned long long*>(job.degree + slot + c), 0 - weight);
        });
      }
    });
  }
}

/// The listed row of largest degree, the lowest of equal ones; -1 if all are covered.
__device__ std::int64_t find_row(const std::int64_t* degree, std::int64_t n) {
  std::uint64_t rank = 0;  // degrees stay below 2^47: piece_rows weights of 31 bits
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
    const auto own =
        static_cast<std::uint64_t>(degree[i]) << 16 | (0xffffu - static_cast<std::uint64_t>(i));
    rank = own > rank ? own : rank;
  }
  rank = cta_max(rank);
  return rank >> 16 == 0 ? -1 : static_cast<std::int64_t>(0xffffu - (rank & 0xffffu));
}

/// chosen and code of the listed rows of a table; returns how many were chosen.
__device__ std::uint32_t choose_rows(const CoverJob& job, std::int64_t table, std::int64_t n,
                                     Rounds& rounds) {
  const std::int64_t n_words = ceil_div(n, 64);
  const std::int64_t slot = table * job.piece_rows;
  for (std::int64_t w = threadIdx.x; w < n_words; w += kThreads) {
    rounds.left[w] = ~std::uint64_t{0};
  }
  std::uint32_t n_chosen = 0;
  for (;; ++n_chosen) {
    const std::int64_t row = find_row(job.degree + slot, n);  // synchronises
    if (row < 0) return n_chosen;
    const std::uint64_t* linked = job.graph + (slot + row) * job.n_words;
    for (std::int64_t w = threadIdx.x; w < n_words; w += kThreads) {
      const std::uint64_t covered = linked[w] & rounds.left[w];
      rounds.removed[w] = covered;
      rounds.left[w] &= ~covered;
    }
    if (threadIdx.x == 0) job.chosen[slot + n_chosen] = static_cast<std::uint32_t>(row);
    __syncthreads();
    remove_rows(job, table, n_chosen, rounds, n_words);
    __syncthreads();
  }
}

/// The chosen rows become entries first .. first + n_chosen - 1.
__device__ void append_entries(const CoverJob& job, std::int64_t table, std::int64_t first,
                               std::int64_t n_chosen) {
  const std::int64_t slot = table * job.piece_rows;
  const std::int64_t n_octets = job.head_dim / kOctet;
  for (std::int64_t i = threadIdx.x; i < n_chosen * n_octets; i += kThreads) {
    const std::int64_t row = job.list[slot + job.chosen[slot + i / n_octets]];
    float x[kOctet];
    load_octet(job.unit_rows, job.unit_rows.row(slot + row, 0) + i % n_octets * kOctet, x);
    unsigned words[kOctet / 2];
    for (int j = 0; j < kOctet / 2; ++j) {
      words[j] = to_f16(x[2 * j]).bits | static_cast<unsigned>(to_f16(x[2 * j + 1]).bits) << 16;
    }
    f16* to = job.entries + (table * job.capacity + first) * job.head_dim + i * kOctet;
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

/// Grid: tables.
__global__ void __launch_bounds__(kThreads, 1) cover_kernel(const __grid_constant__ CoverJob job) {
  KVCODEC_SHARED(rounds, Rounds);
  const std::int64_t table = blockIdx.x;
  if (job.full[table] != 0 || job.n_list[table] == 0) return;
  const std::int64_t n = job.n_list[table];
  const std::int64_t first = job.n_entries[table];
  const std::uint32_t n_chosen = choose_rows(job, table, n, rounds);
  if (first + n_chosen > job.capacity) {
    if (threadIdx.x != 0) return;
    job.full[table] = 1;
    job.n_entries[table] = job.n_before[table];
    if (job.full_out != nullptr) job.full_out[table] = 1;
    return;
  }
  append_entries(job, table, first, n_chosen);
  const std::int64_t slot = table * job.piece_rows;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
    job.index[job.place(table, job.list[slot + i])] =
        static_cast<std::uint32_t>(first) + job.code[slot + i];
  }
  __syncthreads();  // all have read n_entries
  if (threadIdx.x == 0) job.n_entries[table] = static_cast<std::uint32_t>(first + n_chosen);
}

constexpr const char* kCall = "cover_rows";

void require_sizes(const CodebookTables& tables, const CoverRows& rows) {
  const auto in_range = [](const char* name, std::int64_t value, std::int64_t least,
                           std::int64_t most) {
    if (value >= least && value <= most) return;
    throw invalid_argument(
        bad_value(kCall, name, value, std::to_string(least) + ".." + std::to_string(most)));
  };
  if (tables.head_dim < kMinHeadDim || tables.head_dim > kMaxHeadDim ||
      tables.head_dim % kLanes != 0) {
    throw invalid_argument(bad_value(kCall, "head_dim", tables.head_dim, "64..256 in steps of 16"));
  }
  if (!(tables.theta >= 0.0f && tables.theta <= CodebookTable::kMaxTheta)) {
    throw invalid_argument(bad_value(kCall, "theta", tables.theta, "0..0.9999"));
  }
  in_range("n_tables", tables.n_tables, 0, 1 << 30);
  in_range("capacity", tables.capacity, 0, std::int64_t{CodebookTable::kNone} - 1);
  in_range("max_rows", rows.max_rows, 0, (std::int64_t{1} << 31) - 1);
  in_range("piece_rows", rows.piece_rows, 1, CodebookTable::kPieceRows);
  const std::int64_t piece = std::min(rows.piece_rows, rows.max_rows);
  const std::int64_t n_groups = tables.n_tables * ceil_div(piece, kLeftRows);
  require_ctas(kCall, "n_tables * (rows / 32)", n_groups);
  require_ctas(kCall, "n_tables * (rows / 32) * (capacity / 512)",
               n_groups * ceil_div(tables.capacity, kSplitEntries));
  require_ctas(kCall, "n_tables * (capacity / 32)",
               tables.n_tables * ceil_div(tables.capacity, kLeftRows));
  require_ctas(kCall, "n_tables * (rows / 32) * (rows / 64)", n_groups * ceil_div(piece, 64));
}

RowSource dense_rows_of(const void* data, DType dtype, std::int64_t stride) {
  AnyRows rows;
  rows.data = data;
  rows.dtype = dtype;
  rows.token_stride = stride;
  return RowSource(rows);
}

CoverJob plan(const CodebookTables& tables, const CoverRows& rows, Workspace& memory) {
  CoverJob job{};
  job.x = dense_rows_of(rows.x, rows.dtype, rows.row_stride);
  job.entry_rows = dense_rows_of(tables.entries, DType::f16, tables.head_dim);
  job.row_of = rows.row_of;
  job.first = rows.first;
  job.n_rows = rows.n_rows;
  job.weights = rows.weights;
  job.index = rows.index;
  job.magnitude = rows.magnitude;
  job.full_out = rows.full;
  job.entries = tables.entries;
  job.n_entries = tables.n_entries;
  job.capacity = tables.capacity;
  job.piece_rows = std::min(rows.piece_rows, rows.max_rows);
  job.n_words = ceil_div(job.piece_rows, 64);
  job.head_dim = tables.head_dim;
  job.theta = tables.theta;
  job.match = tables.match;
  const std::int64_t n = tables.n_tables;
  const std::int64_t n_rows = n * job.piece_rows;
  job.units = memory.take<float>(n_rows * job.head_dim);
  job.entry_units = memory.take<float>(n * tables.capacity * job.head_dim);
  job.best = memory.take<std::uint64_t>(n_rows);
  job.list = memory.take<std::uint32_t>(n_rows);
  job.n_list = memory.take<std::int64_t>(n);
  job.graph = memory.take<std::uint64_t>(n_rows * job.n_words);
  job.degree = memory.take<std::int64_t>(n_rows);
  job.chosen = memory.take<std::uint32_t>(n_rows);
  job.code = memory.take<std::uint32_t>(n_rows);
  job.n_before = memory.take<std::uint32_t>(n);
  job.full = memory.take<std::uint32_t>(n);
  job.unit_rows = dense_rows_of(job.units, DType::f32, job.head_dim);
  job.entry_unit_rows = dense_rows_of(job.entry_units, DType::f32, job.head_dim);
  return job;
}

}  // namespace

cudaError_t launch_cover(const CoverJob& job, std::int64_t n_tables, cudaStream_t stream) {
  const auto shape = [&](std::int64_t n_shares) {
    return LaunchShape{dim3(static_cast<unsigned>(n_tables * n_shares)), dim3(kThreads), 0, stream};
  };
  const cudaError_t status = launch(degree_kernel, shape(ceil_div(job.piece_rows, kWarps)), job);
  return status != cudaSuccess ? status : launch(cover_kernel, shape(1), job);
}

std::size_t cover_workspace_bytes(const CodebookTables& tables, const CoverRows& rows) {
  require_sizes(tables, rows);
  Workspace memory;
  static_cast<void>(plan(tables, rows, memory));
  return memory.bytes();
}

void cover_rows(const CodebookTables& tables, const CoverRows& rows, void* workspace,
                std::size_t workspace_bytes, Stream stream) {
  const std::size_t needed = cover_workspace_bytes(tables, rows);
  if (tables.n_tables == 0 || rows.max_rows == 0) return;
  require_pointer(kCall, "x", rows.x);
  require_pointer(kCall, "first", rows.first);
  require_pointer(kCall, "n_rows", rows.n_rows);
  require_pointer(kCall, "index", rows.index);
  require_pointer(kCall, "magnitude", rows.magnitude);
  require_pointer(kCall, "n_entries", tables.n_entries);
  if (tables.capacity > 0) require_aligned(kCall, "entries", tables.entries);
  require_workspace(kCall, workspace, workspace_bytes, needed);
  Workspace memory(workspace);
  CoverJob job = plan(tables, rows, memory);
  const std::int64_t n = tables.n_tables;
  check(launch(begin_kernel, {dim3(static_cast<unsigned>(ceil_div(n, 256))), dim3(256), 0, stream},
               job, n),
        kCall);
  for (; job.begin < rows.max_rows; job.begin += job.piece_rows) {
    check(launch_link(job, n, stream), kCall);
    check(launch_cover(job, n, stream), kCall);
  }
}

}  // namespace kvcodec::cuda
