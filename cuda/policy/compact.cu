// Moves the rows that stay together: where each part of a stream begins is counted first, then parts are
// copied side by side. Rows that move where they stand are taken by one CTA per stream and side, in order.
#include "cuda/core/check.hpp"
#include "cuda/core/cta.cuh"
#include "cuda/policy/arguments.hpp"
#include "cuda/policy/streams.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = 256;
/// Rows of one part.
constexpr int kPartRows = 256;
static_assert(kPartRows == kThreads, "a thread looks at one mask of a part");

/// One side's rows out. Elements as the input's.
struct Target {
  void* data;
  std::int64_t token_stride;
  std::int64_t head_stride;
  bool aligned;  ///< with the source: rows of both begin on 16 bytes
};

struct CompactJob {
  Streams s;
  Target side[2];
  const KeepMask* keep;
  const std::int32_t* pos;
  const std::int32_t* first_pos;
  const std::int64_t* out_first;
  const std::int64_t* n_before;
  std::int64_t* n_after;
  std::int32_t* out_pos;
  KeepMask* out_masks;
  std::int64_t max_out;
  std::int64_t n_parts;
  std::int64_t* begins;  ///< [n_streams, n_parts] where each part's rows go
};

/// begins and n_after. Grid: streams.
__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ CompactJob job) {
  const StreamShare at(job.s, 1);
  const KeepMask* keep = job.keep + at.stream * job.s.max_rows;
  // The first thread alone counts: n_before may be n_after.
  std::int64_t n_out = job.n_before == nullptr || threadIdx.x != 0 ? 0 : job.n_before[at.stream];
  for (std::int64_t part = 0; part * kPartRows < at.n_rows; ++part) {
    const std::int64_t row = part * kPartRows + threadIdx.x;
    if (threadIdx.x == 0) job.begins[at.stream * job.n_parts + part] = n_out;
    n_out += __syncthreads_count(row < at.n_rows && keep[row] != 0 ? 1 : 0);
  }
  if (threadIdx.x == 0) {
    const std::int64_t most = job.max_out;
    job.n_after[at.stream] = n_out < most ? n_out : most;
  }
}

/// Rows of a part that stay, in order.
struct Kept {
  std::int32_t row[kPartRows];  ///< within the part
};

/// Lists the rows of a part that stay, by all threads; returns how many.
__device__ int list_kept(const CompactJob& job, const StreamShare& at, std::int64_t begin,
                         Kept& kept) {
  const std::int64_t row = begin + threadIdx.x;
  const bool stays = row < at.n_rows && job.keep[at.stream * job.s.max_rows + row] != 0;
  int n = 0;
  const int slot = cta_count_before(stays, n);
  if (stays) kept.row[slot] = static_cast<std::int32_t>(threadIdx.x);
  __syncthreads();
  return n;
}

/// Element `at` of an array of 2- or 4-byte values.
__device__ __forceinline__ void copy_value(void* to, std::int64_t to_at, const void* from,
                                           std::int64_t from_at, bool wide) {
  if (wide) {
    static_cast<std::uint32_t*>(to)[to_at] = static_cast<const std::uint32_t*>(from)[from_at];
  } else {
    static_cast<std::uint16_t*>(to)[to_at] = static_cast<const std::uint16_t*>(from)[from_at];
  }
}

/// Positions and masks of the listed rows. The threads of one CTA.
__device__ void copy_labels(const CompactJob& job, const StreamShare& at, std::int64_t begin,
                            const Kept& kept, int n, std::int64_t to) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= n || to + i >= job.max_out) return;
  const std::int64_t row = begin + kept.row[i];
  const std::int64_t from = at.stream * job.s.max_rows + row;
  const std::int64_t slot = at.stream * job.max_out + to + i;
  if (job.out_masks != nullptr) job.out_masks[slot] = job.keep[from];
  if (job.out_pos == nullptr) return;
  const std::int32_t first = job.first_pos == nullptr ? 0 : job.first_pos[at.seq];
  job.out_pos[slot] = job.pos != nullptr ? job.pos[from] : first + static_cast<std::int32_t>(row);
}

/// Units that rows are moved in: 16 bytes, or a value.
struct Units {
  int n;      ///< of a row
  int width;  ///< values of one

