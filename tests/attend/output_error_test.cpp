// What compression does to the output of attention: relative L2 error against float64 on the rows as
// they were appended, 16,384 keys of 128 channels. Unit Gaussian K, V and q, and
//
//   peaked     queries 3 times longer: few keys share most of the weight
//   outliers   K channels 5, 37, 70 and 111 ten times larger
//
// K, V and the first eight query heads are those of the measurement in which ik_llama.cpp's q4_0
// (4.5 bits) has 0.119 / 0.227 / 0.579, and with Hadamard 0.121 / 0.327 / 0.226. Eight heads rest on the
// few keys that a draw happens to prefer: the last two columns move by a third between draws. So q4_0
// is also computed here, on the same K and V, for kSets draws of eight query heads, and compared by the
// geometric mean of the heads' errors. Measured:
//
//                                         the measurement's heads      typical head of 96
//   q4_0                          4.5     0.1214 / 0.2425 / 0.5761     0.1228 / 0.2210 / 0.4975
//   kv=nqfit:g64:search           4.25    0.1125 / 0.1586 / 0.5715     0.1153 / 0.2064 / 0.4278
//   q4_0 with Hadamard            4.5     0.1254 / 0.2353 / 0.1882     0.1235 / 0.2273 / 0.2111
//   kv=hadamard+nqfit:g64:search  4.25    0.1158 / 0.1578 / 0.2182     0.1169 / 0.2181 / 0.2127
//   k=int8,v=nqfit:g64:search     6.25    0.0800 / 0.0824 / 0.0969     0.0811 / 0.0826 / 0.0973
//
// Rotated outliers are the one input on which q4_0 is better, by 1 %: a row of four large channels is
// not Gaussian after a rotation either, and its 32 values per scale suit it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

constexpr int kDim = 128;
constexpr std::int64_t kKeys = 16384;
constexpr HeadShape kShape{8, 2, kDim};
constexpr int kSets = 12;

enum Kind { gauss, peaked, outliers };
constexpr Kind kKinds[] = {gauss, peaked, outliers};

/// The generator of the measurement; its draws are those of libstdc++.
std::vector<float> normal_values(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(engine);
  return x;
}

Tokens make_tokens(bool with_outliers) {
  Tokens tokens(kShape, 0, 0);
  const auto n = static_cast<std::size_t>(kKeys * kShape.n_kv_heads * kDim);
  tokens.k = normal_values(n, 11);
  tokens.v = normal_values(n, 12);
  for (std::size_t row = 0; with_outliers && row < n; row += kDim) {
    for (const std::size_t c : {5u, 37u, 70u, 111u}) tokens.k[row + c] *= 10.0f;
  }
  return tokens;
}

const Tokens& tokens_of(Kind kind) {
  static const Tokens plain = make_tokens(false);
  static const Tokens with_outliers = make_tokens(true);
  return kind == outliers ? with_outliers : plain;
}

/// Queries of eight heads; set 0 is the measurement's.
std::vector<float> queries(Kind kind, int set) {
  std::vector<float> q = normal_values(static_cast<std::size_t>(kShape.n_q_heads * kDim),
                                       static_cast<unsigned>(13 + 100 * set));
  for (float& x : q) x *= kind == peaked ? 3.0f : 1.0f;
  return q;
}

using Output = std::vector<double>;
/// q [8, kDim] -> output.
using Attend = std::function<Output(const std::vector<float>&)>;

/// Attention in float64.
Attend dense(Tokens tokens) {
  const auto rows = std::make_shared<Tokens>(std::move(tokens));
  return [rows](const std::vector<float>& q) {
    static const std::vector<std::int32_t> pos(kKeys);
    Output out(q.size());
    for (std::int32_t h = 0; h < kShape.n_q_heads; ++h) {
      const std::int64_t head = h / kShape.gqa_group();
      reference_attend(kDim, kKeys, q.data() + h * kDim, rows->k.data() + head * kDim,
                       rows->v.data() + head * kDim, rows->width(), pos.data(), 0,
                       test::default_options(kDim), -std::numeric_limits<double>::infinity(),
                       out.data() + h * kDim);
    }
    return out;
  };
}

