#include "src/eval/synthetic_kv.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "kvcodec/core/error.hpp"

namespace kvcodec::eval {
namespace {

constexpr std::size_t kDim = SyntheticContext::kShape.head_dim;
constexpr std::size_t kHalf = kDim / 2;
constexpr double kDimension = SyntheticContext::kShape.head_dim;
constexpr double kTheta = 1e6;
constexpr double kHeavyWidth = 3.0;
constexpr double kQueryNoise = 0.1;
constexpr double kQueryBias = 1.0;
constexpr double kSinkKeyNorm = 40.0;
constexpr double kSinkValue = 0.02;
constexpr double kValueMean = 0.2;
constexpr std::size_t kTopics = 6;
constexpr int kDrift = 64;               // tokens between two draws of the topics' weights
constexpr std::int64_t kFirstFact = 64;  // sinks and the tokens beside them stay as they are
constexpr std::int64_t kLastFact = 256;  // from the end: no fact in anyone's raw window

/// Pairs that turn by less than half a radian over the longest context are the slowest 6 of 64.
constexpr std::size_t kSlowPairs = 6;

const std::vector<KvModel>& models() {
  static const std::vector<KvModel> all = {
      {"rope", true, 0.45, 3, 3.5, 5, 11.0 / std::sqrt(10.0), 0.05, 0.7, 1},
      {"iid", false, 0.0, 0, 1.0, 0, 0.0, 0.0, 0.0, 0},
      {"outliers", false, 0.0, 4, 8.0, 0, 0.0, 0.0, 0.0, 0},
      {"biased", false, 0.0, 4, 2.0, 4, 15.0, 0.0, 0.0, 0},
      {"lognormal", false, 0.5, 0, 1.0, 2, 20.0, 0.0, 0.0, 0},
  };
  return all;
}

/// Numbers from a key: splitmix64 and Box-Muller.
class Numbers {
 public:
  template <class... Part>
  explicit Numbers(std::uint64_t seed, Part... parts) : state_(seed) {
    ((state_ = bits() ^ static_cast<std::uint64_t>(parts)), ...);
  }
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }
  /// Fills x [n], n even, with unit Gaussians.
  void gauss(float* x, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 2) {
      const auto radius = static_cast<float>(std::sqrt(-2.0 * std::log(uniform())));
      const auto angle = static_cast<float>(6.283185307179586 * uniform());
      x[i] = radius * std::cos(angle);
      x[i + 1] = radius * std::sin(angle);
    }
  }
  std::vector<float> gauss(std::size_t n) {
    std::vector<float> x(n);
    gauss(x.data(), n);
    return x;
  }

 private:
  std::uint64_t state_;
};

/// What a stream of numbers is for; part of its key.
enum class Use : std::uint8_t { head, place, key, value, topic, content, query, plain };

std::uint64_t use(Use u) { return static_cast<std::uint64_t>(u) + 1; }

double norm(const std::vector<float>& x) {
  double sum = 0.0;
  for (const float c : x) sum += static_cast<double>(c) * static_cast<double>(c);
  return std::sqrt(sum);
}

void scale_to(std::vector<float>& x, double length) {
  const auto factor = static_cast<float>(length / norm(x));
  for (float& c : x) c *= factor;
}

/// Unit variance although a share of the values is wider.
void make_heavy(float* x, double share, Numbers& numbers) {
  if (share == 0.0) return;
  const double variance = 1.0 - share + share * kHeavyWidth * kHeavyWidth;
  const auto narrow = static_cast<float>(1.0 / std::sqrt(variance));
  for (std::size_t c = 0; c < kDim; ++c) {
    x[c] *= numbers.uniform() < share ? narrow * static_cast<float>(kHeavyWidth) : narrow;
  }
}

std::vector<double> rope_frequencies(bool rope) {
  std::vector<double> f;
  for (std::size_t i = 0; i < kHalf; ++i)
    f.push_back(rope ? std::pow(kTheta, -2.0 * static_cast<double>(i) / kDimension) : 0.0);
  return f;
}

