// Attention over a view: cuts a call into units of work (work.hpp), runs them, merges splits.
#include "kvcodec/attend/attend.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "src/attend/options.hpp"
#include "src/attend/row_attention.hpp"
#include "src/attend/work.hpp"

namespace kvcodec {
namespace {

constexpr float kEmpty = -std::numeric_limits<float>::infinity();

/// Everything a call works with.
class Call {
 public:
  Call(const KvView& view, const Queries& queries, float* out, float* lse,
       const AttendOptions& options, std::byte* workspace)
      : view_(view),
        queries_(queries),
        out_(out),
        lse_(lse),
        rows_(view, queries, options),
        options_(options) {
    unit_begin_ = reinterpret_cast<std::int64_t*>(workspace);
    state_begin_ = unit_begin_ + view.n_seq + 1;
    memory_ = reinterpret_cast<float*>(workspace + table_bytes(view));
    unit_begin_[0] = 0;
    state_begin_[0] = 0;
    for (std::int64_t s = 0; s < view.n_seq; ++s) {
      const SequencePlan plan = plan_sequence(view, queries, s);
      const std::int64_t n = plan.n_units(view.shape.n_kv_heads);
      unit_begin_[s + 1] = unit_begin_[s] + n;
      state_begin_[s + 1] = state_begin_[s] + (plan.split_parallel ? n : 0);
    }
    scratch_ = memory_ + state_begin_[view.n_seq] * state_size();
  }

  static std::size_t bytes(const KvView& view, const Queries& queries, int n_workers) noexcept {
    std::int64_t n_states = 0;
    for (std::int64_t s = 0; s < view.n_seq; ++s) {
      const SequencePlan plan = plan_sequence(view, queries, s);
      if (plan.split_parallel) n_states += plan.n_units(view.shape.n_kv_heads);
    }
    const std::int64_t head_dim = view.shape.head_dim;
    const std::int64_t floats =
        n_states * state_floats(kUnitRows, head_dim) + n_workers * Scratch::floats(view);
    return static_cast<std::size_t>(table_bytes(view) + 4 * floats);
  }

  void run(const Executor& executor) {
    executor.parallel_for(unit_begin_[view_.n_seq],
                          [this](std::int64_t i, int worker) { run_unit(i, scratch(worker)); });
    executor.parallel_for(view_.n_seq, [this](std::int64_t s, int) { merge_splits(s); });
  }

 private:
  /// Bytes of unit_begin_ and state_begin_, a multiple of 64.
  static std::int64_t table_bytes(const KvView& view) noexcept {
    return (2 * (std::int64_t{view.n_seq} + 1) + 7) / 8 * 64;
  }

  std::int64_t state_size() const noexcept { return state_floats(kUnitRows, view_.shape.head_dim); }

  Scratch scratch(int worker) const noexcept {
    return Scratch::at(scratch_ + worker * Scratch::floats(view_), view_);
  }

  std::int64_t sequence_of(std::int64_t unit) const noexcept {
    return std::upper_bound(unit_begin_, unit_begin_ + view_.n_seq + 1, unit) - unit_begin_ - 1;
  }

  Unit unit_of(std::int64_t seq, const SequencePlan& plan, std::int64_t group) const noexcept {
    Unit u;
    u.seq = seq;
    u.head = static_cast<std::int32_t>(group / plan.n_token_groups);
    u.first_token = queries_.indptr[seq] + group % plan.n_token_groups * plan.tokens_per_unit;
    u.n_tokens = static_cast<std::int32_t>(
        std::min(plan.tokens_per_unit, queries_.indptr[seq + 1] - u.first_token));
    u.n_rows = u.n_tokens * view_.shape.gqa_group();
    return u;
  }

