#include "src/eval/synthetic.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::eval {
namespace {

constexpr HeadShape kShape = SyntheticContext::kShape;
constexpr std::size_t kDim = kShape.head_dim;
constexpr std::size_t kHeads = kShape.n_q_heads;
constexpr std::int64_t kChunk = 512;  // tokens made and appended at a time
constexpr double kNone = -std::numeric_limits<double>::infinity();
constexpr std::int64_t kDepths = 8;
static_assert(kShape.n_q_heads == kShape.n_kv_heads);

/// What one way of attending gave, per query and head.
struct Answers {
  std::vector<double> out;  ///< [n_queries, n_heads, head_dim]
  std::vector<double> lse;  ///< [n_queries, n_heads]
  std::vector<double>
      fact;  ///< log-sums of facts alone, in the order they are asked, [.., n_heads]
};

/// Exact attention, row after row.
class ExactAttention {
 public:
  explicit ExactAttention(const SyntheticContext& context)
      : context_(context), q_(context.query_rows()) {
    const std::size_t n = context.queries().size() * kHeads;
    answers_.out.assign(n * kDim, 0.0);
    answers_.lse.assign(n, kNone);
    largest_.assign(n, kNone);
    sum_.assign(n, 0.0);
    for (const Planted& p : context.queries())
      first_fact_.push_back(n_facts_), n_facts_ += p.facts.size();
    answers_.fact.assign(n_facts_ * kHeads, kNone);
  }

  const std::vector<float>& queries() const { return q_; }

  /// k, v [n_heads, n, head_dim]: rows first..first+n-1.
  void add(std::int64_t first, std::int64_t n, const float* k, const float* v,
           const Executor& executor) {
    executor.parallel_for(static_cast<std::int64_t>(sum_.size()), [&](std::int64_t i, int) {
      const std::size_t head = static_cast<std::size_t>(i) % kHeads;
      const auto at = head * static_cast<std::size_t>(n) * kDim;
      add_rows(static_cast<std::size_t>(i), first, n, k + at, v + at);
    });
  }

  Answers finish() {
    for (std::size_t i = 0; i < sum_.size(); ++i) {
      for (std::size_t c = 0; c < kDim; ++c) answers_.out[i * kDim + c] /= sum_[i];
      answers_.lse[i] = largest_[i] + std::log(sum_[i]);
    }
    return std::move(answers_);
  }

 private:
  void add_rows(std::size_t i, std::int64_t first, std::int64_t n, const float* k, const float* v) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(kDim));
    const float* q = q_.data() + i * kDim;
    double* out = answers_.out.data() + i * kDim;
    for (std::int64_t r = 0; r < n; ++r, k += kDim, v += kDim) {
      double dot = 0.0;
      for (std::size_t c = 0; c < kDim; ++c) {
        dot += static_cast<double>(q[c]) * static_cast<double>(k[c]);
      }
      const double logit = scale * dot;
      note_fact(i, first + r, logit);
      if (logit > largest_[i]) {
        const double factor = std::exp(largest_[i] - logit);
        sum_[i] *= factor;
        for (std::size_t c = 0; c < kDim; ++c) out[c] *= factor;
        largest_[i] = logit;
      }
      const double weight = std::exp(logit - largest_[i]);
      sum_[i] += weight;
      for (std::size_t c = 0; c < kDim; ++c) out[c] += weight * static_cast<double>(v[c]);
    }
  }

  void note_fact(std::size_t i, std::int64_t token, double logit) {
    const Planted& p = context_.queries()[i / kHeads];
    for (std::size_t f = 0; f < p.facts.size(); ++f) {
      if (context_.positions()[static_cast<std::size_t>(p.facts[f])] != token) continue;
      answers_.fact[(first_fact_[i / kHeads] + f) * kHeads + i % kHeads] = logit;
    }
  }

  const SyntheticContext& context_;
  std::vector<float> q_;
  std::vector<double> largest_, sum_;
  std::vector<std::size_t> first_fact_;
  std::size_t n_facts_ = 0;
  Answers answers_;
};