/// Hot pairs are spread over all frequencies but the slowest, in each head others.
bool hot_pair(std::size_t pair, std::size_t n_hot, std::int32_t head) {
  if (n_hot == 0 || pair >= kHalf - kSlowPairs) return false;
  const std::size_t apart = (kHalf - kSlowPairs) / n_hot;
  return pair / apart < n_hot && pair % apart == 5 + 3 * static_cast<std::size_t>(head);
}

std::int64_t checked_length(std::int64_t n) {
  if (n >= 1024 && n <= (1 << 20)) return n;
  throw invalid_argument(bad_value("synthetic context", "length", n, "1024..1048576 tokens"));
}

/// Smallest gain whose logit, gain times `signal`, exceeds by `odds` the log of the sum of exp over n
/// Gaussian others of variance gain^2 spread + more.
double smallest_gain(double n, double signal, double spread, double more, double odds) {
  const auto missing = [&](double g) {
    return std::log(n) + (g * g * spread + more) / 2.0 + odds - g * signal;
  };
  double low = 0.0;
  double high = signal / spread;  // where the parabola is least
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2.0;
    (missing(middle) > 0.0 ? low : high) = middle;
  }
  return high;
}

/// Takes off x what it shares with `unit`, and makes what is left a unit vector.
void make_orthonormal(std::vector<float>& x, const std::vector<std::vector<float>>& unit) {
  for (const std::vector<float>& e : unit) {
    double dot = 0.0;
    for (std::size_t c = 0; c < kDim; ++c) {
      dot += static_cast<double>(x[c]) * static_cast<double>(e[c]);
    }
    for (std::size_t c = 0; c < kDim; ++c) x[c] -= static_cast<float>(dot) * e[c];
  }
  scale_to(x, 1.0);
}

}  // namespace

KvModel kv_model(const std::string& name) {
  for (const KvModel& m : models()) {
    if (m.name == name) return m;
  }
  throw invalid_argument(bad_value("synthetic", "--kv-model", name, kv_model_names()));
}

std::string kv_model_names() {
  std::string text;
  for (const KvModel& m : models()) text += (text.empty() ? "" : ", ") + m.name;
  return text;
}

const char* to_string(TaskKind kind) noexcept {
  constexpr std::array names = {"needle", "multi_needle", "key_value"};
  return names[static_cast<std::size_t>(kind)];
}

SyntheticContext::SyntheticContext(const KvModel& model, std::int64_t n_tokens, std::uint64_t seed)
    : model_(model),
      n_tokens_(checked_length(n_tokens)),
      seed_(seed),
      frequencies_(rope_frequencies(model.rope)),
      rope_(frequencies_, static_cast<std::int32_t>(n_tokens)) {
  place_facts();
  for (std::int32_t h = 0; h < kShape.n_kv_heads; ++h) heads_.push_back(make_head(h));
  set_gains();
  for (std::int32_t h = 0; h < kShape.n_kv_heads; ++h) {
    plant(heads_[static_cast<std::size_t>(h)], h);
  }
  if (!model.rope) frequencies_.clear();
}

void SyntheticContext::place_facts() {
  Numbers numbers(seed_, use(Use::place), n_tokens_);
  std::set<std::int32_t> taken;
  const std::int64_t room = n_tokens_ - kFirstFact - kLastFact;
  const auto place = [&](double share) {
    auto at = static_cast<std::int32_t>(kFirstFact + share * static_cast<double>(room));
    while (!taken.insert(at).second) ++at;
    positions_.push_back(at);
    return static_cast<std::int32_t>(positions_.size()) - 1;
  };
  for (std::int32_t i = 0; i < kNeedles; ++i) {
    const double depth = (i + 0.5) / kNeedles;
    queries_.push_back({TaskKind::needle, depth, {place(depth)}});
  }
  for (std::int32_t g = 0; g < kGroups; ++g) {
    Planted p{TaskKind::multi_needle, 0.0, {}};
    for (std::int32_t i = 0; i < kPerGroup; ++i) p.facts.push_back(place(numbers.uniform()));
    queries_.push_back(p);
  }
  for (std::int32_t i = 0; i < kPairs; ++i) {
    queries_.push_back({TaskKind::key_value, 0.0, {place(numbers.uniform())}});
  }
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    fact_at_.emplace_back(positions_[i], static_cast<std::int32_t>(i));
  }
  std::sort(fact_at_.begin(), fact_at_.end());
}

