// A stranger's program: it must build and run with nothing but kvcodec::kvcodec. One token goes into
// a compressed cache; attention over it alone must give its value row back.
#include <cmath>
#include <cstdio>
#include <exception>
#include <kvcodec/attend/attend.hpp>
#include <kvcodec/cache/cache.hpp>
#include <kvcodec/plan/plan.hpp>
#include <vector>

namespace {

int run() {
  const kvcodec::HeadShape shape{.n_q_heads = 4, .n_kv_heads = 2, .head_dim = 64};
  kvcodec::Cache cache(
      kvcodec::make_cache_config("k=hadamard+nqkv:g64,v=int8,recent=1", shape, 1, 256));
  const kvcodec::SeqId seq = cache.open();

  std::vector<float> row(128);
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = std::sin(static_cast<float>(i));
  const auto rows = kvcodec::dense_rows(row.data(), 1, shape.n_kv_heads, shape.head_dim);
  cache.append(seq, 0, rows, rows);

  const std::vector<float> q(256, 1.0f);
  kvcodec::Step step;
  step.seqs = {&seq, 1};
  step.q = kvcodec::dense_rows(q.data(), 1, shape.n_q_heads, shape.head_dim);
  std::vector<float> out(q.size());
  kvcodec::AttendWorkspace workspace;
  kvcodec::attend(cache, 0, step, out.data(), nullptr, {.sm_scale = 0.125f}, workspace);

  for (std::size_t i = 0; i < out.size(); ++i) {
    const float expected = row[(i / 64) / 2 * 64 + i % 64];  // two query heads per KV head
    if (!(std::fabs(out[i] - expected) < 1e-3f)) {
      std::printf("out[%zu] = %g, expected %g\n", i, static_cast<double>(out[i]),
                  static_cast<double>(expected));
      return 1;
    }
  }
  std::printf("attended over %lld token\n", static_cast<long long>(cache.n_tokens(seq)));
  return 0;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& e) {
    std::printf("error: %s\n", e.what());
    return 1;
  }
}