/// All tokens encoded as a plan says, attended by the library.
Attend with_plan(const std::string& plan, double most_bits, const Tokens& tokens) {
  const auto cache =
      std::make_shared<Cache>(make_cache_config(plan + ",recent=0", kShape, 1, kKeys));
  const SeqId seq = cache->open();
  EXPECT_EQ(append(*cache, seq, 0, tokens, 0, kKeys), Status::ok);
  const CacheBytes bytes = cache->bytes(seq);
  EXPECT_EQ(bytes.n_values, 2 * kKeys * tokens.width());
  EXPECT_LE(8.0 * static_cast<double>(bytes.payload) / static_cast<double>(bytes.n_values),
            most_bits)
      << plan;
  return [cache, seq](const std::vector<float>& q) {
    Step step;
    step.seqs = {&seq, 1};
    step.q = dense_rows(q.data(), 1, kShape.n_q_heads, kDim);
    std::vector<float> out(q.size());
    AttendWorkspace workspace;
    attend(*cache, 0, step, out.data(), nullptr, test::default_options(kDim), workspace);
    return Output(out.begin(), out.end());
  };
}

/// ggml's q4_0, decoded: 32 values share an f16 scale, -1/8 of the value of largest magnitude.
void through_q4_0(std::vector<float>& x) {
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
}

/// Attention over rows that went through q4_0, behind a Hadamard transform or not.
Attend with_q4_0(bool rotated, Tokens tokens) {
  const AnyTransform rotation = make_transform("hadamard");
  for (std::vector<float>* x : {&tokens.k, &tokens.v}) {
    for (std::size_t row = 0; rotated && row < x->size(); row += kDim) {
      rotation.forward(kDim, 0, &(*x)[row]);
    }
    through_q4_0(*x);
    for (std::size_t row = 0; rotated && row < x->size(); row += kDim) {
      rotation.output(kDim, 0, &(*x)[row]);
    }
  }
  return dense(std::move(tokens));
}

/// Squared relative error of values begin .. end - 1.
double square_error(const Output& got, const Output& want, std::size_t begin, std::size_t end) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = begin; i < end; ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error / norm;
}

/// Relative errors by kind.
struct Errors {
  double first[3] = {};    ///< of the measurement's eight heads together
  double all[3] = {};      ///< root mean square of that over all sets
  double typical[3] = {};  ///< geometric mean over all heads
};

void add_set(const Output& got, const Output& want, int set, int kind, Errors& errors) {
  const double square = square_error(got, want, 0, want.size());
  if (set == 0) errors.first[kind] = std::sqrt(square);
  errors.all[kind] += square / kSets;
  for (std::size_t at = 0; at < want.size(); at += kDim) {
    const double log = 0.5 * std::log(square_error(got, want, at, at + kDim));
    errors.typical[kind] += log / (kSets * kShape.n_q_heads);
  }
}

/// `make` turns tokens into an Attend; called once for the plain rows and once for the outlier rows.
template <class Make>
Errors errors_of(const char* what, Make make) {
  static std::vector<Output> exact[3];
  Errors errors;
  Attend plain;
  Attend with_outliers;
  for (const Kind kind : kKinds) {
    Attend& attend = kind == outliers ? with_outliers : plain;
    if (!attend) attend = make(tokens_of(kind));
    if (exact[kind].empty()) {
      const Attend reference = dense(tokens_of(kind));
      for (int set = 0; set < kSets; ++set) exact[kind].push_back(reference(queries(kind, set)));
    }
    for (int set = 0; set < kSets; ++set) {
      add_set(attend(queries(kind, set)), exact[kind][static_cast<std::size_t>(set)], set, kind,
              errors);
    }
    errors.all[kind] = std::sqrt(errors.all[kind]);
    errors.typical[kind] = std::exp(errors.typical[kind]);
  }
  std::printf("%-32s", what);
  for (const double* e : {errors.first, errors.all, errors.typical}) {
    std::printf(" | %.4f / %.4f / %.4f", e[0], e[1], e[2]);
  }
  std::printf("\n");
  return errors;
}

Errors errors_of_plan(const char* plan, double most_bits) {
  return errors_of(plan, [&](const Tokens& tokens) { return with_plan(plan, most_bits, tokens); });
}