SyntheticContext::Head SyntheticContext::make_head(std::int32_t index) const {
  Numbers numbers(seed_, use(Use::head), index);
  Head h;
  h.scale.assign(kDim, 1.0f);
  h.mean.assign(kDim, 0.0f);
  const std::vector<float> spread = numbers.gauss(kDim);
  for (std::size_t i = 0; i < kHalf; ++i) {
    const double own = std::exp(model_.lognormal * static_cast<double>(spread[i]));
    const bool hot = hot_pair(i, static_cast<std::size_t>(model_.hot_pairs), index);
    h.scale[i] = h.scale[i + kHalf] = static_cast<float>(own * (hot ? model_.hot : 1.0));
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(model_.biased_pairs); ++i) {
    const std::size_t pair = kHalf - 1 - i;
    h.mean[pair] = static_cast<float>(numbers.uniform() < 0.5 ? -model_.bias : model_.bias);
    h.mean[pair + kHalf] = static_cast<float>(numbers.uniform() < 0.5 ? -model_.bias : model_.bias);
  }
  h.sink = numbers.gauss(kDim);
  for (std::size_t c = 0; c < kDim; ++c) {
    if (h.mean[c] != 0.0f) h.sink[c] = 0.0f;
  }
  scale_to(h.sink, 1.0);
  for (std::size_t t = 0; t < kTopics; ++t) h.topics.push_back(numbers.gauss(kDim));
  h.v_mean = numbers.gauss(kDim);
  h.v_scale = numbers.gauss(kDim);
  for (std::size_t c = 0; c < kDim; ++c) {
    h.v_mean[c] *= static_cast<float>(kValueMean);
    h.v_scale[c] = std::exp(static_cast<float>(model_.lognormal) * h.v_scale[c]);
  }
  return h;
}

void SyntheticContext::set_gains() {
  const double n = static_cast<double>(n_tokens_);
  const double width = 1.0 + model_.topic * model_.topic;  // variance of a key in units of D
  const double signal = std::sqrt(kDimension) * width;
  const double odds = std::log(kShare / (1.0 - kShare)) + (model_.sinks > 0 ? std::log(2.0) : 0.0);
  const Head& h = heads_[0];
  double sink_spread = 0.0;
  for (std::size_t c = 0; c < kDim; ++c) {
    const double x = static_cast<double>(h.sink[c]) * static_cast<double>(h.scale[c]);
    sink_spread += x * x * width / kDimension;
  }
  // The sink weighs as much as all other tokens, which in turn vary with the sink's part of the query.
  for (int round = 0; round < 20; ++round) {
    const double more = kQueryNoise * kQueryNoise * width + sink_gain_ * sink_gain_ * sink_spread;
    const double m = kPerGroup;
    gain_[0] = smallest_gain(n, signal, width * width, more, odds);
    gain_[1] = smallest_gain(n, signal, m * width * width, more, odds - std::log(m));
    const double others = std::log(n) + (gain_[0] * gain_[0] * width * width + more) / 2.0;
    sink_gain_ = model_.sinks > 0 ? others * std::sqrt(kDimension) / kSinkKeyNorm : 0.0;
  }
  gain_[2] = kKeyValueLogit / signal;
  const double margin = std::log(kShare / (1.0 - kShare) * kPairs);
  cosine_ = 1.0 - margin / kKeyValueLogit;
}

