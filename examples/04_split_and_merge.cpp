// Attend over two halves of a sequence in two caches and merge the results.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/attn_state.hpp"
#include "kvcodec/plan/plan.hpp"

namespace {

constexpr int kTokens = 2000;
constexpr int kHeads = 4;
constexpr int kHeadDim = 64;

struct Result {
  std::vector<float> out = std::vector<float>(kHeads * kHeadDim);
  std::vector<float> lse = std::vector<float>(kHeads);
};

/// Attention of one query token over tokens begin..end-1.
Result attend_range(const std::vector<float>& q, const std::vector<float>& k,
                    const std::vector<float>& v, int begin, int end) {
  using namespace kvcodec;
  Cache cache(make_cache_config("kv=f16", {kHeads, kHeads, kHeadDim}, 1, kTokens));
  const SeqId seq = cache.open();
  const std::size_t first = static_cast<std::size_t>(begin) * kHeads * kHeadDim;
  cache.append(seq, 0, dense_rows(k.data() + first, end - begin, kHeads, kHeadDim),
               dense_rows(v.data() + first, end - begin, kHeads, kHeadDim));
  Result r;
  AttendWorkspace workspace;
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, kHeads, kHeadDim);
  attend(cache, 0, step, r.out.data(), r.lse.data(), {.sm_scale = 0.125f}, workspace);
  return r;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(kHeads * kHeadDim);
  std::vector<float> k(kTokens * kHeads * kHeadDim);
  std::vector<float> v(k.size());
  for (auto* values : {&q, &k, &v}) {
    for (float& x : *values) x = normal(random);
  }

  const Result whole = attend_range(q, k, v, 0, kTokens);
  // [merge]
  Result left = attend_range(q, k, v, 0, 700);
  const Result right = attend_range(q, k, v, 700, kTokens);
  for (int head = 0; head < kHeads; ++head) {
    kvcodec::merge(&left.out[static_cast<std::size_t>(head * kHeadDim)],
                   left.lse[static_cast<std::size_t>(head)],
                   &right.out[static_cast<std::size_t>(head * kHeadDim)],
                   right.lse[static_cast<std::size_t>(head)], kHeadDim);
  }
  // [/merge]

  double worst = 0.0;
  for (std::size_t i = 0; i < whole.out.size(); ++i) {
    worst = std::fmax(worst, std::fabs(static_cast<double>(whole.out[i] - left.out[i])));
  }
  std::printf("largest difference between merged halves and the whole: %.2e\n", worst);
  return worst < 1e-3 ? 0 : 1;
}
