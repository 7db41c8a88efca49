#include "src/eval/kv_eval.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/reference.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::eval {

using output::format;
using output::to_table;

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// Keys of one KV head as the cache holds them: in transformed space, decoded, centers added back.
std::vector<float> stored_keys(const KvView& view, int head) {
  const int d = view.shape.head_dim;
  const int span = view.format.span;
  const std::int64_t stream = head / span;
  std::vector<float> rows;
  const auto add_raw = [&](const RawRows* raw) {
    if (raw == nullptr) return;
    const RawRows& r = raw[head];
    for (std::int64_t row = 0; row < r.n_rows; ++row) {
      for (int c = 0; c < d; ++c) {
        rows.push_back(load_value(view.k_raw_dtype, r.k, row * r.row_stride + c));
      }
    }
  };
  add_raw(view.sinks);
  const int width = view.format.k_span * d;
  std::vector<float> tile(static_cast<std::size_t>(kTileRows * width));
  const std::int64_t n_encoded = view.encoded_rows(stream);
  for (std::int64_t first = 0; first < n_encoded; first += kTileRows) {
    const std::byte* memory = view.page_data(view.page_of(stream, first));
    const int strip = static_cast<int>(first % view.format.page_size / kTileRows);
    const TileRef<const std::byte> at = view.format.k_tile(memory, strip, head % span);
    view.k_codec.decode_tile(Side::key, d, at.tile, tile.data());
    for (std::int64_t row = 0; row < std::min<std::int64_t>(kTileRows, n_encoded - first); ++row) {
      const float* x = tile.data() + row * width + at.head * d;
      for (int c = 0; c < d; ++c) {
        rows.push_back(x[c] + (view.k_center == nullptr ? 0.0f : view.k_center[head * d + c]));
      }
    }
  }
  add_raw(view.recent);
  return rows;
}

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

float sm_scale(const HeadShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
}

/// One plan on one layer.
class LayerEval {
 public:
  LayerEval(const Captured& data, const Cache& cache, SeqId seq, std::int32_t layer,
            const Executor& executor)
      : data_(data), layer_(layer), executor_(executor) {
    options_.sm_scale = sm_scale(data.shape);
    if (!data.window.empty()) options_.window = data.window[static_cast<std::size_t>(layer)];
    const std::vector<SeqId> seqs(static_cast<std::size_t>(data.n_queries), seq);
    Step step;
    step.seqs = seqs;
    step.q = dense_rows(queries(), data.n_queries, data.shape.n_q_heads, data.shape.head_dim);
    const auto n = static_cast<std::size_t>(data.n_queries * data.shape.n_q_heads);
    out_.resize(n * static_cast<std::size_t>(data.shape.head_dim));
    lse_.resize(n);
    AttendWorkspace work;
    attend(cache, layer, step, out_.data(), lse_.data(), options_, work, executor);
    const LayerConfig& config = cache.config().layers[static_cast<std::size_t>(layer)];
    if (!config.policy && config.k.codec.as<Codebook>() == nullptr) {
      ViewBuffers buffers;
      const KvView view = cache.view(layer, {&seq, 1}, buffers);
      for (int head = 0; head < data.shape.n_kv_heads; ++head) {
        stored_keys_.push_back(stored_keys(view, head));
      }
    }
    transform_ = config.k.transform;
    pos_.resize(static_cast<std::size_t>(data.n_tokens));
    for (std::size_t i = 0; i < pos_.size(); ++i) pos_[i] = static_cast<std::int32_t>(i);
  }

  /// Fills errors [n_q_heads].
  void run(std::span<HeadError> errors) const {
    executor_.parallel_for(data_.shape.n_q_heads, [&](std::int64_t head, int) {
      errors[static_cast<std::size_t>(head)] = head_error(head);
    });
  }

 private:
  const float* queries() const {
    const std::int64_t n = data_.n_queries * data_.shape.n_q_heads * data_.shape.head_dim;
    return data_.q.data() + layer_ * n;
  }