CacheConfig config_of(const std::string& plan, const SyntheticContext& context) {
  CacheConfig config = make_cache_config(plan, kShape, 1, context.n_tokens());
  if (config.rope_frequencies.empty()) config.rope_frequencies = context.frequencies();
  return config;
}

AttendOptions attend_options() {
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(kDim));
  return options;
}

/// One plan in one context.
class PlanRun {
 public:
  PlanRun(const std::string& plan, const SyntheticContext& context)
      : cache_(config_of(plan, context)), seq_(cache_.open()) {}

  void append(std::int64_t n, const float* k, const float* v) {
    const auto d = static_cast<std::int64_t>(kDim);
    cache_.append(seq_, 0, Rows<float>{k, n, d, n * d}, Rows<float>{v, n, d, n * d});
  }

  /// Policies that observe see queries that ask for nothing planted.
  void end_prompt(const SyntheticContext& context) {
    const std::int64_t n = std::min<std::int64_t>(cache_.observed_rows(0), context.n_tokens());
    if (n > 0) {
      const std::vector<float> q = context.plain_queries(n);
      cache_.observe(seq_, 0, dense_rows(q.data(), n, kShape.n_q_heads, kShape.head_dim),
                     attend_options().sm_scale);
    }
    cache_.end_prompt(seq_);
  }

  CacheBytes bytes() const { return cache_.bytes(seq_); }

  Answers ask(const SyntheticContext& context, const std::vector<float>& q,
              const Executor& executor) {
    const auto n = static_cast<std::int64_t>(context.queries().size());
    const std::vector<std::int32_t> newest(static_cast<std::size_t>(n),
                                           static_cast<std::int32_t>(context.n_tokens() - 1));
    Answers a;
    std::vector<float> out, lse;
    attend(q, newest, attend_options(), out, lse, executor);
    a.out.assign(out.begin(), out.end());
    a.lse.assign(lse.begin(), lse.end());
    // A query that stands at a fact's position and sees one position sees the fact alone.
    std::vector<float> repeated;
    std::vector<std::int32_t> at;
    for (std::size_t i = 0; i < context.queries().size(); ++i) {
      for (const std::int32_t fact : context.queries()[i].facts) {
        const auto row = q.begin() + static_cast<std::ptrdiff_t>(i * kHeads * kDim);
        repeated.insert(repeated.end(), row, row + kHeads * kDim);
        at.push_back(context.positions()[static_cast<std::size_t>(fact)]);
      }
    }
    AttendOptions alone = attend_options();
    alone.window = 1;
    attend(repeated, at, alone, out, lse, executor);
    a.fact.assign(lse.begin(), lse.end());
    return a;
  }

 private:
  /// q [pos.size(), n_heads, head_dim] at these positions.
  void attend(std::vector<float> q, const std::vector<std::int32_t>& pos,
              const AttendOptions& options, std::vector<float>& out, std::vector<float>& lse,
              const Executor& executor) {
    const LayerConfig& layer = cache_.config().layers[0];
    const auto n = static_cast<std::int64_t>(pos.size());
    for (std::size_t row = 0; row < pos.size() * kHeads; ++row) {
      layer.k.transform.query(kShape.head_dim, static_cast<int>(row % kHeads),
                              q.data() + row * kDim);
    }
    out.assign(q.size(), 0.0f);
    lse.assign(pos.size() * kHeads, 0.0f);
    const KvView view = cache_.view(0, {&seq_, 1}, work_.view);
    const std::vector<std::int64_t> indptr = {0, n};
    const Queries queries{q.data(), indptr.data(), pos.data(), nullptr, nullptr};
    const int n_workers = executor.run == nullptr ? 1 : executor.n_workers;
    const Status status =
        kvcodec::attend(view, queries, out.data(), lse.data(), options,
                        work_.bytes(attend_workspace_bytes(view, queries, n_workers)), executor);
    if (status != Status::ok)
      throw error(std::string("synthetic: attention: ") + to_string(status));
    for (std::size_t row = 0; row < pos.size() * kHeads; ++row) {
      layer.v.transform.output(kShape.head_dim, static_cast<int>(row % kHeads),
                               out.data() + row * kDim);
    }
  }

