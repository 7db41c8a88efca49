// What appended rows pass before they are encoded, on every instruction set of this machine: storage types
// with clamping, transforms, and LagKV's scores, against the plain functions bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/policy/lagkv.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "src/cpu/kernels.hpp"
#include "src/cpu/transform.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

constexpr int kDims[] = {64, 80, 96, 112, 128, 144, 240, 256};
constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

class AppendKernels : public testing::TestWithParam<std::string> {};

bool same_bytes(const void* a, const void* b, std::size_t n) { return std::memcmp(a, b, n) == 0; }

/// `clean`: within the limits of every type.
std::vector<float> values(int n, bool clean) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float odd[] = {NAN,    -NAN,    kInf,     -kInf, 65504.0f, 65520.0f, -7e4f,   3.39e38f,
                       1e-45f, -1e-40f, 0x1p-25f, 3e-8f, 0.0f,     -0.0f,    6.1e-5f, -3.402e38f};
  std::vector<float> x = test::make_rows(test::Input::lognormal, 1, n, 3);
  for (std::size_t i = 5; i < x.size() && !clean; i += 7) x[i] = odd[i % 16];
  return x;
}

TEST_P(AppendKernels, LoadAndStoreAsThePlainLoops) {
  const test::IsaGuard guard(GetParam());
  const cpu::Kernels& table = cpu::kernels();
  if (GetParam() == "scalar") GTEST_SKIP() << "the plain loops themselves";
  for (const DType type : kTypes) {
    const auto index = static_cast<std::size_t>(type);
    ASSERT_NE(table.load_clamped[index], nullptr);
    for (const bool clean : {true, false}) {
      for (const int n : kDims) {
        const std::vector<float> x = values(n, clean);
        const std::size_t bytes = x.size() * dtype_bytes(type);
        std::vector<std::byte> stored(bytes), want(bytes), raw(bytes);
        bool limited = false;
        for (int i = 0; i < n; ++i) {
          const float value = x[static_cast<std::size_t>(i)];
          limited |= !(abs_of(value) <= dtype_max(type));
          store_value(type, want.data(), i, clamp_finite(value, dtype_max(type)));
          store_value(type, raw.data(), i, value);  // infinities and NaN stay
        }
        EXPECT_EQ(table.store_clamped[index](x.data(), n, stored.data()), limited);
        ASSERT_TRUE(same_bytes(stored.data(), want.data(), bytes)) << to_string(type) << " " << n;
        std::vector<float> whole(x.size());
        table.load_row[index](raw.data(), n, whole.data());
        for (int i = 0; i < n; ++i) {
          const float got = whole[static_cast<std::size_t>(i)];
          const float value = load_value(type, raw.data(), i);
          ASSERT_TRUE(same_bytes(&got, &value, sizeof got) || (got != got && value != value))
              << to_string(type) << " " << i << " of " << n << ": " << got << " not " << value;
        }
        for (const float limit : {dtype_max(type), 1.0f}) {
          std::vector<float> loaded(x.size()), plain(x.size());
          limited = false;
          for (int i = 0; i < n; ++i) {
            const float value = load_value(type, raw.data(), i);
            limited |= !(abs_of(value) <= limit);
            plain[static_cast<std::size_t>(i)] = clamp_finite(value, limit);
          }
          EXPECT_EQ(table.load_clamped[index](raw.data(), n, limit, loaded.data()), limited);
          ASSERT_TRUE(same_bytes(loaded.data(), plain.data(), 4 * x.size()))
              << to_string(type) << " " << n << " limit " << limit;
        }
      }
    }
  }
}

TEST_P(AppendKernels, TransformsAsTheChainItself) {
  const test::IsaGuard guard(GetParam());
  for (const char* spec : {"plain", "", "s7", "s65535"}) {
    TransformChain chain(Hadamard::parse(spec));
    chain.append(Hadamard::parse("s3"));
    for (const int head_dim : kDims) {
      for (const int row : {0, 1, 2}) {
        const std::vector<float> x = test::make_rows(test::kAllInputs[2 * row], 1, head_dim, 5);
        const auto bytes = x.size() * sizeof(float);
        std::vector<float> got = x, want = x;
        cpu::transform_forward(chain, head_dim, 1, got.data());
        chain.forward(head_dim, 1, want.data());
        ASSERT_TRUE(same_bytes(got.data(), want.data(), bytes)) << spec << " forward " << head_dim;
        cpu::transform_query(chain, head_dim, 1, got.data());
        chain.query(head_dim, 1, want.data());
        ASSERT_TRUE(same_bytes(got.data(), want.data(), bytes)) << spec << " query " << head_dim;
        cpu::transform_output(chain, head_dim, 1, got.data());
        chain.output(head_dim, 1, want.data());
        ASSERT_TRUE(same_bytes(got.data(), want.data(), bytes)) << spec << " output " << head_dim;
      }
    }
  }
}

TEST_P(AppendKernels, JudgeAsLagScale) {
  const test::IsaGuard guard(GetParam());
  const cpu::Kernels& table = cpu::kernels();
  if (GetParam() == "scalar") GTEST_SKIP() << "the plain loops themselves";
  for (const int head_dim : kDims) {
    for (const int n_rows : {1, 3, 8, 13}) {
      std::vector<float> x = test::make_rows(test::Input::lognormal, 2 * n_rows, head_dim, 9);
      for (int n_constant : {0, 3, head_dim - 1}) {  // channels that have no scale
        for (int t = n_rows; t < 2 * n_rows; ++t) {
          std::fill_n(x.begin() + t * head_dim + 5 * (n_constant < 9 ? 1 : 0), n_constant, 0.5f);
        }
        const float* next = x.data() + n_rows * head_dim;
        std::vector<float> least(kMaxHeadDim), most(least), want_least(least), want_most(least);
        LagScale::channel_ends(head_dim, n_rows, next, want_least.data(), want_most.data());
        table.channel_ends(head_dim, n_rows, next, least.data(), most.data());
        ASSERT_TRUE(same_bytes(least.data(), want_least.data(), 4 * least.size())) << head_dim;
        ASSERT_TRUE(same_bytes(most.data(), want_most.data(), 4 * most.size())) << head_dim;
        const LagScale scale(head_dim, least.data(), most.data());
        std::vector<double> sigma(static_cast<std::size_t>(n_rows)), want(sigma);
        for (int t = 0; t < n_rows; ++t) {
          want[static_cast<std::size_t>(t)] = scale.deviation(head_dim, x.data() + t * head_dim);
        }
        table.lag_deviations(head_dim, {scale.low, scale.inverse, scale.live, scale.n_live}, n_rows,
                             x.data(), sigma.data());
        ASSERT_TRUE(same_bytes(sigma.data(), want.data(), 8 * sigma.size()))
            << "head_dim " << head_dim << ", " << n_rows << " rows, " << scale.n_live << " live";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, AppendKernels, testing::ValuesIn(available_cpu_isas()),
                         [](const auto& at) { return at.param; });

}  // namespace
}  // namespace kvcodec
