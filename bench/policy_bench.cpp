// Judging rows: tokens of one KV head per second, and products of observed attention.
#include <string>

#include "axes.hpp"
#include "kvcodec/policy/builtin.hpp"
#include "kvcodec/policy/observe.hpp"

namespace kvcodec::bench {
namespace {

void judge(benchmark::State& state, const std::string& spec, std::int64_t n_rows) {
  constexpr int kDim = 128;
  const AnyPolicy policy = make_policy(spec);
  PolicyRows rows;
  rows.head_dim = kDim;
  rows.n_rows = n_rows;
  rows.n_ahead = policy.lookahead_rows();
  const auto n = static_cast<std::size_t>(rows.n_rows + rows.n_ahead);
  const std::vector<float> k = gaussian(n * kDim, 1);
  const std::vector<float> v = gaussian(n * kDim, 2);
  const std::vector<float> observed(n, 0.01f);
  rows.k = k.data();
  rows.v = v.data();
  rows.observed = observed.data();
  std::vector<KeepMask> keep(static_cast<std::size_t>(n_rows));
  for (auto _ : state) {
    policy.select(rows, keep);
    benchmark::ClobberMemory();
  }
  state.counters["tokens/s"] = rate(static_cast<double>(n_rows));
}

void observe(benchmark::State& state, std::int64_t n_queries, std::int64_t n_keys) {
  constexpr int kDim = 128;
  const std::vector<float> k = gaussian(static_cast<std::size_t>(n_keys * kDim), 1);
  const std::vector<float> q = gaussian(static_cast<std::size_t>(n_queries * kDim), 2);
  std::vector<float> sums(static_cast<std::size_t>(n_keys));
  std::vector<float> scratch;
  for (auto _ : state) {
    observe_attention(kDim, n_queries, q.data(), n_keys, k.data(), 0.088f, sums.data(), scratch);
    benchmark::ClobberMemory();
  }
  state.counters["products/s"] = rate(static_cast<double>(n_queries * n_keys) * kDim);
}

const bool registered = [] {
  for (const auto& [spec, n_rows] : {std::pair<std::string, std::int64_t>{"lagkv:l128", 128},
                                     {"lagkv:l1024", 1024},
                                     {"kvpress-lagkv:l128", 8192},
                                     {"keydiff", 8192},
                                     {"snapkv", 8192}}) {
    benchmark::RegisterBenchmark(("policy/" + spec).c_str(), judge, spec, n_rows);
  }
  benchmark::RegisterBenchmark("policy/observe/64x8192", observe, 64, 8192);
  return true;
}();

}  // namespace
}  // namespace kvcodec::bench