std::vector<std::vector<float>> SyntheticContext::sink_directions(const Head& head) const {
  if (model_.sinks == 0) return {};
  std::vector<float> by_key(kDim), by_query(kDim);
  for (std::size_t c = 0; c < kDim; ++c) {
    by_key[c] = head.sink[c] / head.scale[c];
    by_query[c] = head.sink[c] * head.scale[c];
  }
  make_orthonormal(by_key, {});
  make_orthonormal(by_query, {by_key});
  return {by_key, by_query};
}

void SyntheticContext::plant(Head& head, std::int32_t index) const {
  Numbers numbers(seed_, use(Use::content), index);
  const double length = std::sqrt(kDimension * (1.0 + model_.topic * model_.topic));
  const std::vector<std::vector<float>> apart = sink_directions(head);
  std::vector<float> common = numbers.gauss(kDim);
  make_orthonormal(common, apart);
  std::vector<std::vector<float>> pairs = apart;  // and what they share, and their own
  pairs.push_back(common);
  for (const Planted& query : queries_) {
    std::vector<std::vector<float>> group = apart;
    for (std::size_t i = 0; i < query.facts.size(); ++i) {
      std::vector<float> u = numbers.gauss(kDim);
      make_heavy(u.data(), model_.heavy, numbers);
      if (query.kind == TaskKind::key_value) {
        make_orthonormal(u, pairs);
        pairs.push_back(u);
        for (std::size_t c = 0; c < kDim; ++c) {
          u[c] = static_cast<float>(std::sqrt(cosine_)) * common[c] +
                 static_cast<float>(std::sqrt(1.0 - cosine_)) * u[c];
        }
      } else {
        make_orthonormal(u, group);
        group.push_back(u);
      }
      scale_to(u, length);
      head.contents.push_back(std::move(u));
    }
  }
}

void SyntheticContext::add_topics(const Head& head, std::int32_t index, std::int64_t token,
                                  float* x) const {
  if (model_.topic == 0.0) return;
  const std::int64_t knot = token / kDrift;
  const std::vector<float> from = Numbers(seed_, use(Use::topic), index, knot).gauss(kTopics);
  const std::vector<float> to = Numbers(seed_, use(Use::topic), index, knot + 1).gauss(kTopics);
  const auto share = static_cast<float>(token % kDrift) / static_cast<float>(kDrift);
  // Between two draws the weights keep their variance.
  const float a = std::sqrt(1.0f - share), b = std::sqrt(share);
  const auto factor = static_cast<float>(model_.topic / std::sqrt(static_cast<double>(kTopics)));
  for (std::size_t t = 0; t < kTopics; ++t) {
    const float weight = factor * (a * from[t] + b * to[t]);
    for (std::size_t c = 0; c < kDim; ++c) x[c] += weight * head.topics[t][c];
  }
}

void SyntheticContext::key_row(std::int32_t index, std::int64_t token, float* k) const {
  const Head& h = heads_[static_cast<std::size_t>(index)];
  if (token < model_.sinks) {
    for (std::size_t c = 0; c < kDim; ++c) k[c] = h.sink[c] * static_cast<float>(kSinkKeyNorm);
    if (model_.rope) rope_.rotate(static_cast<std::int32_t>(token), k);
    return;
  }
  const auto fact = std::lower_bound(fact_at_.begin(), fact_at_.end(),
                                     std::pair{static_cast<std::int32_t>(token), 0});
  const float* planted = fact == fact_at_.end() || fact->first != token
                             ? nullptr
                             : h.contents[static_cast<std::size_t>(fact->second)].data();
  if (planted != nullptr) {
    std::fill(k, k + kDim, 0.0f);
  } else {
    Numbers numbers(seed_, use(Use::key), index, token);
    numbers.gauss(k, kDim);
    make_heavy(k, model_.heavy, numbers);
    add_topics(h, index, token, k);
  }
  for (std::size_t c = 0; c < kDim; ++c) k[c] = k[c] * h.scale[c] + h.mean[c];
  if (model_.rope) rope_.rotate(static_cast<std::int32_t>(token), k);
  if (planted == nullptr) return;
  for (std::size_t c = 0; c < kDim; ++c) k[c] += h.scale[c] * planted[c];
}