  void run_unit(std::int64_t index, const Scratch& scratch) {
    const std::int64_t seq = sequence_of(index);
    const SequencePlan plan = plan_sequence(view_, queries_, seq);
    const std::int64_t local = index - unit_begin_[seq];
    if (plan.split_parallel) {
      const Unit u = unit_of(seq, plan, local / plan.n_splits);
      load_queries(u, scratch);
      if (local % plan.n_splits + 1 < plan.n_splits) rows_.prepare_queries(u, scratch);
      run_split(u, plan, local % plan.n_splits, scratch,
                state_at(memory_ + (state_begin_[seq] + local) * state_size(), kUnitRows));
      return;
    }
    const Unit u = unit_of(seq, plan, local);
    load_queries(u, scratch);
    rows_.prepare_queries(u, scratch);
    const PartialState running = state_at(scratch.running, kUnitRows);
    clear(running, u.n_rows);
    for (std::int64_t split = 0; split < plan.n_splits; ++split) {
      const PartialState part = state_at(scratch.split, kUnitRows);
      run_split(u, plan, split, scratch, part);
      add_state(running, part, u.n_rows);
    }
    finish(u, running);
  }

  /// Merges the splits of sequences that ran them in parallel, in order.
  void merge_splits(std::int64_t seq) {
    const SequencePlan plan = plan_sequence(view_, queries_, seq);
    if (!plan.split_parallel) return;
    for (std::int64_t group = 0; group < plan.n_groups(view_.shape.n_kv_heads); ++group) {
      const Unit u = unit_of(seq, plan, group);
      float* first = memory_ + (state_begin_[seq] + group * plan.n_splits) * state_size();
      // The first split merged into an empty state would be itself, bit for bit.
      const PartialState running = state_at(first, kUnitRows);
      for (std::int64_t split = 1; split < plan.n_splits; ++split) {
        add_state(running, state_at(first + split * state_size(), kUnitRows), u.n_rows);
      }
      finish(u, running);
    }
  }

  void load_queries(const Unit& u, const Scratch& scratch) const noexcept {
    const std::int64_t head_dim = view_.shape.head_dim;
    const std::int64_t n = view_.shape.gqa_group() * head_dim;
    for (std::int64_t t = 0; t < u.n_tokens; ++t) {
      const float* from =
          queries_.q + (u.first_token + t) * view_.shape.n_q_heads * head_dim + u.head * n;
      std::memcpy(scratch.q + t * n, from, static_cast<std::size_t>(n) * sizeof(float));
    }
  }

  void clear(const PartialState& state, int n_rows) const noexcept {
    std::fill_n(state.m, n_rows, kEmpty);
    std::fill_n(state.l, n_rows, 0.0f);
    std::fill_n(state.acc, n_rows * view_.shape.head_dim, 0.0f);
  }

  void run_split(const Unit& u, const SequencePlan& plan, std::int64_t split,
                 const Scratch& scratch, const PartialState& state) const noexcept {
    clear(state, u.n_rows);
    if (split + 1 < plan.n_splits) {
      rows_.encoded(u, split * kSplitRows, scratch, state);
      return;
    }
    const std::int64_t raw = u.seq * view_.shape.n_kv_heads + u.head;
    if (view_.sinks != nullptr) rows_.raw(u, view_.sinks[raw], scratch, state);
    if (view_.kept != nullptr) rows_.raw(u, view_.kept[raw], scratch, state);
    if (view_.recent != nullptr) rows_.raw(u, view_.recent[raw], scratch, state);
    if (queries_.k_new != nullptr) rows_.fresh(u, scratch, state);
  }

  /// Adds a split's state to the running one. Sums that stand at the same maximum are added as
  /// they are, so exact sums stay exact.
  void add_state(const PartialState& running, const PartialState& part, int n_rows) const noexcept {
    const int head_dim = view_.shape.head_dim;
    for (int i = 0; i < n_rows; ++i) {
      if (part.m[i] == kEmpty) continue;
      float* acc = running.acc + i * head_dim;
      const float* more = part.acc + i * head_dim;
      const float top = std::max(running.m[i], part.m[i]);
      const float a = running.m[i] == kEmpty ? 0.0f : std::exp(running.m[i] - top);
      const float b = std::exp(part.m[i] - top);
      for (int c = 0; c < head_dim; ++c) acc[c] = acc[c] * a + more[c] * b;
      running.l[i] = running.l[i] * a + part.l[i] * b;
      running.m[i] = top;
    }
  }

