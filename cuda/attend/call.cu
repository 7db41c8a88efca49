#include "cuda/attend/call.hpp"

#include <algorithm>
#include <string>

#include "cuda/attend/sketch.cuh"
#include "cuda/codec/arguments.hpp"
#include "cuda/core/check.hpp"
#include "src/attend/options.hpp"

namespace kvcodec::cuda {
namespace {

constexpr std::int32_t kDefaultSplitRows = 1024;
constexpr std::int64_t kMaxGridZ = 65535;

template <class V>
[[noreturn]] void refuse(const char* what, const char* name, const V& value,
                         const std::string& allowed) {
  throw invalid_argument(bad_value(what, name, value, allowed));
}

}  // namespace

void check_sizes(const char* what, const KvView& view, const AttendLimits& limits) {
  kvcodec::check(view.shape);
  if (view.n_seq < 0 || view.n_seq > kMaxGridZ) refuse(what, "n_seq", view.n_seq, "0..65535");
  if (limits.max_tokens_per_seq < 1 || limits.max_tokens_per_seq > 1 << 16) {
    refuse(what, "max_tokens_per_seq", limits.max_tokens_per_seq, "1..65536");
  }
  constexpr std::int64_t kMost = std::int64_t{1} << 31;
  if (limits.max_encoded_rows < 0 || limits.max_encoded_rows >= kMost) {
    refuse(what, "max_encoded_rows", limits.max_encoded_rows, "0..2^31 - 1");
  }
  if (limits.max_raw_rows < 0 || limits.max_raw_rows >= kMost) {
    refuse(what, "max_raw_rows", limits.max_raw_rows, "0..2^31 - 1");
  }
  if (limits.split_rows < 0 || limits.split_rows % 256 != 0) {
    refuse(what, "split_rows", limits.split_rows, "0 (default) or a multiple of 256");
  }
}

void check_call(const char* what, const KvView& view, const DeviceQueries& queries,
                const AttendOptions& options) {
  AttendOptions on_host = options;
  on_host.sink_logits = nullptr;
  const BadOption bad = find_bad_option(on_host, view.shape.n_q_heads);
  if (bad.name != nullptr) refuse(what, bad.name, bad.value, bad.allowed);
  const auto need = [&](const char* name, const void* pointer) {
    if (pointer == nullptr) refuse(what, name, "null", "a device pointer");
  };
  need("q", queries.q);
  need("indptr of the queries", queries.indptr);
  need("pos of the queries", queries.pos);
  need("indptr of the view", view.indptr);
  if ((queries.k_new == nullptr) != (queries.v_new == nullptr)) {
    refuse(what, "k_new, v_new", "one of them null", "both or none");
  }
  if (view.k_codecs == nullptr) require_tables(what, view.k_codec, view.shape.head_dim);
  if (view.v_codecs == nullptr) require_tables(what, view.v_codec, view.shape.head_dim);
}

void check_workspace(const char* what, const void* workspace, std::size_t bytes,
                     std::size_t needed) {
  if (workspace == nullptr && needed > 0) refuse(what, "workspace", "null", "a device pointer");
  if (bytes < needed) {
    refuse(what, "workspace_bytes", bytes, "at least " + std::to_string(needed));
  }
}

AttendParams plan_call(const KvView& view, const AttendLimits& limits, int most_rows) {
  AttendParams p{};
  p.view = view;
  p.split_rows = limits.split_rows > 0 ? limits.split_rows : kDefaultSplitRows;
  p.n_page_splits =
      static_cast<std::int32_t>((limits.max_encoded_rows + p.split_rows - 1) / p.split_rows);
  p.n_raw_splits =
      static_cast<std::int32_t>((limits.max_raw_rows + kRawSplitRows - 1) / kRawSplitRows);
  const std::int64_t rows = std::int64_t{limits.max_tokens_per_seq} * view.shape.gqa_group();
  p.unit_rows = static_cast<std::int32_t>(std::min<std::int64_t>(rows, most_rows));
  p.n_units = static_cast<std::int32_t>((rows + p.unit_rows - 1) / p.unit_rows);
  return p;
}

void set_call(AttendParams& p, const DeviceQueries& queries, const AttendOptions& options) {
  p.q = queries.q;
  p.q_dtype = queries.q_dtype;
  p.q_indptr = queries.indptr;
  p.q_pos = queries.pos;
  p.k_new = queries.k_new;
  p.v_new = queries.v_new;
  p.sm_scale = options.sm_scale;
  p.logits_soft_cap = options.logits_soft_cap;
  p.window = options.window;
  p.window_sinks = options.window_sinks;
  p.sink_logits = options.sink_logits;
}

dim3 grid_of_rows(const AttendParams& p) {
  return dim3(static_cast<unsigned>(p.view.shape.n_kv_heads * p.n_units),
              static_cast<unsigned>(p.unit_rows), static_cast<unsigned>(p.view.n_seq));
}

std::size_t sketch_bytes(const AttendParams& p) {
  const Qjl* qjl = p.view.k_codec.as<Qjl>();
  if (qjl == nullptr) return 0;
  const std::int64_t n_rows =
      std::int64_t{p.view.n_seq} * p.view.shape.n_kv_heads * p.n_units * p.unit_rows;
  return static_cast<std::size_t>((n_rows * qjl->sketch_dim * 4 + 255) / 256 * 256);
}

void launch_sketch(const char* what, const AttendParams& p, float* sketch, cudaStream_t stream) {
  const Qjl* qjl = p.view.k_codec.as<Qjl>();
  if (qjl == nullptr) return;
  check(launch(sketch_kernel, {grid_of_rows(p), dim3(kAttendThreads), 0, stream}, p, *qjl, sketch),
        (std::string(what) + ", sketching queries").c_str());
}

}  // namespace kvcodec::cuda
