#include "src/eval/divergence.hpp"

#include <algorithm>
#include <cmath>

#include "examples/llama/sampler.hpp"
#include "kvcodec/core/error.hpp"
#include "src/eval/percentile.hpp"

namespace kvcodec::eval {
namespace {

/// log of the sum of exp(x).
double log_sum(std::span<const float> x) {
  const float top = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const float value : x) sum += std::exp(static_cast<double>(value - top));
  return static_cast<double>(top) + std::log(sum);
}

double mean(std::span<const float> x) {
  double sum = 0.0;
  for (const float value : x) sum += static_cast<double>(value);
  return sum / static_cast<double>(x.size());
}

}  // namespace

void DivergenceSum::add(std::span<const float> base, std::span<const float> plan,
                        std::int32_t vocab_size, const Executor& executor) {
  if (vocab_size < 1 || base.size() != plan.size() ||
      base.size() % static_cast<std::size_t>(vocab_size) != 0) {
    throw invalid_argument(bad_value(
        "divergence", "plan.size()", plan.size(),
        std::to_string(base.size()) + ", the size of base, rows of " + std::to_string(vocab_size)));
  }
  const auto width = static_cast<std::size_t>(vocab_size);
  added_.resize(base.size() / width);
  executor.parallel_for(std::ssize(added_), [&](std::int64_t row, int) {
    const auto at = static_cast<std::size_t>(row) * width;
    const auto p = base.subspan(at, width), q = plan.subspan(at, width);
    const double p_sum = log_sum(p), q_sum = log_sum(q), shift = mean(q) - mean(p);
    Row r{0.0, 0.0, 0.0, llama::argmax(p) == llama::argmax(q)};
    for (std::size_t i = 0; i < width; ++i) {
      const auto pi = static_cast<double>(p[i]), qi = static_cast<double>(q[i]);
      r.kl += std::exp(pi - p_sum) * ((pi - p_sum) - (qi - q_sum));
      const double difference = qi - pi - shift;
      r.square += difference * difference;
      r.largest = std::max(r.largest, std::abs(difference));
    }
    r.kl = std::max(r.kl, 0.0);  // never below but for rounding
    added_[static_cast<std::size_t>(row)] = r;
  });
  rows_.insert(rows_.end(), added_.begin(), added_.end());
  n_values_ += std::ssize(base);
}

Divergence DivergenceSum::result() const {
  Divergence d;
  if (rows_.empty()) return d;
  std::vector<double> kl;
  std::int64_t n_agree = 0;
  double square = 0.0;
  for (const Row& r : rows_) {
    kl.push_back(r.kl);
    d.kl_mean += r.kl;
    square += r.square;
    d.logit_max = std::max(d.logit_max, r.largest);
    n_agree += r.agrees ? 1 : 0;
  }
  const auto n = static_cast<double>(rows_.size());
  d.n_tokens = std::ssize(rows_);
  d.kl_mean /= n;
  d.kl_p99 = percentile(kl, 0.99);
  d.kl_max = percentile(kl, 1.0);
  d.top1_agreement = static_cast<double>(n_agree) / n;
  d.logit_rms = std::sqrt(square / static_cast<double>(n_values_));
  return d;
}

Baseline::Baseline(const llama::Model& model, Documents documents, BaselineOptions options)
    : model_(model), options_(std::move(options)), documents_(std::move(documents)) {
  std::int64_t n_kept = 0, total = 0, bytes = 0;
  for (std::size_t i = 0; i < documents_.size(); ++i) {
    const std::int64_t n = std::ssize(documents_[i]) - 1;
    if (n < 1) {
      const std::string name = "documents[" + std::to_string(i) + "].size()";
      throw invalid_argument(
          bad_value("baseline", name.c_str(), documents_[i].size(), "2 and above"));
    }
    bytes += n * model_.config().vocab_size * static_cast<std::int64_t>(sizeof(float));
    if (bytes > options_.max_bytes) break;
    n_kept = static_cast<std::int64_t>(i) + 1;
    total += n;
  }
  if (n_kept == 0) return;
  llama::Engine engine(model_, options_.plan, max_tokens());
  std::int64_t done = 0;
  for (std::int64_t i = 0; i < n_kept; ++i) {
    llama::DocumentPasses passes(engine, documents_[static_cast<std::size_t>(i)],
                                 options_.chunk_size);
    std::vector<float>& kept = kept_.emplace_back();
    while (!passes.done()) {
      const std::span<const float> logits = passes.next();
      kept.insert(kept.end(), logits.begin(), logits.end());
      if (options_.progress) options_.progress(done + passes.position(), total);
    }
    done += passes.position();
  }
}

std::int64_t Baseline::max_tokens() const noexcept {
  std::int64_t longest = 1;
  for (const auto& d : documents_) longest = std::max(longest, std::ssize(d));
  return longest;
}

Divergence Baseline::score(const std::string& plan) const {
  llama::Engine engine(model_, plan, max_tokens());
  return score(engine);
}

Divergence Baseline::score(llama::Engine& engine) const {
  DivergenceSum sum;
  BaselineReader reader(*this);
  const std::int32_t vocab = model_.config().vocab_size;
  for (std::size_t i = 0; i < documents_.size(); ++i) {
    llama::DocumentPasses passes(engine, documents_[i], options_.chunk_size);
    while (!passes.done()) {
      const std::int64_t first = passes.position();
      const std::span<const float> logits = passes.next();
      sum.add(reader.rows(i, first, passes.position() - first), logits, vocab, model_.executor());
    }
  }
  return sum.result();
}

std::span<const float> BaselineReader::rows(std::size_t document, std::int64_t first,
                                            std::int64_t n) {
  const std::int64_t vocab = baseline_.model_.config().vocab_size;
  if (document < baseline_.kept_.size()) {
    return std::span(baseline_.kept_[document])
        .subspan(static_cast<std::size_t>(first * vocab), static_cast<std::size_t>(n * vocab));
  }
  if (engine_ == nullptr) {
    engine_ = std::make_unique<llama::Engine>(baseline_.model_, baseline_.options_.plan,
                                              baseline_.max_tokens());
  }
  if (first == 0) {
    passes_.reset();  // closes the sequence before the next one opens
    passes_.emplace(*engine_, baseline_.documents_.at(document), baseline_.options_.chunk_size);
    document_ = document;
  }
  const bool in_order = passes_ && document_ == document && passes_->position() == first;
  const std::span<const float> logits = in_order ? passes_->next() : std::span<const float>();
  if (std::ssize(logits) != n * vocab || n == 0) {
    throw invalid_argument(
        bad_value("baseline", "first, n", std::to_string(first) + ", " + std::to_string(n),
                  "the chunks of a document in order, of " +
                      std::to_string(baseline_.options_.chunk_size) + " tokens"));
  }
  return logits;
}

}  // namespace kvcodec::eval