  Cache cache_;
  SeqId seq_;
  AttendWorkspace work_;
};

/// Adds the answers to all queries of a context to the scores of a plan.
class Judge {
 public:
  explicit Judge(const SyntheticContext& context) : context_(context) {
    for (std::size_t h = 0; h < kHeads; ++h) {
      std::vector<std::vector<double>> values;
      for (std::size_t f = 0; f < context.positions().size(); ++f) {
        values.push_back(
            context.answer(static_cast<std::int32_t>(h), static_cast<std::int32_t>(f)));
      }
      values_.push_back(std::move(values));
    }
  }

  void add(const Answers& answers, const Answers& exact, SyntheticLength& to) const {
    std::size_t fact = 0;
    for (std::size_t i = 0; i < context_.queries().size(); ++i) {
      const Planted& p = context_.queries()[i];
      SyntheticScore& score = score_of(p, to);
      for (std::size_t h = 0; h < kHeads; ++h) {
        const std::size_t row = i * kHeads + h;
        const double error = relative_error(answers, exact, row);
        to.out_err_mean += error;
        to.out_err_worst = std::max(to.out_err_worst, error);
        const std::vector<std::int32_t> nearest = nearest_facts(answers, row, p.facts.size());
        for (std::size_t f = 0; f < p.facts.size(); ++f) {
          const double mass = std::exp(answers.fact[(fact + f) * kHeads + h] - answers.lse[row]);
          score.mass += mass;
          ++score.asked;
          const bool found = std::find(nearest.begin(), nearest.end(), p.facts[f]) != nearest.end();
          if (found && mass >= 0.5 / static_cast<double>(p.facts.size())) ++score.right;
        }
      }
      fact += p.facts.size();
    }
  }

 private:
  SyntheticScore& score_of(const Planted& p, SyntheticLength& to) const {
    std::optional<double> depth;
    if (p.kind == TaskKind::needle) {
      const double part = std::floor(p.depth * static_cast<double>(kDepths));
      depth = (part + 0.5) / static_cast<double>(kDepths);
    }
    for (SyntheticScore& s : to.scores) {
      if (s.task == p.kind && s.depth == depth) return s;
    }
    to.scores.push_back({p.kind, depth, 0, 0, 0.0});
    return to.scores.back();
  }

  double relative_error(const Answers& answers, const Answers& exact, std::size_t row) const {
    double square = 0.0, whole = 0.0;
    for (std::size_t c = row * kDim; c < (row + 1) * kDim; ++c) {
      square += (answers.out[c] - exact.out[c]) * (answers.out[c] - exact.out[c]);
      whole += exact.out[c] * exact.out[c];
    }
    return std::sqrt(square / whole);
  }

  /// The n facts whose values the output of a query and head is closest to.
  std::vector<std::int32_t> nearest_facts(const Answers& answers, std::size_t row,
                                          std::size_t n) const {
    const std::size_t head = row % kHeads;
    const std::vector<double> out =
        context_.in_deviations(static_cast<std::int32_t>(head), answers.out.data() + row * kDim);
    std::vector<std::pair<double, std::int32_t>> order;
    for (const std::vector<double>& value : values_[head]) {
      double dot = 0.0, square = 0.0;
      for (std::size_t c = 0; c < kDim; ++c) {
        dot += out[c] * value[c];
        square += value[c] * value[c];
      }
      order.emplace_back(-dot / std::sqrt(square), static_cast<std::int32_t>(order.size()));
    }
    std::sort(order.begin(), order.end());
    std::vector<std::int32_t> nearest;
    for (std::size_t i = 0; i < n; ++i) nearest.push_back(order[i].second);
    return nearest;
  }

  const SyntheticContext& context_;
  std::vector<std::vector<std::vector<double>>> values_;  // [head][fact] of head_dim
};

/// All plans in one context.
class ContextRun {
 public:
  ContextRun(const SyntheticContext& context, const std::vector<NamedPlan>& plans,
             const SyntheticOptions& options)
      : context_(context), exact_(context) {
    for (const NamedPlan& p : plans) {
      const bool skipped =
          context.n_tokens() > options.codebook_tokens && has_codebook(config_of(p.plan, context));
      runs_.push_back(skipped ? nullptr : std::make_unique<PlanRun>(p.plan, context));
    }
  }