  __device__ Units(const RowSource& source, const Target& target, int head_dim) {
    width = !target.aligned ? 1 : source.dtype == DType::f32 ? 4 : 8;
    n = head_dim / width;
  }
};

/// Grid: streams times parts, K and V in y.
__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ CompactJob job) {
  KVCODEC_SHARED(kept, Kept);
  const StreamShare at(job.s, job.n_parts);
  const std::int64_t begin = at.share * kPartRows;
  if (begin >= at.n_rows) return;
  const int n = list_kept(job, at, begin, kept);
  const std::int64_t to = job.begins[at.stream * job.n_parts + at.share];
  const bool key = blockIdx.y == 0;
  const RowSource& source = key ? job.s.k : job.s.v;
  const Target& target = job.side[blockIdx.y];
  const Units units(source, target, job.s.head_dim);
  const std::int64_t out_row = job.out_first[at.seq] + to;
  for (int i = static_cast<int>(threadIdx.x); i < n * units.n; i += kThreads) {
    const int slot = i / units.n;
    if (to + slot >= job.max_out) break;
    const std::int64_t c = static_cast<std::int64_t>(i % units.n) * units.width;
    const std::int64_t from = source.row(at.first + begin + kept.row[slot], at.head) + c;
    const std::int64_t into =
        (out_row + slot) * target.token_stride + at.head * target.head_stride + c;
    if (units.width == 1) {
      copy_value(target.data, into, source.data, from, source.dtype == DType::f32);
    } else {
      reinterpret_cast<uint4*>(target.data)[into / units.width] =
          load_vector(static_cast<const uint4*>(source.data) + from / units.width);
    }
  }
  if (key) copy_labels(job, at, begin, kept, n, to);
}

/// The same where a row's new place may be another row's old one: a CTA goes through a stream in order and
/// writes a few rows only after it has read them. Grid: streams, K and V in y.
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ CompactJob job) {
  constexpr int kPasses = 4;
  KVCODEC_SHARED(kept, Kept);
  const StreamShare at(job.s, 1);
  const bool key = blockIdx.y == 0;
  const RowSource& source = key ? job.s.k : job.s.v;
  const Target& target = job.side[blockIdx.y];
  const Units units(source, target, job.s.head_dim);
  std::int64_t to = 0;
  for (std::int64_t begin = 0; begin < at.n_rows; begin += kPartRows) {
    const int n = list_kept(job, at, begin, kept);
    for (int base = 0; base < n * units.n; base += kPasses * kThreads) {
      uint4 held[kPasses];
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const int i = base + pass * kThreads + static_cast<int>(threadIdx.x);
        if (i >= n * units.n) continue;
        const std::int64_t c = static_cast<std::int64_t>(i % units.n) * units.width;
        const std::int64_t from = source.row(at.first + begin + kept.row[i / units.n], at.head) + c;
        if (units.width == 1) {
          copy_value(&held[pass], 0, source.data, from, source.dtype == DType::f32);
        } else {
          held[pass] = load_vector(static_cast<const uint4*>(source.data) + from / units.width);
        }
      }
      __syncthreads();
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const int i = base + pass * kThreads + static_cast<int>(threadIdx.x);
        if (i >= n * units.n || to + i / units.n >= job.max_out) continue;
        const std::int64_t c = static_cast<std::int64_t>(i % units.n) * units.width;
        const std::int64_t into = source.row(at.first + to + i / units.n, at.head) + c;
        if (units.width == 1) {
          copy_value(target.data, into, &held[pass], 0, source.dtype == DType::f32);
        } else {
          reinterpret_cast<uint4*>(target.data)[into / units.width] = held[pass];
        }
      }
      __syncthreads();  // what was written lies below what the next pass reads
    }
    if (key) copy_labels(job, at, begin, kept, n, to);
    __syncthreads();  // before the list is made anew
    to += n;
  }
}

constexpr const char* kCall = "compact_rows";

void require_other_labels(const char* name, const void* in, const void* out) {
  if (in == nullptr || in != out) return;
  throw invalid_argument(std::string(kCall) + ": " + name +
                         " is the array of the input, allowed: another one");
}

