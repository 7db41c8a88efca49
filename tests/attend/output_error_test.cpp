// What compression does to the output of attention: relative L2 error against float64 on the rows as
// they were appended. Unit Gaussian K, V and q of 128 channels, and
//
//   peaked     queries 3 times longer: few keys share most of the weight
//   outliers   K channels 5, 37, 70 and 111 ten times larger
//
// The bar is ggml's q4_0 (4.5 bits), computed here on the same rows: peaked and outlier errors rest on
// the few keys that a draw happens to prefer, so numbers of other draws compare badly. Measured with
// this file's inputs, 2,048 keys, 24 draws of 32 query heads on 2 KV heads:
//
//   q4_0                                              4.5 bits    0.1229 / 0.2083 / 0.4324
//   kv=nqsym:g64:search                               4.25        0.1196 / 0.1989 / 0.4237
//   q4_0 with Hadamard                                4.5         0.1231 / 0.2080 / 0.1962
//   k=hadamard+nqkv:g64:search,v=nqsym:g64:search     4.25        0.1207 / 0.2011 / 0.2187
//
// so on rotated outliers a quarter of a bit more still wins: a row of four large channels is not
// Gaussian after a rotation either, and uniform levels suit it better (rabitq:b4 keys: 0.2117). On the
// inputs of the measurement in which
// ik_llama's q4_0 has 0.119 / 0.227 / 0.579 and with Hadamard 0.121 / 0.327 / 0.226 (16,384 keys, 8
// query heads), kv=nqsym:g64:search has 0.123 / 0.181 / 0.428 and behind Hadamard 0.116 / 0.213 / 0.228,
// k=int8,v=nqsym:g64 0.089 / 0.091 / 0.103.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

constexpr int kDim = 128;
constexpr int kDraws = 3;

enum class Kind { gauss, peaked, outliers };
constexpr Kind kKinds[] = {Kind::gauss, Kind::peaked, Kind::outliers};

/// Rows and one query token.
struct Draw {
  Draw(const HeadShape& shape, std::int64_t n, Kind kind, std::uint64_t seed)
      : tokens(shape, n, 1000 * seed), q(test::gauss_rows(shape.n_q_heads, kDim, 1000 * seed + 7)) {
    if (kind == Kind::peaked) {
      for (float& x : q) x *= 3.0f;
    }
    for (std::size_t row = 0; kind == Kind::outliers && row < tokens.k.size(); row += kDim) {
      for (const std::size_t c : {5u, 37u, 70u, 111u}) tokens.k[row + c] *= 10.0f;
    }
  }

  Tokens tokens;
  std::vector<float> q;
};

/// Attention in float64 over K and V of the draw's shape.
std::vector<double> dense(const Draw& draw, const std::vector<float>& k,
                          const std::vector<float>& v) {
  const HeadShape& s = draw.tokens.shape;
  const std::vector<std::int32_t> pos(static_cast<std::size_t>(draw.tokens.size()));
  std::vector<double> out(draw.q.size());
  for (std::int32_t h = 0; h < s.n_q_heads; ++h) {
    const std::int64_t head = h / s.gqa_group();
    reference_attend(kDim, draw.tokens.size(), draw.q.data() + h * kDim, k.data() + head * kDim,
                     v.data() + head * kDim, draw.tokens.width(), pos.data(), 0,
                     test::default_options(kDim), -std::numeric_limits<double>::infinity(),
                     out.data() + h * kDim);
  }
  return out;
}

template <class T>
double relative_error(const std::vector<T>& got, const std::vector<double>& want) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - want[i];
    error += e * e;
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

/// All tokens encoded as a plan says, attended by the library.
std::vector<float> attend_with(const std::string& plan, const Draw& draw) {
  const HeadShape& s = draw.tokens.shape;
  const std::int64_t n = draw.tokens.size();
  Cache cache(make_cache_config(plan + ",recent=0", s, 1, n));
  const SeqId seq = cache.open();
  EXPECT_EQ(append(cache, seq, 0, draw.tokens, 0, n), Status::ok);
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(draw.q.data(), 1, s.n_q_heads, kDim);
  std::vector<float> out(draw.q.size());
  AttendWorkspace workspace;
  attend(cache, 0, step, out.data(), nullptr, test::default_options(kDim), workspace);
  return out;
}

/// ggml's q4_0, decoded: 32 values share an f16 scale, -1/8 of the value of largest magnitude.
std::vector<float> through_q4_0(std::vector<float> x) {
  constexpr std::size_t kGroup = 32;
  for (std::size_t i = 0; i < x.size(); i += kGroup) {
    float most = 0.0f;
    for (std::size_t j = i; j < i + kGroup; ++j) {
      if (std::fabs(x[j]) > std::fabs(most)) most = x[j];
    }
    const float d = most / -8.0f;
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    const float stored = to_f32(to_f16(d));
    for (std::size_t j = i; j < i + kGroup; ++j) {
      const int code = std::clamp(static_cast<int>(x[j] * inverse + 8.5f), 0, 15);
      x[j] = stored * static_cast<float>(code - 8);
    }
  }
  return x;
}

