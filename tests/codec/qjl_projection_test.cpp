// The projection: the same bits everywhere, a prefix property, orthogonal pieces, one copy per process.
#include "kvcodec/codec/qjl_projection.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

double dot(const float* a, const float* b, int n) {
  double sum = 0.0;
  for (int c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

/// FNV-1a over the bits of S.
std::uint64_t hash(const QjlProjection& s) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (int i = 0; i < s.sketch_dim() * s.head_dim(); ++i) {
    h = (h ^ bit_cast<std::uint32_t>(s.tables().rows[i])) * 0x100000001b3u;
  }
  return h;
}

// Bytes of encoded keys depend on every bit of S: these must never change, on any compiler.
TEST(QjlProjection, HasTheSameBitsEverywhere) {
  EXPECT_EQ(hash(QjlProjection::generate(1, 256, 128)), 14824135207302633759u);
  EXPECT_EQ(hash(QjlProjection::generate(1, 256, 128, QjlKind::gauss)), 11013881246474655992u);
  EXPECT_EQ(hash(QjlProjection::generate(7, 96, 80)), 1892466250051831826u);
}

TEST(QjlProjection, FewerRowsAreTheBeginningOfMore) {
  for (const QjlKind kind : {QjlKind::orthogonal, QjlKind::gauss}) {
    const QjlProjection more = QjlProjection::generate(3, 200, 64, kind);
    for (const int m : {1, 64, 100}) {
      const QjlProjection less = QjlProjection::generate(3, m, 64, kind);
      EXPECT_EQ(std::memcmp(less.tables().rows, more.tables().rows,
                            static_cast<std::size_t>(m) * 64 * sizeof(float)),
                0);
    }
  }
}

TEST(QjlProjection, PiecesAreOrthogonalWithRowsOfLengthRootD) {
  for (const int d : {2, 15, 64, 128, 256}) {
    const int m = std::min(kMaxSketchDim, 2 * d + d / 2);
    const QjlProjection s = QjlProjection::generate(5, m, d);
    double across = 0.0;
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j <= i; ++j) {
        const double p = dot(s.tables().rows + i * d, s.tables().rows + j * d, d) / d;
        if (i == j) ASSERT_NEAR(p, 1.0, 2e-7) << d;
        else if (i / d == j / d) ASSERT_NEAR(p, 0.0, 2e-7) << d;
        else across = std::max(across, std::abs(p));
      }
    }
    EXPECT_GT(across, 0.01) << "pieces are not copies of each other's basis, nor orthogonal";
  }
}

TEST(QjlProjection, BothLayoutsHoldTheSame) {
  const QjlProjection s = QjlProjection::generate(9, 96, 80, QjlKind::gauss);
  const QjlTables t = s.tables();
  for (int i = 0; i < 96; ++i) {
    for (int c = 0; c < 80; ++c) ASSERT_EQ(t.rows[i * 80 + c], t.columns[c * 96 + i]);
  }
  const QjlProjection again = QjlProjection::from_rows(t.rows, 96, 80);
  EXPECT_EQ(hash(again), hash(s));
  EXPECT_EQ(std::memcmp(again.tables().columns, t.columns, 96 * 80 * sizeof(float)), 0);
}

TEST(QjlProjection, SeedsAndRowsAreIndependent) {
  const QjlProjection a = QjlProjection::generate(1, 64, 256, QjlKind::gauss);
  const QjlProjection b = QjlProjection::generate(2, 64, 256, QjlKind::gauss);
  // Sums of 16384 products of independent draws: standard deviation 128.
  EXPECT_LT(std::abs(dot(a.tables().rows, b.tables().rows, 64 * 256)), 5 * 128.0);
  EXPECT_LT(std::abs(dot(a.tables().rows, a.tables().rows + 256, 63 * 256)), 5 * 128.0);
  EXPECT_LT(std::abs(dot(a.tables().rows, a.tables().rows + 1, 64 * 256 - 1)), 5 * 128.0);
  EXPECT_NEAR(dot(a.tables().rows, a.tables().rows, 64 * 256) / (64 * 256), 1.0, 0.06);
}

TEST(QjlProjection, IsSharedByAllThreads) {
  std::vector<const QjlProjection*> found(8);
  std::vector<std::thread> threads;
  for (auto& place : found) {
    threads.emplace_back(
        [&place] { place = &QjlProjection::shared(4242, 64, 64, QjlKind::orthogonal); });
  }
  for (std::thread& t : threads) t.join();
  for (const QjlProjection* s : found) EXPECT_EQ(s, found[0]);
  EXPECT_EQ(hash(*found[0]), hash(QjlProjection::generate(4242, 64, 64)));
  EXPECT_NE(found[0], &QjlProjection::shared(4242, 64, 64, QjlKind::gauss));
  EXPECT_NE(found[0], &QjlProjection::shared(4242, 96, 64, QjlKind::orthogonal));
  EXPECT_NE(found[0], &QjlProjection::shared(4242, 64, 80, QjlKind::orthogonal));
}

TEST(QjlProjection, RefusesAndSaysWhy) {
  for (const int m : {0, -1, 1025}) {
    EXPECT_TRUE(test::contains(
        test::message_of<invalid_argument>([&] { QjlProjection::generate(1, m, 64); }),
        {"sketch_dim = " + std::to_string(m), "1..1024"}));
  }
  for (const int d : {1, 0, 257}) {
    EXPECT_TRUE(test::contains(
        test::message_of<invalid_argument>([&] { QjlProjection::generate(1, 64, d); }),
        {"head_dim = " + std::to_string(d), "2..256"}));
  }
}

}  // namespace
}  // namespace kvcodec