void SyntheticContext::value_row(std::int32_t index, std::int64_t token, float* v) const {
  const Head& h = heads_[static_cast<std::size_t>(index)];
  Numbers(seed_, use(Use::value), index, token).gauss(v, kDim);
  const float factor = token < model_.sinks ? static_cast<float>(kSinkValue) : 1.0f;
  for (std::size_t c = 0; c < kDim; ++c) v[c] = factor * (h.v_mean[c] + h.v_scale[c] * v[c]);
}

void SyntheticContext::rows(std::int64_t first, std::int64_t n, float* k, float* v,
                            const Executor& executor) const {
  executor.parallel_for(kShape.n_kv_heads * n, [&](std::int64_t i, int) {
    const auto head = static_cast<std::int32_t>(i / n);
    key_row(head, first + i % n, k + i * kShape.head_dim);
    value_row(head, first + i % n, v + i * kShape.head_dim);
  });
}

void SyntheticContext::add_background(const Head& head, std::uint64_t seed, float* q) const {
  const std::vector<float> noise = Numbers(seed).gauss(kDim);
  const double bias = norm(head.mean);
  for (std::size_t c = 0; c < kDim; ++c) {
    q[c] += static_cast<float>(kQueryNoise) * noise[c] / head.scale[c];
    q[c] += static_cast<float>(sink_gain_) * head.sink[c];
    if (bias > 0.0) q[c] += static_cast<float>(kQueryBias / bias) * head.mean[c];
  }
}

std::vector<float> SyntheticContext::query_rows() const {
  std::vector<float> q(queries_.size() * static_cast<std::size_t>(kShape.n_q_heads) * kDim, 0.0f);
  float* row = q.data();
  for (std::size_t i = 0; i < queries_.size(); ++i) {
    for (std::int32_t index = 0; index < kShape.n_q_heads; ++index, row += kDim) {
      const Head& h = heads_[static_cast<std::size_t>(index)];
      add_background(h, Numbers(seed_, use(Use::query), index, i).bits(), row);
      const auto gain = static_cast<float>(gain_[static_cast<std::size_t>(queries_[i].kind)]);
      for (const std::int32_t fact : queries_[i].facts) {
        const std::vector<float>& u = h.contents[static_cast<std::size_t>(fact)];
        for (std::size_t c = 0; c < kDim; ++c) row[c] += gain * u[c] / h.scale[c];
      }
    }
  }
  return q;
}

std::vector<float> SyntheticContext::plain_queries(std::int64_t n) const {
  std::vector<float> q(static_cast<std::size_t>(n * kShape.n_q_heads * kShape.head_dim), 0.0f);
  float* row = q.data();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int32_t index = 0; index < kShape.n_q_heads; ++index, row += kDim) {
      const Head& h = heads_[static_cast<std::size_t>(index)];
      Numbers numbers(seed_, use(Use::plain), index, i);
      add_background(h, numbers.bits(), row);
      const std::vector<float> u = numbers.gauss(kDim);
      for (std::size_t c = 0; c < kDim; ++c)
        row[c] += static_cast<float>(gain_[0]) * u[c] / h.scale[c];
    }
  }
  return q;
}

std::vector<double> SyntheticContext::in_deviations(std::int32_t head, const double* v) const {
  const Head& h = heads_[static_cast<std::size_t>(head)];
  std::vector<double> x(v, v + kDim);
  for (std::size_t c = 0; c < kDim; ++c) {
    x[c] = (x[c] - static_cast<double>(h.v_mean[c])) / static_cast<double>(h.v_scale[c]);
  }
  return x;
}

std::vector<double> SyntheticContext::answer(std::int32_t head, std::int32_t fact) const {
  std::vector<float> v(kDim);
  value_row(head, positions_[static_cast<std::size_t>(fact)], v.data());
  return in_deviations(head, std::vector<double>(v.begin(), v.end()).data());
}

}  // namespace kvcodec::eval