  HeadError head_error(std::int64_t head) const {
    const std::int64_t d = data_.shape.head_dim;
    const std::int64_t kv_head = head / data_.shape.gqa_group();
    const std::int64_t at = (layer_ * data_.shape.n_kv_heads + kv_head) * data_.n_tokens * d;
    const float* keys = data_.k.data() + at;
    std::vector<double> expected(static_cast<std::size_t>(d));
    HeadError e;
    double square = 0.0, whole = 0.0;
    for (std::int64_t i = 0; i < data_.n_queries; ++i) {
      const std::int64_t row = i * data_.shape.n_q_heads + head;
      const float* q = queries() + row * d;
      const double lse = reference_attend(static_cast<std::int32_t>(d), data_.n_tokens, q, keys,
                                          data_.v.data() + at, d, pos_.data(), pos_.back(),
                                          options_, kNone, expected.data());
      e.lse =
          std::max(e.lse, std::abs(lse - static_cast<double>(lse_[static_cast<std::size_t>(row)])));
      for (std::int64_t c = 0; c < d; ++c) {
        const double x = expected[static_cast<std::size_t>(c)];
        const double difference =
            static_cast<double>(out_[static_cast<std::size_t>(row * d + c)]) - x;
        square += difference * difference;
        whole += x * x;
      }
    }
    e.out = whole > 0.0 ? std::sqrt(square / whole) : std::sqrt(square);
    logit_errors(head, kv_head, keys, e);
    return e;
  }

  void logit_errors(std::int64_t head, std::int64_t kv_head, const float* keys,
                    HeadError& e) const {
    if (stored_keys_.empty()) {
      e.logit_rms = e.logit_max = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    const std::int64_t d = data_.shape.head_dim;
    const float* stored = stored_keys_[static_cast<std::size_t>(kv_head)].data();
    std::vector<float> rotated(static_cast<std::size_t>(d));
    double square = 0.0;
    for (std::int64_t i = 0; i < data_.n_queries; ++i) {
      const float* q = queries() + (i * data_.shape.n_q_heads + head) * d;
      std::copy_n(q, d, rotated.begin());
      transform_.query(static_cast<int>(d), static_cast<int>(kv_head), rotated.data());
      for (std::int64_t t = 0; t < data_.n_tokens; ++t) {
        const double difference =
            static_cast<double>(options_.sm_scale) *
            (dot(rotated.data(), stored + t * d, d) - dot(q, keys + t * d, d));
        square += difference * difference;
        e.logit_max = std::max(e.logit_max, std::abs(difference));
      }
    }
    e.logit_rms = std::sqrt(square / static_cast<double>(data_.n_queries * data_.n_tokens));
  }

  const Captured& data_;
  std::int64_t layer_;
  const Executor& executor_;
  AttendOptions options_;
  TransformChain transform_;
  std::vector<float> out_, lse_;
  std::vector<std::vector<float>> stored_keys_;
  std::vector<std::int32_t> pos_;
};

/// Index of the head with the largest output error.
std::size_t worst_head(const KvResult& r) {
  const auto less = [](const HeadError& a, const HeadError& b) { return a.out < b.out; };
  return static_cast<std::size_t>(std::max_element(r.heads.begin(), r.heads.end(), less) -
                                  r.heads.begin());
}

template <class Member>
double mean_of(const KvResult& r, Member member) {
  double sum = 0.0;
  for (const HeadError& e : r.heads) sum += e.*member;
  return sum / static_cast<double>(r.heads.size());
}

template <class Member>
double worst_of(const KvResult& r, Member member) {
  double worst = 0.0;
  for (const HeadError& e : r.heads) {
    if (std::isnan(e.*member)) return e.*member;
    worst = std::max(worst, e.*member);
  }
  return worst;
}

}  // namespace

namespace {

void observe(const Captured& data, Cache& cache, SeqId seq, std::int32_t layer) {
  const std::int64_t wanted = std::min<std::int64_t>(cache.observed_rows(layer), data.n_tokens);
  if (wanted == 0) return;
  if (wanted > data.n_queries) {
    throw invalid_argument(bad_value("eval", "queries", data.n_queries,
                                     std::to_string(wanted) +
                                         " and above, which the policy of layer " +
                                         std::to_string(layer) + " observes"));
  }
  const std::int64_t width = std::int64_t{data.shape.n_q_heads} * data.shape.head_dim;
  const float* newest = data.q.data() + ((layer + 1) * data.n_queries - wanted) * width;
  cache.observe(seq, layer, dense_rows(newest, wanted, data.shape.n_q_heads, data.shape.head_dim),
                sm_scale(data.shape));
}

/// Values of both sides that stand in pages.
std::int64_t encoded_values(const Cache& cache, SeqId seq, std::int32_t layer) {
  ViewBuffers buffers;
  const KvView view = cache.view(layer, {&seq, 1}, buffers);
  std::int64_t n = 0;
  for (std::int64_t s = 0; s < view.n_streams_per_seq(); ++s) {
    n += 2 * view.encoded_rows(s) * view.format.span * view.shape.head_dim;
  }
  return n;
}

}  // namespace

