// Two sequences in one cache: append, attend, compare with uncompressed attention.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

// [quick start]
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/plan/plan.hpp"

std::vector<float> attend_once(const std::vector<float>& q, const std::vector<float>& k,
                               const std::vector<float>& v, const char* plan) {
  const kvcodec::HeadShape shape{.n_q_heads = 8, .n_kv_heads = 2, .head_dim = 128};
  const std::int64_t n_tokens = static_cast<std::int64_t>(k.size()) / (2 * 128);

  kvcodec::Cache cache(kvcodec::make_cache_config(plan, shape, /*n_layers=*/1, n_tokens));
  const kvcodec::SeqId seq = cache.open();
  cache.append(seq, /*layer=*/0, kvcodec::dense_rows(k.data(), n_tokens, 2, 128),
               kvcodec::dense_rows(v.data(), n_tokens, 2, 128));

  std::vector<float> out(q.size());
  kvcodec::AttendWorkspace workspace;
  kvcodec::Step step;
  step.seqs = {&seq, 1};
  step.q = kvcodec::dense_rows(q.data(), 1, 8, 128);
  kvcodec::attend(cache, 0, step, out.data(), /*lse=*/nullptr, {.sm_scale = 0.0884f}, workspace);
  std::printf("%-40s %6.3f bits per value\n", plan, cache.bytes().bits_per_value());
  return out;
}
// [/quick start]

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto gaussian = [&](std::size_t n) {
    std::vector<float> x(n);
    for (float& value : x) value = normal(random);
    return x;
  };
  const std::vector<float> q = gaussian(8 * 128);
  const std::vector<float> k = gaussian(4096 * 2 * 128);
  const std::vector<float> v = gaussian(4096 * 2 * 128);

  const std::vector<float> exact = attend_once(q, k, v, "kv=f32");
  for (const char* plan : {"kv=f16", "kv=int8", "kv=nqkv:g64", "k=hadamard+nqkv,v=nqsym,sink=4"}) {
    const std::vector<float> out = attend_once(q, k, v, plan);
    double error = 0.0;
    double power = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double difference = static_cast<double>(out[i]) - static_cast<double>(exact[i]);
      error += difference * difference;
      power += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
    }
    std::printf("    relative error of the output %.2e\n", std::sqrt(error / power));
  }
  return 0;
}
