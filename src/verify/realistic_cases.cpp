// Family "realistic-kv": keys and values shaped like a model's, with float64 attention results.
//
// Raw caches must meet the stated bounds. For compressed ones the case asks for statistics; on top
// of them the output must equal float64 attention over the rows as the codec decodes them, within
// the same kind of bound, and the error that values cause must stay below what the widest gap of
// the codec's table allows.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/reference.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// One layer: k, v [n_kv_heads, T, d]; q [n_queries, n_q_heads, d]; results of the same kind.
struct Layer {
  HeadShape shape;
  std::int64_t n_tokens = 0;
  std::int64_t n_queries = 0;
  std::vector<float> k, v, q;
  std::vector<double> out, lse;
  double out_bound = 0.0;
  double lse_bound = 0.0;
};

template <class T>
std::vector<T> part(const std::vector<T>& all, std::size_t index, std::size_t n_parts) {
  const std::size_t n = all.size() / n_parts;
  return {all.begin() + static_cast<std::ptrdiff_t>(index * n),
          all.begin() + static_cast<std::ptrdiff_t>((index + 1) * n)};
}

std::vector<Layer> load_layers(const Case& c) {
  const Array k = c.array("k");
  const std::vector<float> keys = k.floats();
  const std::vector<float> values = c.array("v").floats();
  const std::vector<float> queries = c.array("q").floats();
  const std::vector<double> out = c.array("out").doubles();
  const std::vector<double> lse = c.array("lse").doubles();
  const auto n_layers = static_cast<std::size_t>(k.shape.at(0));
  std::vector<Layer> layers(n_layers);
  for (std::size_t i = 0; i < n_layers; ++i) {
    Layer& l = layers[i];
    l.shape = {c.parameter<std::int32_t>("query_heads"), c.parameter<std::int32_t>("kv_heads"),
               c.parameter<std::int32_t>("head_dim")};
    check(l.shape);
    l.n_tokens = c.parameter<std::int64_t>("tokens");
    l.n_queries = c.parameter<std::int64_t>("queries");
    l.k = part(keys, i, n_layers);
    l.v = part(values, i, n_layers);
    l.q = part(queries, i, n_layers);
    l.out = part(out, i, n_layers);
    l.lse = part(lse, i, n_layers);
    l.out_bound = c.absolute_tolerances("out").at(i);
    l.lse_bound = c.absolute_tolerances("lse").at(i);
  }
  return layers;
}

struct Answer {
  std::vector<float> out, lse;
  CacheConfig config;
};

Answer attend_plan(const Layer& l, const std::string& plan) {
  Answer a;
  a.config = make_cache_config(plan, l.shape, 1, l.n_tokens);
  Cache cache(a.config);
  const SeqId seq = cache.open();
  const std::int64_t d = l.shape.head_dim;
  cache.append(seq, 0, Rows<float>{l.k.data(), l.n_tokens, d, l.n_tokens * d},
               Rows<float>{l.v.data(), l.n_tokens, d, l.n_tokens * d});
  // Every query sees all keys: each is asked on its own, as the newest token's query.
  const std::vector<SeqId> seqs(static_cast<std::size_t>(l.n_queries), seq);
  Step step;
  step.seqs = seqs;
  step.q = dense_rows(l.q.data(), l.n_queries, l.shape.n_q_heads, d);
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(d));
  a.out.assign(l.out.size(), NAN);
  a.lse.assign(l.lse.size(), NAN);
  AttendWorkspace work;
  attend(cache, 0, step, a.out.data(), a.lse.data(), options, work);
  return a;
}

/// Rows of one side as the cache's codec decodes them; the newest rows stay as they are in f16.
std::vector<float> decoded_rows(const Layer& l, const Answer& a, Side side) {
  const LayerConfig& layer = a.config.layers[0];
  const AnyCodec& codec = side == Side::key ? layer.k.codec : layer.v.codec;
  const int d = l.shape.head_dim;
  std::vector<float> rows = side == Side::key ? l.k : l.v;
  require(codec.head_span(d) == 1, "decoded_rows: one head per tile is assumed");
  const std::int64_t n_encoded = (l.n_tokens - layer.n_recent) / kTileRows * kTileRows;
  std::vector<std::byte> tile(codec.tile_bytes(d));
  for (std::int64_t head = 0; head < l.shape.n_kv_heads; ++head) {
    for (std::int64_t first = 0; first < n_encoded; first += kTileRows) {
      float* x = rows.data() + (head * l.n_tokens + first) * d;
      backend().encode_tile(codec, side, d, x, tile.data());
      backend().decode_tile(codec, side, d, tile.data(), x);
    }
  }
  return rows;
}