Target target_of(const AnyRows& in, void* data, std::int64_t token_stride,
                 std::int64_t head_stride) {
  AnyRows out = in;
  out.data = data;
  out.token_stride = token_stride;
  out.head_stride = head_stride;
  return {data, token_stride, head_stride, RowSource(in).aligned && RowSource(out).aligned};
}

/// Whether rows move where they stand; throws if only some of them would.
bool moves_in_place(const JudgedRows& rows, const CompactedRows& out) {
  const bool k_same = out.k == rows.k.data;
  if (k_same != (out.v == rows.v.data)) {
    throw invalid_argument(std::string(kCall) +
                           ": one of out.k and out.v is the input, allowed: both or none");
  }
  if (!k_same) return false;
  if (out.k_token_stride != rows.k.token_stride || out.k_head_stride != rows.k.head_stride ||
      out.v_token_stride != rows.v.token_stride || out.v_head_stride != rows.v.head_stride) {
    throw invalid_argument(std::string(kCall) +
                           ": out has other strides than the rows it shares memory with");
  }
  if (out.first != rows.first || out.n_before != nullptr) {
    throw invalid_argument(std::string(kCall) +
                           ": rows that move where they stand need out.first = first and "
                           "out.n_before = null");
  }
  return true;
}

void require_out(const JudgedRows& rows, const RowPositions& positions, const KeepMask* keep,
                 const CompactedRows& out) {
  require_lengths(kCall, rows);
  require_pointer(kCall, "k.data", rows.k.data);
  require_pointer(kCall, "v.data", rows.v.data);
  require_pointer(kCall, "keep", keep);
  require_pointer(kCall, "out.k", out.k);
  require_pointer(kCall, "out.v", out.v);
  require_pointer(kCall, "out.first", out.first);
  require_pointer(kCall, "out.n_after", out.n_after);
  // Labels are read by other CTAs than write them.
  require_other_labels("out.pos", positions.pos, out.pos);
  require_other_labels("out.masks", keep, out.masks);
}

}  // namespace

std::size_t compact_workspace_bytes(const JudgedRows& rows) {
  require_judged(kCall, rows);
  Workspace memory;
  memory.take<std::int64_t>(std::int64_t{rows.n_seq} * rows.shape.n_kv_heads *
                            ceil_div(rows.max_rows, kPartRows));
  return memory.bytes();
}

void compact_rows(const JudgedRows& rows, const RowPositions& positions, const KeepMask* keep,
                  const CompactedRows& out, void* workspace, std::size_t workspace_bytes,
                  Stream stream) {
  const std::size_t needed = compact_workspace_bytes(rows);
  if (out.max_out < 0) {
    throw invalid_argument(bad_value(kCall, "out.max_out", out.max_out, "0 or more"));
  }
  if (rows.n_seq == 0) return;
  require_out(rows, positions, keep, out);
  const bool in_place = moves_in_place(rows, out);
  require_workspace(kCall, workspace, workspace_bytes, needed);
  const std::int64_t n_streams = std::int64_t{rows.n_seq} * rows.shape.n_kv_heads;
  const std::int64_t n_parts = ceil_div(rows.max_rows, kPartRows);
  Workspace memory(workspace);
  const CompactJob job{Streams(rows),
                       {target_of(rows.k, out.k, out.k_token_stride, out.k_head_stride),
                        target_of(rows.v, out.v, out.v_token_stride, out.v_head_stride)},
                       keep,
                       positions.pos,
                       positions.first_pos,
                       out.first,
                       out.n_before,
                       out.n_after,
                       out.pos,
                       out.masks,
                       out.max_out,
                       n_parts,
                       memory.take<std::int64_t>(n_streams * n_parts)};
  check(launch(count_kernel, {dim3(static_cast<unsigned>(n_streams)), dim3(kThreads), 0, stream},
               job),
        kCall);
  const LaunchShape shape{
      dim3(static_cast<unsigned>(in_place ? n_streams : n_streams * n_parts), 2), dim3(kThreads), 0,
      stream};
  check(in_place ? launch(move_kernel, shape, job) : launch(copy_kernel, shape, job), kCall);
}

}  // namespace kvcodec::cuda