  /// Sink logits, normalisation, results.
  void finish(const Unit& u, const PartialState& state) const noexcept {
    const int head_dim = view_.shape.head_dim;
    const int group = view_.shape.gqa_group();
    for (int i = 0; i < u.n_rows; ++i) {
      const std::int64_t q_head = u.head * group + i % group;
      const std::int64_t row = (u.first_token + i / group) * view_.shape.n_q_heads + q_head;
      float* out = out_ + row * head_dim;
      float m = state.m[i];
      float l = state.l[i];
      float shrink = 1.0f;
      if (options_.sink_logits != nullptr && options_.sink_logits[q_head] != kEmpty) {
        const float sink = options_.sink_logits[q_head];
        const float top = std::max(m, sink);
        shrink = m == kEmpty ? 0.0f : std::exp(m - top);
        l = l * shrink + std::exp(sink - top);
        m = top;
      }
      for (int c = 0; c < head_dim; ++c) {
        out[c] = l > 0.0f ? state.acc[i * head_dim + c] * shrink / l : 0.0f;
      }
      if (lse_ != nullptr) lse_[row] = l > 0.0f ? m + std::log(l) : kEmpty;
    }
  }

  const KvView& view_;
  const Queries& queries_;
  float* out_;
  float* lse_;
  RowAttention rows_;
  const AttendOptions& options_;
  std::int64_t* unit_begin_;   ///< [n_seq + 1]
  std::int64_t* state_begin_;  ///< [n_seq + 1]
  float* memory_;              ///< states of split-parallel units
  float* scratch_;             ///< [n_workers]
};

bool good_view(const KvView& v) noexcept {
  if (v.n_seq < 0 || !v.k_codec || !v.v_codec || v.shape.n_kv_heads < 1 || v.format.span < 1 ||
      v.shape.n_q_heads % v.shape.n_kv_heads != 0 || v.shape.gqa_group() < 1 ||
      v.shape.gqa_group() > kMaxGqaGroup || v.shape.head_dim != v.format.head_dim ||
      v.shape.n_kv_heads % v.format.span != 0 || v.format.page_size < kTileRows) {
    return false;
  }
  if (v.n_seq == 0) return true;
  if (v.indptr == nullptr) return false;
  const std::int64_t n_pages = v.indptr[std::int64_t{v.n_seq} * v.n_streams_per_seq()];
  return n_pages == 0 || (v.pages != nullptr && v.indices != nullptr &&
                          (v.last_page_len != nullptr || v.n_encoded != nullptr) &&
                          v.page_stride >= static_cast<std::int64_t>(v.format.page_bytes()));
}

}  // namespace

bool attends_in_integers(const AnyCodec& codec, Side side, int head_dim) noexcept {
  const cpu::Kernels& table = cpu::kernels();
  const cpu::TileReading reading =
      side == Side::key ? cpu::KeyKernel(table, codec, head_dim, false, true).reading()
                        : cpu::ValueKernel(table, codec, head_dim, false, true).reading();
  return reading == cpu::TileReading::integer;
}

std::size_t attend_workspace_bytes(const KvView& view, const Queries& queries,
                                   int n_workers) noexcept {
  if (!good_view(view) || (view.n_seq > 0 && queries.indptr == nullptr)) return 0;
  return Call::bytes(view, queries, std::max(1, n_workers));
}

Status attend(const KvView& view, const Queries& queries, float* out, float* lse,
              const AttendOptions& options, std::span<std::byte> workspace,
              const Executor& executor) noexcept {
  if (!good_view(view) || find_bad_option(options, view.shape.n_q_heads).name != nullptr) {
    return Status::invalid_argument;
  }
  if (view.n_seq == 0) return Status::ok;
  if (queries.indptr == nullptr) return Status::invalid_argument;
  for (std::int32_t i = 0; i < view.n_seq; ++i) {
    if (queries.indptr[i + 1] < queries.indptr[i]) return Status::invalid_argument;
  }
  if (queries.indptr[view.n_seq] == queries.indptr[0]) return Status::ok;
  if (queries.q == nullptr || queries.pos == nullptr || out == nullptr ||
      (queries.k_new == nullptr) != (queries.v_new == nullptr)) {
    return Status::invalid_argument;
  }
  const int n_workers = executor.run == nullptr ? 1 : std::max(1, executor.n_workers);
  if (workspace.size() < Call::bytes(view, queries, n_workers) ||
      reinterpret_cast<std::uintptr_t>(workspace.data()) % 64 != 0) {
    return Status::invalid_argument;
  }
  Call(view, queries, out, lse, options, workspace.data()).run(executor);
  return Status::ok;
}

}  // namespace kvcodec
