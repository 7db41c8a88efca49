// A small engine: sequences that decode token by token, a probe beside their cache.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvcodec/meter/probe.hpp"
#include "kvcodec/plan/plan.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

/// Changes K and V of a token before they are appended; both [n_kv_heads, head_dim].
using Fault = std::function<void(std::int64_t token, std::int32_t layer, float* k, float* v)>;

class Engine {
 public:
  Engine(const std::string& plan, HeadShape shape, std::int32_t n_layers, std::int64_t max_tokens,
         std::uint64_t seed, std::int32_t max_sequences = 1)
      : Engine(make_cache_config(plan, shape, n_layers, max_tokens, max_sequences), seed) {}
  Engine(CacheConfig config, std::uint64_t seed)
      : cache(std::move(config)),
        shape_(cache.config().shape),
        random_(seed),
        options(default_options(shape_.head_dim)) {}

  /// Appends one token to every layer and attends with it; what the probe saw.
  std::vector<Observation> step(QualityProbe& probe, SeqId seq) {
    std::vector<Observation> seen;
    const std::int64_t token = cache.n_tokens(seq);
    for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
      std::vector<float> k = gauss(shape_.n_kv_heads);
      std::vector<float> v = gauss(shape_.n_kv_heads);
      const std::vector<float> q = gauss(shape_.n_q_heads);
      if (fault) fault(token, layer, k.data(), v.data());
      const AnyRows k_row = dense_rows(k.data(), 1, shape_.n_kv_heads, shape_.head_dim);
      const AnyRows v_row = dense_rows(v.data(), 1, shape_.n_kv_heads, shape_.head_dim);
      Step s;
      s.seqs = {&seq, 1};
      s.q = dense_rows(q.data(), 1, shape_.n_q_heads, shape_.head_dim);
      if (past_only) {
        s.k_new = k_row;
        s.v_new = v_row;
      } else {
        add(probe, seq, layer, k_row, v_row);
      }
      out.resize(q.size());
      attend(cache, layer, s, out.data(), nullptr, options, workspace);
      if (const auto o = probe.observe(cache, layer, s, out.data(), options)) seen.push_back(*o);
      if (past_only) add(probe, seq, layer, k_row, v_row);
    }
    return seen;
  }

  void add(QualityProbe& probe, SeqId seq, std::int32_t layer, const AnyRows& k, const AnyRows& v) {
    cache.append(seq, layer, k, v);
    probe.append(cache, seq, layer, k, v);
  }

  /// n unit Gaussian rows.
  std::vector<float> gauss(std::int64_t n) {
    std::vector<float> x(static_cast<std::size_t>(n * shape_.head_dim));
    for (float& value : x) value = static_cast<float>(random_.gauss());
    return x;
  }

  Cache cache;

 private:
  HeadShape shape_;
  Random random_;

 public:
  AttendOptions options;
  AttendWorkspace workspace;
  std::vector<float> out;
  Fault fault;
  bool past_only = false;
};

/// A probe that sees much, for short tests.
inline ProbeOptions busy_probe() {
  ProbeOptions o;
  o.every = 4;
  o.n_streams = 2;
  o.min_rows = 200;
  o.max_bytes = 4 << 20;
  return o;
}

}  // namespace kvcodec::test
