// Attention over a Cache: transforms in, attention over the view, transform out.
#include <cstdio>
#include <string>

#include "kvcodec/attend/attend.hpp"
#include "src/attend/options.hpp"
#include "src/cache/stopwatch.hpp"
#include "src/cpu/kernels.hpp"
#include "src/cpu/transform.hpp"

namespace kvcodec {
namespace {

[[noreturn]] void fail(const std::string& what) { throw invalid_argument("attend: " + what); }

std::string number(std::int64_t x) { return std::to_string(x); }

void check_rows(const char* name, const AnyRows& rows, std::int64_t n_tokens,
                std::int32_t head_dim) {
  if (rows.n_tokens != n_tokens) {
    fail(std::string(name) + ".n_tokens = " + number(rows.n_tokens) +
         ", allowed: " + number(n_tokens) + ", the number of query tokens");
  }
  if (n_tokens > 0 && rows.data == nullptr) fail(std::string(name) + ".data is null");
  if (rows.token_stride < 0) {
    fail(std::string(name) + ".token_stride = " + number(rows.token_stride) +
         ", allowed: 0 or more");
  }
  if (rows.head_stride < head_dim && rows.head_stride != 0) {
    fail(std::string(name) + ".head_stride = " + number(rows.head_stride) +
         ", allowed: at least head_dim = " + number(head_dim));
  }
}

void check_options(const AttendOptions& options, std::int32_t n_q_heads) {
  const BadOption bad = find_bad_option(options, n_q_heads);
  if (bad.name == nullptr) return;
  const std::string head = bad.head < 0 ? "" : "[" + number(bad.head) + "]";
  char value[32];
  std::snprintf(value, sizeof value, "%.10g", bad.value);
  fail(bad.name + head + " = " + value + ", allowed: " + bad.allowed);
}

/// Dense f32 copy [n_tokens, n_heads, head_dim], each row mapped by `map`.
template <class Map>
void load(const AnyRows& rows, std::int64_t n_heads, std::int32_t head_dim, std::vector<float>& to,
          const Executor& executor, Map map) {
  const auto n = static_cast<std::size_t>(rows.n_tokens * n_heads * head_dim);
  if (to.size() < n) to.resize(n);
  const cpu::LoadRow kernel = cpu::kernels().load_row[static_cast<int>(rows.dtype)];
  executor.parallel_for(rows.n_tokens, [&](std::int64_t token, int) {
    for (std::int64_t head = 0; head < n_heads; ++head) {
      float* x = to.data() + (token * n_heads + head) * head_dim;
      const void* from = rows.row(token, head);
      if (kernel != nullptr) {
        kernel(from, head_dim, x);
      } else {
        for (std::int32_t c = 0; c < head_dim; ++c) x[c] = load_value(rows.dtype, from, c);
      }
      map(static_cast<int>(head), x);
    }
  });
}

/// Positions of the query tokens: the newest tokens of their sequence.
void fill_positions(const Cache& cache, std::int32_t layer, const Step& step,
                    std::span<const std::int64_t> indptr, bool fresh,
                    std::vector<std::int32_t>& pos) {
  const auto n = static_cast<std::size_t>(indptr.back());
  if (pos.size() < n) pos.resize(n);
  for (std::size_t s = 0; s < step.seqs.size(); ++s) {
    const std::int64_t held = cache.n_tokens(step.seqs[s], layer);
    const std::int64_t n_query = indptr[s + 1] - indptr[s];
    const std::int64_t first = fresh ? held : held - n_query;
    if (first < 0) {
      fail("sequence " + number(step.seqs[s]) + " has " + number(n_query) +
           " query tokens but layer " + number(layer) + " holds " + number(held) + " tokens");
    }
    for (std::int64_t i = 0; i < n_query; ++i) {
      pos[static_cast<std::size_t>(indptr[s] + i)] = static_cast<std::int32_t>(first + i);
    }
  }
}

}  // namespace

std::span<std::byte> AttendWorkspace::bytes(std::size_t n) {
  if (memory_.size() < n + 64) memory_.resize(n + 64);
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  return {memory_.data() + (64 - address % 64) % 64, n};
}

void attend(const Cache& cache, std::int32_t layer, const Step& step, float* out, float* lse,
            const AttendOptions& options, AttendWorkspace& w, const Executor& executor) {
  const Stopwatch watch(w.times);
  check_options(options, cache.config().shape.n_q_heads);
  const KvView view = cache.view(layer, step.seqs, w.view);
  const HeadShape& shape = view.shape;
  const LayerConfig& config = cache.config().layers[static_cast<std::size_t>(layer)];
  if (step.indptr.empty()) {
    w.indptr.resize(step.seqs.size() + 1);
    for (std::size_t i = 0; i < w.indptr.size(); ++i) w.indptr[i] = static_cast<std::int64_t>(i);
  } else {
    if (step.indptr.size() != step.seqs.size() + 1 || step.indptr[0] != 0) {
      fail("indptr has " + number(static_cast<std::int64_t>(step.indptr.size())) +
           " entries, allowed: one more than seqs, starting with 0");
    }
    for (std::size_t s = 0; s + 1 < step.indptr.size(); ++s) {
      if (step.indptr[s + 1] < step.indptr[s]) fail("indptr decreases at " + std::to_string(s + 1));
    }
    w.indptr.assign(step.indptr.begin(), step.indptr.end());
  }
  const std::int64_t n_tokens = w.indptr.back();
  if (n_tokens == 0) return;
  const bool fresh = step.k_new.data != nullptr || step.v_new.data != nullptr;
  check_rows("q", step.q, n_tokens, shape.head_dim);
  if (fresh) {
    check_rows("k_new", step.k_new, n_tokens, shape.head_dim);
    check_rows("v_new", step.v_new, n_tokens, shape.head_dim);
  }
  if (out == nullptr) fail("out is null");
  fill_positions(cache, layer, step, w.indptr, fresh, w.pos);

  const int d = shape.head_dim;
  const int group = shape.gqa_group();
  load(step.q, shape.n_q_heads, d, w.q, executor,
       [&](int head, float* x) { cpu::transform_query(config.k.transform, d, head / group, x); });
  Queries queries{w.q.data(), w.indptr.data(), w.pos.data(), nullptr, nullptr};
  if (fresh) {
    load(step.k_new, shape.n_kv_heads, d, w.k, executor,
         [&](int head, float* x) { cpu::transform_forward(config.k.transform, d, head, x); });
    load(step.v_new, shape.n_kv_heads, d, w.v, executor,
         [&](int head, float* x) { cpu::transform_forward(config.v.transform, d, head, x); });
    queries.k_new = w.k.data();
    queries.v_new = w.v.data();
  }
  const int n_workers = executor.run == nullptr ? 1 : executor.n_workers;
  const Status status = attend(view, queries, out, lse, options,
                               w.bytes(attend_workspace_bytes(view, queries, n_workers)), executor);
  if (status != Status::ok) fail(to_string(status));
  if (config.v.transform.is_identity()) return;
  executor.parallel_for(n_tokens, [&](std::int64_t token, int) {
    for (std::int64_t head = 0; head < shape.n_q_heads; ++head) {
      cpu::transform_output(config.v.transform, d, static_cast<int>(head) / group,
                            out + (token * shape.n_q_heads + head) * d);
    }
  });
}

}  // namespace kvcodec
