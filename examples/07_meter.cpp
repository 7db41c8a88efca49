// A cache under watch: its keys shift in the middle of a sequence, the probe notices, the fallback
// keeps new tokens raw, and the numbers go out as Prometheus text.
#include "kvcodec/meter/fallback.hpp"
#include "kvcodec/meter/prometheus.hpp"
#include "kvcodec/plan/plan.hpp"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

constexpr kvcodec::HeadShape kShape{.n_q_heads = 4, .n_kv_heads = 2, .head_dim = 64};
constexpr int kLayers = 2;
constexpr int kTokens = 1500;
constexpr int kShiftAt = 900;  // from here on some key channels of layer 1 carry an offset

struct Rows {
  std::vector<float> k, v, q;
};

class Model {
 public:
  Rows next(int token, int layer) {
    Rows r{gaussian(128), gaussian(128), gaussian(256)};
    for (std::size_t i = 0; token >= kShiftAt && layer == 1 && i < r.k.size(); i += 8) {
      r.k[i] += 30.0f;
    }
    return r;
  }

 private:
  std::vector<float> gaussian(std::size_t n) {
    std::vector<float> x(n);
    for (float& value : x) value = normal_(random_);
    return x;
  }
  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
};

}  // namespace

int main() {
  Model model;
  int raised_at = -1;
  // [meter]
  kvcodec::Cache cache(kvcodec::make_cache_config("kv=nqkv:g64", kShape, kLayers, kTokens));

  kvcodec::FallbackPolicy fallback(cache, {.hold_rows = 512});
  kvcodec::ProbeOptions options;
  options.every = 8;  // a short example; chosen by the shape unless told
  options.min_rows = 256;
  kvcodec::QualityProbe probe(cache, options, [&](const kvcodec::Alarm& alarm) {
    if (alarm.event == kvcodec::Alarm::Event::raised && raised_at < 0) {
      raised_at = static_cast<int>(cache.n_tokens(alarm.seq));
    }
    std::printf("step %4d, layer %d, head %d: %s, error %.3f, normal %.3f\n",
                static_cast<int>(alarm.step), alarm.layer, alarm.kv_head, to_string(alarm.kind),
                alarm.error, alarm.baseline);
    fallback.on_alarm(alarm);
  });

  const kvcodec::SeqId seq = cache.open();
  const kvcodec::AttendOptions attend_options{.sm_scale = 0.125f};
  kvcodec::AttendWorkspace workspace;
  std::vector<float> out(4 * 64);
  for (int token = 0; token < kTokens; ++token) {
    for (int layer = 0; layer < kLayers; ++layer) {
      const Rows rows = model.next(token, layer);
      const auto k = kvcodec::dense_rows(rows.k.data(), 1, 2, 64);
      const auto v = kvcodec::dense_rows(rows.v.data(), 1, 2, 64);
      cache.append(seq, layer, k, v);
      probe.append(cache, seq, layer, k, v);

      kvcodec::Step step;
      step.seqs = {&seq, 1};
      step.q = kvcodec::dense_rows(rows.q.data(), 1, 4, 64);
      kvcodec::attend(cache, layer, step, out.data(), nullptr, attend_options, workspace);
      probe.observe(cache, layer, step, out.data(), attend_options);
    }
    fallback.apply(cache);
  }

  kvcodec::CacheStats stats = cache.stats();
  stats.attend += workspace.times;
  const std::vector<kvcodec::Label> labels = {{"model", "example"}};
  const std::string page =
      kvcodec::to_prometheus(stats, labels) + kvcodec::to_prometheus(probe.stats(), labels);
  // [/meter]
  std::printf("%s", page.c_str());
  if (raised_at < kShiftAt || raised_at > kShiftAt + 300) {
    std::printf("the shift at token %d was noticed at %d\n", kShiftAt, raised_at);
    return 1;
  }
  return 0;
}