KvResult eval_captured(const Captured& data, const std::string& plan, const Executor& executor) {
  const auto n_layers = static_cast<std::int32_t>(data.n_layers);
  CacheConfig config = make_cache_config(plan, data.shape, n_layers, data.n_tokens);
  if (config.rope_frequencies.empty()) config.rope_frequencies = data.rope_frequencies;
  Cache cache(std::move(config));
  const SeqId seq = cache.open();
  const std::int64_t d = data.shape.head_dim;
  const std::int64_t n = data.shape.n_kv_heads * data.n_tokens * d;
  KvResult r;
  r.plan = plan;
  r.heads.resize(static_cast<std::size_t>(data.n_layers * data.shape.n_q_heads));
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    cache.append(seq, layer,
                 Rows<float>{data.k.data() + layer * n, data.n_tokens, d, data.n_tokens * d},
                 Rows<float>{data.v.data() + layer * n, data.n_tokens, d, data.n_tokens * d});
    observe(data, cache, seq, layer);
  }
  cache.end_prompt(seq);
  std::int64_t encoded = 0;
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    encoded += encoded_values(cache, seq, layer);
    const auto heads = static_cast<std::size_t>(data.shape.n_q_heads);
    LayerEval(data, cache, seq, layer, executor)
        .run(std::span(r.heads).subspan(static_cast<std::size_t>(layer) * heads, heads));
  }
  const CacheBytes bytes = cache.bytes(seq);
  r.payload_bits =
      encoded == 0 ? 0.0 : 8.0 * static_cast<double>(bytes.payload) / static_cast<double>(encoded);
  r.bits_all = bytes.bits_per_value();
  return r;
}

Json attention_json(const KvResult& r, const Captured& data) {
  const std::size_t worst = worst_head(r);
  const auto n_heads = static_cast<std::size_t>(data.shape.n_q_heads);
  Json layers = Json::array();
  for (std::size_t i = 0; i < r.heads.size(); ++i) {
    if (i % n_heads == 0) layers.push_back(Json::array());
    layers.back().push_back(r.heads[i].out);
  }
  return {{"out_err_mean", mean_of(r, &HeadError::out)},
          {"out_err_worst", r.heads[worst].out},
          {"worst_layer", worst / n_heads},
          {"worst_head", worst % n_heads},
          {"heads", layers}};
}

Json to_json(const KvResult& r, const Captured& data) {
  const std::size_t worst = worst_head(r);
  const auto n_heads = static_cast<std::size_t>(data.shape.n_q_heads);
  Json heads = Json::array();
  for (std::size_t i = 0; i < r.heads.size(); ++i) {
    const HeadError& e = r.heads[i];
    heads.push_back({{"layer", i / n_heads},
                     {"head", i % n_heads},
                     {"out_error", e.out},
                     {"logit_error_rms", e.logit_rms},
                     {"logit_error_max", e.logit_max},
                     {"lse_error", e.lse}});
  }
  return {{"plan", r.plan},
          {"bits_per_value", r.payload_bits},
          {"bits_per_value_all", r.bits_all},
          {"out_error_mean", mean_of(r, &HeadError::out)},
          {"out_error_worst", r.heads[worst].out},
          {"worst_layer", worst / n_heads},
          {"worst_head", worst % n_heads},
          {"logit_error_rms", mean_of(r, &HeadError::logit_rms)},
          {"logit_error_max", worst_of(r, &HeadError::logit_max)},
          {"lse_error_max", worst_of(r, &HeadError::lse)},
          {"heads", heads},
          {"attention", attention_json(r, data)}};
}

std::string results_table(const std::vector<KvResult>& results, const Captured& data) {
  const auto n_heads = static_cast<std::size_t>(data.shape.n_q_heads);
  std::vector<std::vector<std::string>> rows = {
      {"", "bits/value", "with", "output error", "", "at layer,", "logit error", "", "LSE error"},
      {"plan", "measured", "window", "mean", "worst", "head", "rms", "max", "max"}};
  for (const KvResult& r : results) {
    const std::size_t worst = worst_head(r);
    rows.push_back({r.plan, format("%.2f", r.payload_bits), format("%.2f", r.bits_all),
                    format("%.3g", mean_of(r, &HeadError::out)), format("%.3g", r.heads[worst].out),
                    format("%zu, %zu", worst / n_heads, worst % n_heads),
                    format("%.3g", mean_of(r, &HeadError::logit_rms)),
                    format("%.3g", worst_of(r, &HeadError::logit_max)),
                    format("%.3g", worst_of(r, &HeadError::lse))});
  }
  return to_table(rows);
}

}  // namespace kvcodec::eval
