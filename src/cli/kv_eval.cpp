#include "src/cli/kv_eval.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/reference.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/verify/npy.hpp"

namespace kvcodec::cli {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// Reads an array of `layout` "[layers, ...]" with or without its first axis.
golden::Array read_array(const std::filesystem::path& folder, const char* name,
                         const std::string& layout) {
  golden::Array a = golden::read_npy(folder / name);
  const auto fail = [&](const std::string& what) {
    throw invalid_argument(a.file.string() + ": " + what +
                           ", allowed: f2, f4 or f8 of shape [layers, " + layout + "] or [" +
                           layout + "], no axis empty");
  };
  if (!a.is_float()) fail("dtype = " + a.dtype);
  const bool empty = std::find(a.shape.begin(), a.shape.end(), 0) != a.shape.end();
  if ((a.shape.size() != 3 && a.shape.size() != 4) || empty) {
    fail("shape = " + golden::shape_text(a.shape));
  }
  return a;
}

[[noreturn]] void refuse(const golden::Array& a, const std::string& allowed) {
  throw invalid_argument(a.file.string() + ": shape = " + golden::shape_text(a.shape) +
                         ", allowed: " + allowed);
}

std::int32_t to_size(const golden::Array& a, std::size_t axis) {
  const std::int64_t n = a.shape[axis];
  if (n > (1 << 30)) refuse(a, "up to 2^30 along every axis");
  return static_cast<std::int32_t>(n);
}

/// Rows of one side of one KV head as the cache holds them: in transformed space, decoded.
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
      rows.insert(rows.end(), x, x + d);
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

/// One plan on one layer.
class LayerEval {
 public:
  LayerEval(const Captured& data, const Cache& cache, SeqId seq, std::int32_t layer,
            const Executor& executor)
      : data_(data), layer_(layer), executor_(executor) {
    options_.sm_scale = 1.0f / std::sqrt(static_cast<float>(data.shape.head_dim));
    const std::vector<SeqId> seqs(static_cast<std::size_t>(data.n_queries), seq);
    Step step;
    step.seqs = seqs;
    step.q = dense_rows(queries(), data.n_queries, data.shape.n_q_heads, data.shape.head_dim);
    const auto n = static_cast<std::size_t>(data.n_queries * data.shape.n_q_heads);
    out_.resize(n * static_cast<std::size_t>(data.shape.head_dim));
    lse_.resize(n);
    AttendWorkspace work;
    attend(cache, layer, step, out_.data(), lse_.data(), options_, work, executor);
    ViewBuffers buffers;
    const KvView view = cache.view(layer, {&seq, 1}, buffers);
    for (int head = 0; head < data.shape.n_kv_heads; ++head) {
      stored_keys_.push_back(stored_keys(view, head));
    }
    transform_ = cache.config().layers[static_cast<std::size_t>(layer)].k.transform;
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
    const float* stored = stored_keys_[static_cast<std::size_t>(kv_head)].data();
    std::vector<double> expected(static_cast<std::size_t>(d));
    std::vector<float> rotated(static_cast<std::size_t>(d));
    HeadError e;
    double square = 0.0, whole = 0.0, logit_square = 0.0;
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
      std::copy_n(q, d, rotated.begin());
      transform_.query(static_cast<int>(d), static_cast<int>(kv_head), rotated.data());
      for (std::int64_t t = 0; t < data_.n_tokens; ++t) {
        const double difference =
            static_cast<double>(options_.sm_scale) *
            (dot(rotated.data(), stored + t * d, d) - dot(q, keys + t * d, d));
        logit_square += difference * difference;
        e.logit_max = std::max(e.logit_max, std::abs(difference));
      }
    }
    e.out = whole > 0.0 ? std::sqrt(square / whole) : std::sqrt(square);
    e.logit_rms = std::sqrt(logit_square / static_cast<double>(data_.n_queries * data_.n_tokens));
    return e;
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
  for (const HeadError& e : r.heads) worst = std::max(worst, e.*member);
  return worst;
}

}  // namespace

Captured read_captured(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw invalid_argument(
        bad_value("eval", "--kv", folder.string(), "a folder with k.npy, v.npy and q.npy"));
  }
  const golden::Array k = read_array(folder, "k.npy", "n_kv_heads, tokens, head_dim");
  const golden::Array v = read_array(folder, "v.npy", "n_kv_heads, tokens, head_dim");
  const golden::Array q = read_array(folder, "q.npy", "queries, n_q_heads, head_dim");
  if (v.shape != k.shape) refuse(v, golden::shape_text(k.shape) + ", the shape of k.npy");
  const std::size_t axis = k.shape.size() - 3;
  const std::string head_dim = std::to_string(k.shape[axis + 2]);
  if (q.shape.size() != k.shape.size() || q.shape[axis + 2] != k.shape[axis + 2] ||
      (axis == 1 && q.shape[0] != k.shape[0])) {
    const std::string layers = axis == 1 ? std::to_string(k.shape[0]) + ", " : "";
    refuse(q, "[" + layers + "queries, n_q_heads, " + head_dim + "] to match k.npy");
  }
  Captured data;
  data.shape = {to_size(q, axis + 1), to_size(k, axis), to_size(k, axis + 2)};
  try {
    check(data.shape);
  } catch (const error& e) {
    throw invalid_argument(k.file.string() + " and q.npy: shapes = " + golden::shape_text(k.shape) +
                           " and " + golden::shape_text(q.shape) + ": " + e.what());
  }
  data.n_layers = axis == 1 ? to_size(k, 0) : 1;
  data.n_tokens = to_size(k, axis + 1);
  data.n_queries = to_size(q, axis);
  data.k = k.floats();
  data.v = v.floats();
  data.q = q.floats();
  return data;
}

KvResult eval_captured(const Captured& data, const std::string& plan, const Executor& executor) {
  const auto n_layers = static_cast<std::int32_t>(data.n_layers);
  Cache cache(make_cache_config(plan, data.shape, n_layers, data.n_tokens));
  const SeqId seq = cache.open();
  const std::int64_t d = data.shape.head_dim;
  const std::int64_t n = data.shape.n_kv_heads * data.n_tokens * d;
  KvResult r;
  r.plan = plan;
  r.heads.resize(static_cast<std::size_t>(data.n_layers * data.shape.n_q_heads));
  std::int64_t encoded = 0;
  ViewBuffers buffers;
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    cache.append(seq, layer,
                 Rows<float>{data.k.data() + layer * n, data.n_tokens, d, data.n_tokens * d},
                 Rows<float>{data.v.data() + layer * n, data.n_tokens, d, data.n_tokens * d});
    const KvView view = cache.view(layer, {&seq, 1}, buffers);
    for (std::int64_t s = 0; s < view.n_streams_per_seq(); ++s) {
      encoded += 2 * view.encoded_rows(s) * view.format.span * d;
    }
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
          {"heads", heads}};
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

}  // namespace kvcodec::cli