/// The same behind a Hadamard transform, turned back.
std::vector<float> through_rotated_q4_0(std::vector<float> x) {
  const AnyTransform rotation = make_transform("hadamard");
  for (std::size_t row = 0; row < x.size(); row += kDim) rotation.forward(kDim, 0, &x[row]);
  x = through_q4_0(std::move(x));
  for (std::size_t row = 0; row < x.size(); row += kDim) rotation.output(kDim, 0, &x[row]);
  return x;
}

constexpr HeadShape kShape{32, 2, kDim};

/// Root mean square over the draws of one kind, of what f(draw, exact output) returns.
double mean_error(Kind kind,
                  const std::function<double(const Draw&, const std::vector<double>&)>& f) {
  double sum = 0.0;
  for (std::uint64_t seed = 1; seed <= kDraws; ++seed) {
    const Draw draw(kShape, 2048, kind, seed);
    const double e = f(draw, dense(draw, draw.tokens.k, draw.tokens.v));
    sum += e * e / kDraws;
  }
  return std::sqrt(sum);
}

double error_of_plan(const std::string& plan, Kind kind) {
  return mean_error(kind, [&](const Draw& draw, const std::vector<double>& want) {
    return relative_error(attend_with(plan, draw), want);
  });
}

double error_of_bar(bool rotated, Kind kind) {
  return mean_error(kind, [&](const Draw& draw, const std::vector<double>& want) {
    const auto through = rotated ? through_rotated_q4_0 : through_q4_0;
    return relative_error(dense(draw, through(draw.tokens.k), through(draw.tokens.v)), want);
  });
}

void print(const std::string& what, const double (&e)[3]) {
  std::printf("%-46s %.4f / %.4f / %.4f\n", what.c_str(), e[0], e[1], e[2]);
}

struct Contest {
  bool rotated;
  const char* plan;
  /// Allowed over the bar: peaked and outlier errors vary by some percents.
  double most[3];
};

TEST(OutputError, FourAndAQuarterBitsAgainstFourAndAHalfOfQ40) {
  for (const Contest& c :
       {Contest{false, "kv=nqsym:g64:search", {1.0, 1.05, 1.05}},
        Contest{true, "k=hadamard+nqkv:g64:search,v=nqsym:g64:search", {1.0, 1.05, 1.2}}}) {
    double ours[3];
    double bar[3];
    for (int i = 0; i < 3; ++i) {
      ours[i] = error_of_plan(c.plan, kKinds[i]);
      bar[i] = error_of_bar(c.rotated, kKinds[i]);
      EXPECT_LT(ours[i], c.most[i] * bar[i]) << c.plan << ", input " << i;
    }
    print(c.rotated ? "q4_0 with Hadamard" : "q4_0", bar);
    print(c.plan, ours);
    EXPECT_NEAR(bar[0], 0.1215, 0.005) << "sqrt(2 * 0.00738): the bar itself is what it should be";
    // The control: 1.7 times the squared error is seen.
    EXPECT_GT(error_of_plan("kv=mxfp4", Kind::gauss), 1.1 * bar[0]);
  }
}

TEST(OutputError, Int8KeysAndFourBitValues) {
  const double most[3] = {0.09, 0.10, 0.11};
  double ours[3];
  for (int i = 0; i < 3; ++i) {
    ours[i] = error_of_plan("k=int8,v=nqsym:g64:search", kKinds[i]);
    EXPECT_LT(ours[i], most[i]) << "input " << i;
  }
  print("k=int8,v=nqsym:g64:search", ours);
}

// The mean error of a value does not average out over keys, its random part does.
TEST(OutputError, DoesNotGrowWithTheNumberOfKeysUnlessATableIsNotSymmetric) {
  const HeadShape shape{4, 1, kDim};
  const auto error = [&](const std::string& v, std::int64_t n) {
    const Draw draw(shape, n, Kind::gauss, 9);
    return relative_error(attend_with("k=f16,v=" + v, draw),
                          dense(draw, draw.tokens.k, draw.tokens.v));
  };
  for (const std::string v : {"nqsym:g64", "wkv:b4:g128"}) {
    const double few = error(v, 4096);
    const double many = error(v, 65536);
    EXPECT_LT(many, 1.12 * few) << v << ": " << few << ", then " << many;
  }
  // The control: the paper's NF4.
  EXPECT_GT(error("nqkv:g64", 65536), 1.3 * error("nqkv:g64", 4096));
}

}  // namespace
}  // namespace kvcodec
