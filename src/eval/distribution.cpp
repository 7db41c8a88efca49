#include "src/eval/distribution.hpp"

#include <algorithm>
#include <cmath>

#include "kvcodec/core/error.hpp"

namespace kvcodec::eval {
namespace {

using output::Json;

constexpr std::int64_t kGroup = 64;
constexpr double kLevel = 0.05;

/// Central moments of order 2 to 4.
struct Moments {
  double mean = 0.0, m2 = 0.0, m3 = 0.0, m4 = 0.0;
  double skew() const { return m2 > 0.0 ? m3 / std::pow(m2, 1.5) : 0.0; }
  double kurtosis() const { return m2 > 0.0 ? m4 / (m2 * m2) : 0.0; }
};

Moments moments(std::span<const float> x) {
  Moments m;
  const auto n = static_cast<double>(x.size());
  for (const float value : x) m.mean += static_cast<double>(value);
  m.mean /= n;
  for (const float value : x) {
    const double d = static_cast<double>(value) - m.mean;
    m.m2 += d * d;
    m.m3 += d * d * d;
    m.m4 += d * d * d * d;
  }
  m.m2 /= n;
  m.m3 /= n;
  m.m4 /= n;
  return m;
}

double skew_score(double g, double n) {
  const double y = g * std::sqrt((n + 1) * (n + 3) / (6 * (n - 2)));
  const double beta =
      3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9));
  const double w2 = std::sqrt(2 * (beta - 1)) - 1;
  return std::asinh(y * std::sqrt((w2 - 1) / 2)) / std::sqrt(0.5 * std::log(w2));
}

double kurtosis_score(double b, double n) {
  const double expected = 3 * (n - 1) / (n + 1);
  const double variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) * (n + 1) * (n + 3) * (n + 5));
  const double x = (b - expected) / std::sqrt(variance);
  const double root = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) *
                      std::sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)));
  const double a = 6 + 8 / root * (2 / root + std::sqrt(1 + 4 / (root * root)));
  const double ratio = (1 - 2 / a) / (1 + x * std::sqrt(2 / (a - 4)));
  return (1 - 2 / (9 * a) - std::cbrt(ratio)) / std::sqrt(2 / (9 * a));
}

/// Share of groups that pass: group i begins at x[i], its samples `stride` apart.
class Share {
 public:
  void add(const float* first, std::int64_t stride) {
    for (std::int64_t i = 0; i < kGroup; ++i) {
      group_[static_cast<std::size_t>(i)] = first[i * stride];
    }
    ++n_;
    n_normal_ += normality(group_).p >= kLevel ? 1 : 0;
  }
  double value() const {
    return n_ == 0 ? 0.0 : static_cast<double>(n_normal_) / static_cast<double>(n_);
  }

 private:
  std::vector<float> group_ = std::vector<float>(kGroup);
  std::int64_t n_ = 0, n_normal_ = 0;
};

/// x [n_kv_heads, n_tokens, head_dim] of one layer.
Distribution distribution(std::span<const float> x, const Captured& data, std::int32_t n_bins) {
  Distribution out;
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  out.lo = static_cast<double>(*low);
  out.hi = static_cast<double>(*high);
  out.counts.resize(static_cast<std::size_t>(n_bins));
  const double width = (out.hi - out.lo) / n_bins;
  for (const float value : x) {
    const double at = width > 0.0 ? (static_cast<double>(value) - out.lo) / width : 0.0;
    ++out.counts[static_cast<std::size_t>(std::min(static_cast<double>(n_bins - 1), at))];
  }
  const Moments m = moments(x);
  out.mean = m.mean;
  out.stddev = std::sqrt(m.m2);
  out.skew = m.skew();
  out.kurtosis = m.kurtosis();
  Share along_tokens, pooled;
  const std::int64_t d = data.shape.head_dim;
  for (std::int64_t head = 0; head < data.shape.n_kv_heads; ++head) {
    const float* rows = x.data() + head * data.n_tokens * d;
    for (std::int64_t t = 0; t + kGroup <= data.n_tokens; t += kGroup) {
      for (std::int64_t c = 0; c < d; ++c) along_tokens.add(rows + t * d + c, d);
    }
    for (std::int64_t t = 0; t < data.n_tokens; ++t) {
      for (std::int64_t c = 0; c + kGroup <= d; c += kGroup) pooled.add(rows + t * d + c, 1);
    }
  }
  out.normal_share = along_tokens.value();
  out.normal_share_pooled = pooled.value();
  return out;
}

}  // namespace

Normality normality(std::span<const float> samples) {
  if (samples.size() < 8) {
    throw invalid_argument(bad_value("normality", "samples.size()", samples.size(), "8 and above"));
  }
  const Moments m = moments(samples);
  if (!(m.m2 > 0.0)) return {0.0, 0.0, 0.0};
  const auto n = static_cast<double>(samples.size());
  Normality out;
  out.z_skew = skew_score(m.skew(), n);
  out.z_kurtosis = kurtosis_score(m.kurtosis(), n);
  out.p = std::exp(-0.5 * (out.z_skew * out.z_skew + out.z_kurtosis * out.z_kurtosis));
  return out;
}

std::vector<Distribution> distributions(const Captured& data, std::int32_t n_bins) {
  if (n_bins < 1) {
    throw invalid_argument(bad_value("distributions", "n_bins", n_bins, "1 and above"));
  }
  std::vector<Distribution> out;
  const auto size = data.k.size() / static_cast<std::size_t>(data.n_layers);
  for (std::int32_t layer = 0; layer < data.n_layers; ++layer) {
    for (const bool keys : {true, false}) {
      const std::vector<float>& side = keys ? data.k : data.v;
      out.push_back(distribution(
          std::span(side).subspan(static_cast<std::size_t>(layer) * size, size), data, n_bins));
      out.back().layer = layer;
      out.back().keys = keys;
    }
  }
  return out;
}

Json to_json(const std::vector<Distribution>& rows) {
  Json out = Json::array();
  for (const Distribution& d : rows) {
    out.push_back({{"layer", d.layer},
                   {"side", d.keys ? "k" : "v"},
                   {"lo", d.lo},
                   {"hi", d.hi},
                   {"counts", d.counts},
                   {"mean", d.mean},
                   {"stddev", d.stddev},
                   {"skew", d.skew},
                   {"kurtosis", d.kurtosis},
                   {"normal_share", d.normal_share},
                   {"normal_share_pooled", d.normal_share_pooled}});
  }
  return out;
}

}  // namespace kvcodec::eval