  void fill(const std::function<void(std::int64_t)>& progress, const Executor& executor) {
    std::vector<float> k(static_cast<std::size_t>(kChunk) * kHeads * kDim), v(k.size());
    for (std::int64_t first = 0; first < context_.n_tokens(); first += kChunk) {
      const std::int64_t n = std::min(kChunk, context_.n_tokens() - first);
      context_.rows(first, n, k.data(), v.data(), executor);
      exact_.add(first, n, k.data(), v.data(), executor);
      executor.parallel_for(std::ssize(runs_), [&](std::int64_t i, int) {
        PlanRun* run = runs_[static_cast<std::size_t>(i)].get();
        if (run != nullptr) run->append(n, k.data(), v.data());
      });
      progress(n);
    }
    for (const auto& run : runs_) {
      if (run != nullptr) run->end_prompt(context_);
    }
  }

  /// results: exact attention, then the plans; `at`: which of their lengths.
  void judge(std::size_t at, std::vector<SyntheticResult>& results, const Executor& executor) {
    const Judge judge(context_);
    const Answers exact = exact_.finish();
    judge.add(exact, exact, results[0].lengths[at]);
    results[0].lengths[at].run = true;
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i] == nullptr) continue;
      SyntheticLength& to = results[i + 1].lengths[at];
      const CacheBytes bytes = runs_[i]->bytes();
      to.run = true;
      to.bytes = bytes.total();
      to.bits_all = bytes.bits_per_value();
      to.payload_bits =
          8.0 * static_cast<double>(bytes.payload) / static_cast<double>(bytes.n_values);
      judge.add(runs_[i]->ask(context_, exact_.queries(), executor), exact, to);
      runs_[i].reset();
    }
  }

 private:
  const SyntheticContext& context_;
  ExactAttention exact_;
  std::vector<std::unique_ptr<PlanRun>> runs_;
};

void check(const SyntheticOptions& o) {
  if (o.lengths.empty()) {
    throw invalid_argument(bad_value("synthetic", "lengths", 0, "at least one length"));
  }
  if (o.contexts < 1 || o.contexts > 1000) {
    throw invalid_argument(bad_value("synthetic", "contexts", o.contexts, "1..1000"));
  }
}

/// Sums over queries and contexts become means.
void finish(SyntheticLength& l) {
  std::int64_t n_rows = 0;
  for (SyntheticScore& s : l.scores) {
    const std::int64_t per_row = s.task == TaskKind::multi_needle ? SyntheticContext::kPerGroup : 1;
    const std::int64_t rows = s.asked / per_row;
    n_rows += rows;
    s.mass /= static_cast<double>(rows);
  }
  if (n_rows > 0) l.out_err_mean /= static_cast<double>(n_rows);
}

}  // namespace

std::vector<SyntheticResult> run_synthetic(const std::vector<NamedPlan>& plans,
                                           const SyntheticOptions& options,
                                           const Executor& executor) {
  check(options);
  const KvModel model = kv_model(options.kv_model);
  std::vector<SyntheticResult> results = {{"exact", "", {}}};
  for (const NamedPlan& p : plans) results.push_back({p.name, p.plan, {}});
  std::int64_t total = 0, done = 0;
  for (const std::int64_t length : options.lengths) total += length * options.contexts;
  for (std::size_t at = 0; at < options.lengths.size(); ++at) {
    const std::int64_t length = options.lengths[at];
    for (SyntheticResult& r : results) r.lengths.emplace_back().length = length;
    for (std::int32_t c = 0; c < options.contexts; ++c) {
      const SyntheticContext context(model, length,
                                     options.seed * 1000 + static_cast<std::uint64_t>(c));
      ContextRun run(context, plans, options);
      run.fill(
          [&](std::int64_t n) {
            done += n;
            if (options.progress) options.progress(done, total);
          },
          executor);
      run.judge(at, results, executor);
    }
    for (SyntheticResult& r : results) finish(r.lengths[at]);
  }
  return results;
}

}  // namespace kvcodec::eval