/// Compares with float64 attention over decoded rows; bounds as the case derives them:
/// (2e-6 + 4e-7 * largest |logit|) * largest |v|.
void check_against_decoded(const Layer& l, const Answer& a, const std::string& plan) {
  const std::vector<float> k = decoded_rows(l, a, Side::key);
  const std::vector<float> v = decoded_rows(l, a, Side::value);
  std::vector<std::int32_t> pos(static_cast<std::size_t>(l.n_tokens));
  for (std::size_t i = 0; i < pos.size(); ++i) pos[i] = static_cast<std::int32_t>(i);
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(l.shape.head_dim));
  double largest_v = 0.0;
  for (const float x : v) largest_v = std::max(largest_v, std::abs(static_cast<double>(x)));
  const std::int64_t d = l.shape.head_dim;
  std::vector<double> out(static_cast<std::size_t>(d));
  for (std::int64_t i = 0; i < l.n_queries * l.shape.n_q_heads; ++i) {
    const std::int64_t head = i % l.shape.n_q_heads / l.shape.gqa_group();
    const float* query = l.q.data() + i * d;
    const float* keys = k.data() + head * l.n_tokens * d;
    const double lse = reference_attend(
        static_cast<std::int32_t>(d), l.n_tokens, query, keys, v.data() + head * l.n_tokens * d, d,
        pos.data(), pos.back(), options, -std::numeric_limits<double>::infinity(), out.data());
    double largest_logit = 0.0;
    for (std::int64_t r = 0; r < l.n_tokens; ++r) {
      double dot = 0.0;
      for (std::int64_t c = 0; c < d; ++c) {
        dot += static_cast<double>(query[c]) * static_cast<double>(keys[r * d + c]);
      }
      largest_logit =
          std::max(largest_logit, std::abs(dot) * static_cast<double>(options.sm_scale));
    }
    const double logit_error = 2e-6 + 4e-7 * largest_logit;
    const std::string what = plan + " against its decoded rows, query row " + std::to_string(i);
    compare(what + ": out", out.size(), a.out.data() + i * d, out,
            [&](std::size_t) { return logit_error * largest_v; });
    compare(what + ": lse", 1, a.lse.data() + i, &lse, [&](std::size_t) { return logit_error; });
  }
}

double relative_error(const Layer& l, const Answer& a) {
  double square = 0.0;
  double whole = 0.0;
  for (std::size_t i = 0; i < l.out.size(); ++i) {
    const double difference = static_cast<double>(a.out[i]) - l.out[i];
    square += difference * difference;
    whole += l.out[i] * l.out[i];
  }
  return std::sqrt(square / whole);
}

/// Values lose at most half of the table's widest gap (1 - 0.696 below zero) plus 2^-11 of
/// clipping, times the group's maximum; an average of rows loses no more than its worst row.
double nqkv_value_bound(const Layer& l, int group) {
  const double share = 0.5 * (1.0 - 0.6961928) + 0x1p-11;
  double worst = 0.0;
  const std::int64_t d = l.shape.head_dim;
  for (std::size_t row = 0; row < l.v.size(); row += static_cast<std::size_t>(d)) {
    double square = 0.0;
    for (std::int64_t first = 0; first < d; first += group) {
      double largest = 0.0;
      for (std::int64_t c = first; c < first + group; ++c) {
        largest = std::max(largest,
                           std::abs(static_cast<double>(l.v[row + static_cast<std::size_t>(c)])));
      }
      square += group * share * share * largest * largest;
    }
    worst = std::max(worst, std::sqrt(square));
  }
  return worst;
}

void check_value_bound(const Layer& l, const std::string& plan, int group) {
  const Answer a = attend_plan(l, plan);
  const double bound = nqkv_value_bound(l, group);
  const auto d = static_cast<std::size_t>(l.shape.head_dim);
  for (std::size_t row = 0; row < l.out.size(); row += d) {
    double square = 0.0;
    for (std::size_t c = row; c < row + d; ++c) {
      const double difference = static_cast<double>(a.out[c]) - l.out[c];
      square += difference * difference;
    }
    require(std::sqrt(square) <= bound + l.out_bound * std::sqrt(static_cast<double>(d)),
            plan + ": output row " + std::to_string(row / d) + " is off by " +
                number_text(std::sqrt(square)) + ", allowed: " + number_text(bound));
  }
}

std::string run_layer(const Layer& l) {
  std::string text;
  double previous = 0.0;
  for (const char* codec : {"f32", "f16"}) {
    const std::string plan = std::string("kv=") + codec + ",recent=1";
    const Answer a = attend_plan(l, plan);
    compare(plan + ": out", l.out.size(), a.out, l.out, [&](std::size_t) { return l.out_bound; });
    compare(plan + ": lse", l.lse.size(), a.lse, l.lse, [&](std::size_t) { return l.lse_bound; });
    previous = relative_error(l, a);
  }
  text += "f16 " + number_text(previous);
  for (const char* codec : {"int8", "nqsym:g64", "nqkv:g64"}) {
    const std::string plan = std::string("kv=") + codec + ",recent=1";
    const Answer a = attend_plan(l, plan);
    check_against_decoded(l, a, plan);
    const double relative = relative_error(l, a);
    require(std::isfinite(relative) && relative > (codec[0] == 'i' ? previous : 0.0),
            plan + ": relative output error " + number_text(relative) + " is not plausible");
    if (codec[0] == 'i') previous = relative;
    require(codec[0] == 'i' || relative > previous,
            plan + ": relative output error " + number_text(relative) + " is below int8's " +
                number_text(previous));
    text += std::string(", ") + codec + " " + number_text(relative);
  }
  for (const int group : {32, 64, 128}) {
    check_value_bound(l, "k=f32,v=nqkv:g" + std::to_string(group) + ",recent=1", group);
  }
  const double rotated = relative_error(l, attend_plan(l, "kv=hadamard+nqkv:g64,recent=1"));
  require(std::isfinite(rotated), "hadamard+nqkv: output is not finite");
  return text + ", hadamard+nqkv:g64 " + number_text(rotated);
}

}  // namespace

std::string run_realistic_kv(const Case& c) {
  std::string text = "relative output error";
  int index = 0;
  for (const Layer& l : load_layers(c)) {
    text += (index == 0 ? ", layer " : "; layer ") + std::to_string(index) + ": " + run_layer(l);
    ++index;
  }
  return text;
}

}  // namespace kvcodec::golden
