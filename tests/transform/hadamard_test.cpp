// The Hadamard transform: the matrix itself, orthonormality, products kept, names.
#include "kvcodec/transform/hadamard.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kSizes[] = {64, 80, 96, 112, 128, 192, 240, 256};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

/// Column c of the matrix.
std::vector<float> column(const AnyTransform& t, int head_dim, int c) {
  std::vector<float> x(static_cast<std::size_t>(head_dim), 0.0f);
  x[static_cast<std::size_t>(c)] = 1.0f;
  t.forward(head_dim, 0, x.data());
  return x;
}

class Rotation : public ::testing::TestWithParam<std::string> {};

TEST_P(Rotation, IsOrthonormal) {
  const AnyTransform t = make_transform(GetParam());
  for (const int head_dim : kSizes) {
    ASSERT_TRUE(t.supports(head_dim));
    std::vector<std::vector<float>> columns;
    for (int c = 0; c < head_dim; ++c) columns.push_back(column(t, head_dim, c));
    for (std::size_t a = 0; a < columns.size(); ++a) {
      for (std::size_t b = 0; b <= a; ++b) {
        ASSERT_NEAR(dot(columns[a], columns[b]), a == b ? 1.0 : 0.0, 1e-6) << head_dim;
      }
    }
  }
}

TEST_P(Rotation, OutputIsTheInverseAndProductsStay) {
  const AnyTransform t = make_transform(GetParam());
  for (const int head_dim : kSizes) {
    const std::vector<float> q = test::gauss_rows(1, head_dim, 1);
    const std::vector<float> k = test::gauss_rows(1, head_dim, 2);
    std::vector<float> tq = q;
    std::vector<float> tk = k;
    t.query(head_dim, 0, tq.data());
    t.forward(head_dim, 0, tk.data());
    EXPECT_NEAR(dot(tq, tk), dot(q, k), 2e-5);
    t.output(head_dim, 0, tk.data());
    EXPECT_TRUE(test::close(tk, k, k.size(), {2e-6, 0.0}, "inverse, " + std::to_string(head_dim)));
  }
}

INSTANTIATE_TEST_SUITE_P(Builtin, Rotation,
                         ::testing::Values("identity", "hadamard", "hadamard:plain", "hadamard:s2",
                                           "hadamard:s65535"),
                         test::name_of_param);

// By definition H_ij = (-1)^popcount(i & j) / sqrt(n), per power of two, largest first.
TEST(Hadamard, PlainIsTheWalshHadamardMatrixOfEachPart) {
  struct Case {
    int head_dim;
    std::vector<int> parts;
  };
  for (const Case& c : {Case{64, {64}}, Case{80, {64, 16}}, Case{96, {64, 32}}, Case{128, {128}},
                        Case{112, {64, 32, 16}}, Case{256, {256}}}) {
    const AnyTransform t = make_transform("hadamard:plain");
    int first = 0;
    for (const int n : c.parts) {
      for (int j = 0; j < n; ++j) {
        const std::vector<float> x = column(t, c.head_dim, first + j);
        for (int i = 0; i < c.head_dim; ++i) {
          double want = 0.0;
          if (i >= first && i < first + n) {
            const bool odd = std::popcount(static_cast<unsigned>((i - first) & j)) % 2 == 1;
            want = (odd ? -1.0 : 1.0) / std::sqrt(static_cast<double>(n));
          }
          ASSERT_NEAR(static_cast<double>(x[static_cast<std::size_t>(i)]), want, 1e-7)
              << c.head_dim << ": " << i << ", " << first + j;
        }
      }
      first += n;
    }
    EXPECT_EQ(first, c.head_dim);
  }
}

TEST(Hadamard, SpreadsAnOutlierOverAllChannels) {
  const std::vector<float> x = column(make_transform("hadamard"), 128, 17);
  for (const float value : x) EXPECT_NEAR(std::fabs(value), 1.0 / std::sqrt(128.0), 1e-6);
}

TEST(Hadamard, SignsAreBalancedAndDependOnTheSeedAlone) {
  std::set<std::vector<bool>> seen;
  for (std::uint32_t seed = 1; seed <= 100; ++seed) {
    std::vector<bool> signs;
    int n_negative = 0;
    for (int c = 0; c < 256; ++c) {
      signs.push_back(Hadamard::negative(seed, c));
      n_negative += signs.back() ? 1 : 0;
    }
    EXPECT_GT(n_negative, 128 - 48) << seed;  // six standard deviations
    EXPECT_LT(n_negative, 128 + 48) << seed;
    EXPECT_TRUE(seen.insert(signs).second) << seed;
  }
}

TEST(Transforms, NamesComeBack) {
  for (const std::string name : {"identity", "hadamard", "hadamard:plain", "hadamard:s7"}) {
    EXPECT_EQ(make_transform(name).name(), name);
  }
  EXPECT_EQ(make_transform("hadamard:s1").name(), "hadamard");
  EXPECT_TRUE(make_transform("identity").is_identity());
  EXPECT_TRUE(AnyTransform{}.is_identity());
  EXPECT_FALSE(make_transform("hadamard").is_identity());
}

TEST(Transforms, MessagesListWhatExists) {
  const std::string unknown =
      test::message_of<invalid_argument>([] { make_transform("hadamart"); });
  EXPECT_TRUE(test::contains(unknown, {"hadamart", "identity", "hadamard"}));
  for (const std::string bad :
       {"s0", "s65536", "s", "s1x", "S1", "x", "s-1", "plain2", "s\t5", "s000000001"}) {
    const std::string message =
        test::message_of<invalid_argument>([&] { make_transform("hadamard:" + bad); });
    EXPECT_TRUE(test::contains(message, {"hadamard", bad, "1..65535", "plain"})) << bad;
  }
  EXPECT_TRUE(test::contains(
      test::message_of<invalid_argument>([] { make_transform("identity:x"); }), {"identity", "x"}));
  EXPECT_FALSE(make_transform("hadamard").supports(72));
  EXPECT_FALSE(make_transform("hadamard").supports(48));
}

}  // namespace
}  // namespace kvcodec
