// Attention over a view: cuts a call into units of work (work.hpp), runs them, merges splits.
#include "kvcodec/attend/attend.hpp"

#include <array>
#include <atomic>
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
        options_(options),
        state_rows_(most_state_rows(view, queries)) {
    unit_begin_ = reinterpret_cast<std::int64_t*>(workspace);
    state_begin_ = unit_begin_ + view.n_seq + 1;
    wide_begin_ = state_begin_ + view.n_seq + 1;
    memory_ = reinterpret_cast<float*>(workspace + table_bytes(view));
    unit_begin_[0] = 0;
    state_begin_[0] = 0;
    wide_begin_[0] = 0;
    for (std::int64_t s = 0; s < view.n_seq; ++s) {
      const SequencePlan plan = plan_sequence(view, queries, s);
      const std::int64_t n = plan.n_units(view.shape.n_kv_heads);
      unit_begin_[s + 1] = unit_begin_[s] + n;
      state_begin_[s + 1] = state_begin_[s] + (plan.split_parallel ? n : 0);
      wide_begin_[s + 1] = wide_begin_[s] + (plan.split_parallel ? n_tokens(s) : 0);
    }
    const std::int64_t n_states = state_begin_[view.n_seq];
    n_done_ = reinterpret_cast<std::int32_t*>(memory_ + n_states * state_size());
    std::fill_n(n_done_, n_states, 0);
    wide_ = memory_ + n_states * state_size() + counter_floats(n_states);
    scratch_ =
        wide_ + wide_begin_[view.n_seq] * view.shape.n_q_heads * Scratch::prepared_width(view);
  }

  static std::size_t bytes(const KvView& view, const Queries& queries, int n_workers) noexcept {
    std::int64_t n_states = 0;
    std::int64_t n_wide = 0;
    for (std::int64_t s = 0; s < view.n_seq; ++s) {
      const SequencePlan plan = plan_sequence(view, queries, s);
      if (!plan.split_parallel) continue;
      n_states += plan.n_units(view.shape.n_kv_heads);
      n_wide += queries.indptr[s + 1] - queries.indptr[s];
    }
    const std::int64_t head_dim = view.shape.head_dim;
    const std::int64_t floats = n_states * state_floats(most_state_rows(view, queries), head_dim) +
                                counter_floats(n_states) +
                                n_wide * view.shape.n_q_heads * Scratch::prepared_width(view) +
                                n_workers * Scratch::floats(view);
    return static_cast<std::size_t>(table_bytes(view) + 4 * floats);
  }

  void run(const Executor& executor) {
    n_workers_ = executor.run == nullptr ? 1 : executor.n_workers;
    if (Scratch::prepared_width(view_) > 0) {
      executor.parallel_for(
          std::int64_t{view_.n_seq} * view_.shape.n_kv_heads,
          [this](std::int64_t i, int worker) { widen_queries(i, scratch(worker)); });
    }
    executor.parallel_for(unit_begin_[view_.n_seq],
                          [this](std::int64_t i, int worker) { run_unit(i, scratch(worker)); });
  }

 private:
  /// Bytes of unit_begin_, state_begin_ and wide_begin_, a multiple of 64.
  static std::int64_t table_bytes(const KvView& view) noexcept {
    return (3 * (std::int64_t{view.n_seq} + 1) + 7) / 8 * 64;
  }

  /// Room for one counter per state.
  static std::int64_t counter_floats(std::int64_t n_states) noexcept {
    static_assert(sizeof(std::int32_t) == sizeof(float));
    return (n_states + 15) / 16 * 16;
  }

  /// Query rows of a split-parallel unit, at most.
  static std::int64_t most_state_rows(const KvView& view, const Queries& queries) noexcept {
    std::int64_t n_tokens = 0;
    for (std::int64_t s = 0; s < view.n_seq; ++s) {
      const SequencePlan plan = plan_sequence(view, queries, s);
      const std::int64_t n = queries.indptr[s + 1] - queries.indptr[s];
      if (plan.split_parallel) n_tokens = std::max(n_tokens, std::min(n, plan.tokens_per_unit));
    }
    return n_tokens * view.shape.gqa_group();
  }

  std::int64_t state_size() const noexcept {
    return state_floats(state_rows_, view_.shape.head_dim);
  }

  Scratch scratch(int worker) const noexcept {
    return Scratch::at(scratch_ + worker * Scratch::floats(view_), view_);
  }

  std::int64_t n_tokens(std::int64_t seq) const noexcept {
    return queries_.indptr[seq + 1] - queries_.indptr[seq];
  }

  /// Where a unit of a split-parallel sequence finds its queries as the key codec takes them: preparing
  /// them costs as much as attending over hundreds of keys, so its splits share them.
  float* wide_queries(const Unit& u) const noexcept {
    const std::int64_t group = view_.shape.gqa_group();
    const std::int64_t row = wide_begin_[u.seq] * view_.shape.n_q_heads +
                             u.head * n_tokens(u.seq) * group +
                             (u.first_token - queries_.indptr[u.seq]) * group;
    return wide_ + row * view_.k_codec.query_width(view_.shape.head_dim);
  }

  /// Fills wide_ for sequence i / n_kv_heads and head i % n_kv_heads.
  void widen_queries(std::int64_t i, const Scratch& scratch) const noexcept {
    const std::int64_t seq = i / view_.shape.n_kv_heads;
    const SequencePlan plan = plan_sequence(view_, queries_, seq);
    if (!plan.split_parallel) return;
    const std::int64_t first = i % view_.shape.n_kv_heads * plan.n_token_groups;
    for (std::int64_t group = first; group < first + plan.n_token_groups; ++group) {
      const Unit u = unit_of(seq, plan, group);
      load_queries(u, scratch);
      rows_.widen_queries(u, scratch, wide_queries(u));
    }
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

  void run_unit(std::int64_t index, Scratch scratch) {
    const std::int64_t seq = sequence_of(index);
    const SequencePlan plan = plan_sequence(view_, queries_, seq);
    const std::int64_t local = index - unit_begin_[seq];
    if (plan.split_parallel) {
      const std::int64_t group = local / plan.n_splits;
      const Unit u = unit_of(seq, plan, group);
      load_queries(u, scratch);
      if (scratch.prepared != scratch.q) scratch.prepared = wide_queries(u);
      if (local % plan.n_splits + 1 < plan.n_splits) rows_.prepare_widened(u, scratch);
      run_split(u, plan, local % plan.n_splits, scratch,
                state_at(memory_ + (state_begin_[seq] + local) * state_size(), state_rows_));
      const std::int64_t first = state_begin_[seq] + group * plan.n_splits;
      // Whoever finishes a group's last split merges them all, in order.
      const std::int32_t n_before =
          std::atomic_ref<std::int32_t>(n_done_[first]).fetch_add(1, std::memory_order_acq_rel);
      if (n_before + 1 == plan.n_splits) merge_splits(u, plan, memory_ + first * state_size());
      return;
    }
    const Unit u = unit_of(seq, plan, local);
    load_queries(u, scratch);
    rows_.prepare_queries(u, scratch);
    const PartialState running = state_at(scratch.running, kUnitRows);
    run_split(u, plan, 0, scratch, running);
    for (std::int64_t split = 1; split < plan.n_splits; ++split) {
      if (split + 1 == plan.n_splits && !has_raw_rows(u)) break;
      const PartialState part = state_at(scratch.split, kUnitRows);
      run_split(u, plan, split, scratch, part);
      add_state(running, part, u.n_rows);
    }
    finish(u, running);
  }

  /// Merges the states of a group's splits, the first of which stands at `first`.
  void merge_splits(const Unit& u, const SequencePlan& plan, float* first) const noexcept {
    const PartialState running = state_at(first, state_rows_);
    for (std::int64_t split = 1; split < plan.n_splits; ++split) {
      add_state(running, state_at(first + split * state_size(), state_rows_), u.n_rows);
    }
    finish(u, running);
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

  /// Of all heads, in the order they are added; null: none.
  std::array<const RawRows*, 3> raw_rows() const noexcept {
    return {view_.sinks, view_.kept, view_.recent};
  }

  /// Whether the last split, of rows that are not encoded, has any.
  bool has_raw_rows(const Unit& u) const noexcept {
    if (queries_.k_new != nullptr) return true;
    const std::int64_t head = u.seq * view_.shape.n_kv_heads + u.head;
    for (const RawRows* rows : raw_rows()) {
      if (rows != nullptr && rows[head].n_rows > 0) return true;
    }
    return false;
  }

  void run_split(const Unit& u, const SequencePlan& plan, std::int64_t split,
                 const Scratch& scratch, const PartialState& state) const noexcept {
    clear(state, u.n_rows);
    const std::int64_t head = u.seq * view_.shape.n_kv_heads + u.head;
    if (split + 1 < plan.n_splits) {
      // Threads take units in turn: heads, where one unit does all of a head.
      const bool known = !plan.split_parallel || n_workers_ == 1;
      const std::int64_t following = known ? head + n_workers_ : -1;
      rows_.encoded(u, split * kSplitRows, following, scratch, state);
      return;
    }
    for (const RawRows* rows : raw_rows()) {
      if (rows != nullptr) rows_.raw(u, rows[head], scratch, state);
    }
    if (queries_.k_new != nullptr) rows_.fresh(u, scratch, state);
  }

  /// Adds a split's state to the running one; to an empty one it would be itself, bit for bit, so the first
  /// split is where others are added. Sums that stand at the same maximum are added as
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
      if (l > 0.0f) {
        rows_.table().normalise_row(head_dim, state.acc + i * head_dim, shrink, l, out);
      } else {
        std::fill_n(out, head_dim, 0.0f);
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
  std::int64_t state_rows_;
  std::int64_t* unit_begin_;   ///< [n_seq + 1]
  std::int64_t* state_begin_;  ///< [n_seq + 1]
  float* memory_;              ///< states of split-parallel units
  std::int32_t* n_done_;       ///< per state; the one of a group's first split counts its splits
  std::int64_t* wide_begin_;   ///< [n_seq + 1] query tokens of split-parallel sequences before it
  float* wide_;                ///< their queries as the key codec takes them
  float* scratch_;             ///< [n_workers]
  int n_workers_ = 1;
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
  return reading == cpu::TileReading::integer || reading == cpu::TileReading::integer_sketch;
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