Errors errors_of_q4_0(bool rotated) {
  const Errors errors = errors_of(rotated ? "q4_0 with Hadamard" : "q4_0",
                                  [&](const Tokens& tokens) { return with_q4_0(rotated, tokens); });
  // sqrt(2 * 0.00738): the bar itself is what it should be.
  EXPECT_NEAR(errors.all[gauss], 0.1215, 0.005);
  return errors;
}

/// Below the targets on the measurement's draw.
void expect_below(const Errors& ours, const double (&target)[3]) {
  for (const Kind kind : kKinds) EXPECT_LT(ours.first[kind], target[kind]) << "input " << kind;
}

TEST(OutputError, FourAndAQuarterBitsBeatFourAndAHalfOfQ40) {
  const Errors bar = errors_of_q4_0(false);
  const Errors ours = errors_of_plan("kv=nqfit:g64:search", 4.25);
  expect_below(ours, {0.119, 0.227, 0.579});
  for (const Kind kind : kKinds) {
    EXPECT_LT(ours.typical[kind], bar.typical[kind]) << "input " << kind;
  }
}

TEST(OutputError, TheSameBehindHadamard) {
  const Errors bar = errors_of_q4_0(true);
  const Errors ours = errors_of_plan("kv=hadamard+nqfit:g64:search", 4.25);
  expect_below(ours, {0.121, 0.327, 0.226});
  // On outliers the quarter of a bit that q4_0 has more wins: see the table above.
  for (const Kind kind : {gauss, peaked}) {
    EXPECT_LT(ours.typical[kind], bar.typical[kind]) << "input " << kind;
  }
}

// What the tests above would say of another table.
TEST(OutputError, ThePapersTableMissesTheTarget) {
  const Errors errors = errors_of_plan("kv=nqkv:g64", 4.25);
  EXPECT_GT(errors.first[gauss], 0.119);
  EXPECT_GT(errors.typical[gauss], 1.1 * 0.119);
}

TEST(OutputError, Int8KeysAndFourBitValues) {
  expect_below(errors_of_plan("k=int8,v=nqfit:g64:search", 6.25), {0.09, 0.10, 0.11});
}

/// Rows of the library's own generator, for any number of keys.
double error_of_values(const std::string& v, std::int64_t n) {
  const HeadShape shape{4, 1, kDim};
  const Tokens tokens(shape, n, 9000);
  const std::vector<float> q = test::gauss_rows(shape.n_q_heads, kDim, 9007);
  Cache cache(make_cache_config("k=f16,v=" + v + ",recent=0", shape, 1, n));
  const SeqId seq = cache.open();
  EXPECT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, shape.n_q_heads, kDim);
  std::vector<float> out(q.size());
  AttendWorkspace workspace;
  attend(cache, 0, step, out.data(), nullptr, test::default_options(kDim), workspace);
  const std::vector<std::int32_t> pos(static_cast<std::size_t>(n));
  Output want(q.size());
  for (std::int64_t h = 0; h < shape.n_q_heads; ++h) {
    reference_attend(kDim, n, q.data() + h * kDim, tokens.k.data(), tokens.v.data(), tokens.width(),
                     pos.data(), 0, test::default_options(kDim),
                     -std::numeric_limits<double>::infinity(), want.data() + h * kDim);
  }
  return std::sqrt(square_error(Output(out.begin(), out.end()), want, 0, want.size()));
}

// The mean error of a value does not average out over keys, its random part does.
TEST(OutputError, DoesNotGrowWithTheNumberOfKeysUnlessATableHasAMean) {
  for (const std::string v : {"nqsym:g64", "nqfit:g64", "wkv:b4:g128"}) {
    const double few = error_of_values(v, 4096);
    const double many = error_of_values(v, 65536);
    EXPECT_LT(many, 1.12 * few) << v << ": " << few << ", then " << many;
  }
  // The control: the paper's NF4.
  EXPECT_GT(error_of_values("nqkv:g64", 65536), 1.3 * error_of_values("nqkv:g64", 4096));
}

}  // namespace
}  // namespace kvcodec
