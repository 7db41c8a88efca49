// Every kernel on every instruction set of this machine against double arithmetic on the decoded
// tile, and the promise that a query's bits do not depend on its company.
#include "src/cpu/kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kvcodec/codec/builtin.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

constexpr int kQueryCounts[] = {1, 2, 3, 4, 5, 8, 9, 16};
constexpr int kHeadDims[] = {64, 80, 96, 112, 128, 256};

/// Error of a sum of products in f32: a few roundings of the sum of magnitudes.
constexpr double kBound = 2e-6;

std::vector<AnyCodec> codecs() {
  std::vector<AnyCodec> list = {RawF32{}, RawF16{}, RawBf16{}, Int8Token{}};
  for (const int group : {32, 64, 128, 256}) {
    list.push_back(Nqkv{.group = group});
    list.push_back(NqkvSymmetric{.group = group});
    list.push_back(NqkvFitted{.group = group});
  }
  return list;
}

std::vector<float> gaussian(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(engine);
  return x;
}

std::size_t cells(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

/// 64 rows of one head that a kernel reads: as doubles, with the bytes they come from.
struct Tile {
  std::vector<std::byte> bytes;
  std::vector<float> rows;  ///< [kTileRows, head_dim]
};

Tile make_tile(const AnyCodec& codec, Side side, int head_dim, int head, unsigned seed) {
  const int width = codec.head_span(head_dim) * head_dim;
  std::vector<float> x = gaussian(cells(kTileRows, width), seed);
  for (int c = 0; c < width; ++c) x[static_cast<std::size_t>(c)] = 0.0f;  // a row without a scale
  Tile tile;
  tile.bytes.resize(codec.tile_bytes(head_dim));
  EXPECT_TRUE(codec.encode_tile(side, head_dim, x.data(), tile.bytes.data()));
  codec.decode_tile(side, head_dim, tile.bytes.data(), x.data());
  for (int row = 0; row < kTileRows; ++row) {
    const auto first = x.begin() + row * width + head * head_dim;
    tile.rows.insert(tile.rows.end(), first, first + head_dim);
  }
  return tile;
}

/// Largest error over the sum of magnitudes, and where.
struct Worst {
  double ratio = 0.0;
  std::size_t index = 0;

  void see(std::size_t at, double got, double expected, double magnitude) {
    const double r = std::abs(got - expected) / (magnitude + 1e-30);
    if (!(r <= ratio)) *this = {r, at};
  }
};

Worst worst_score(const std::vector<float>& q, const std::vector<float>& rows, int n_rows,
                  int head_dim, int n_q, const std::vector<float>& scores) {
  Worst worst;
  for (int i = 0; i < n_q; ++i) {
    for (int row = 0; row < n_rows; ++row) {
      double sum = 0.0, magnitude = 0.0;
      for (int c = 0; c < head_dim; ++c) {
        const double product = double{q[cells(i, head_dim) + cells(c, 1)]} *
                               double{rows[cells(row, head_dim) + cells(c, 1)]};
        sum += product;
        magnitude += std::abs(product);
      }
      const std::size_t at = cells(i, kTileRows) + cells(row, 1);
      worst.see(at, double{scores[at]}, sum, magnitude);
    }
  }
  return worst;
}

/// `before` is what the accumulator held.
Worst worst_sum(const std::vector<float>& w, const std::vector<float>& rows, int n_rows,
                int head_dim, int n_q, const std::vector<float>& before,
                const std::vector<float>& acc) {
  Worst worst;
  for (int i = 0; i < n_q; ++i) {
    for (int c = 0; c < head_dim; ++c) {
      const std::size_t at = cells(i, head_dim) + cells(c, 1);
      double sum = double{before[at]}, magnitude = std::abs(sum);
      for (int row = 0; row < n_rows; ++row) {
        const double product = double{w[cells(i, kTileRows) + cells(row, 1)]} *
                               double{rows[cells(row, head_dim) + cells(c, 1)]};
        sum += product;
        magnitude += std::abs(product);
      }
      worst.see(at, double{acc[at]}, sum, magnitude);
    }
  }
  return worst;
}

bool same_bits(const float* a, const float* b, int n) {
  return std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(float)) == 0;
}

std::string shape(const AnyCodec& codec, int head_dim, int head, int n_q) {
  return codec.name() + " head_dim " + std::to_string(head_dim) + " head " + std::to_string(head) +
         " n_q " + std::to_string(n_q) + " on " + cpu_isa();
}

using Axes = std::tuple<std::string, AnyCodec>;

std::string axes_name(const testing::TestParamInfo<Axes>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param).name();
  std::replace(name.begin(), name.end(), ':', '_');
  return name;
}

/// Calls body(codec, head_dim, head) for every shape of the codec under test.
class TileKernels : public testing::TestWithParam<Axes> {
 protected:
  template <class Body>
  void for_each_shape(const Body& body) {
    const AnyCodec& codec = std::get<1>(GetParam());
    const test::IsaGuard guard(std::get<0>(GetParam()));
    ASSERT_EQ(cpu::kernels().isa, std::get<0>(GetParam()));
    cpu::CodecKernels kernels = cpu::codec_kernels(cpu::kernels(), codec);
    if (std::get<0>(GetParam()) != "scalar") {
      ASSERT_NE(kernels.score, nullptr) << "no fast path";
      ASSERT_NE(kernels.add, nullptr) << "no fast path";
    }
    if (kernels.score == nullptr) kernels.score = codec.functions().score_tile;
    if (kernels.add == nullptr) kernels.add = codec.functions().add_tile;
    for (const int head_dim : kHeadDims) {
      if (!codec.supports(head_dim)) continue;
      for (int head = 0; head < codec.head_span(head_dim); ++head) {
        body(codec, kernels, head_dim, head);
      }
    }
  }
};

TEST_P(TileKernels, Score) {
  for_each_shape([](const AnyCodec& codec, const cpu::CodecKernels& kernels, int head_dim,
                    int head) {
    const Tile tile = make_tile(codec, Side::key, head_dim, head, 1);
    const std::vector<float> q = gaussian(cells(16, head_dim), 2);
    std::vector<float> alone(kTileRows);
    for (const int n_q : kQueryCounts) {
      std::vector<float> scores(cells(n_q, kTileRows), NAN);
      kernels.score(codec.value(), head_dim, tile.bytes.data(), head, q.data(), n_q, scores.data());
      const Worst worst = worst_score(q, tile.rows, kTileRows, head_dim, n_q, scores);
      EXPECT_LE(worst.ratio, kBound) << shape(codec, head_dim, head, n_q) << " at " << worst.index;
      for (int i = 0; i < n_q; ++i) {
        kernels.score(codec.value(), head_dim, tile.bytes.data(), head, q.data() + i * head_dim, 1,
                      alone.data());
        ASSERT_TRUE(same_bits(alone.data(), scores.data() + i * kTileRows, kTileRows))
            << shape(codec, head_dim, head, n_q) << ": query " << i << " depends on the others";
      }
    }
  });
}

TEST_P(TileKernels, Add) {
  for_each_shape([](const AnyCodec& codec, const cpu::CodecKernels& kernels, int head_dim,
                    int head) {
    const Tile tile = make_tile(codec, Side::value, head_dim, head, 3);
    std::vector<float> w = gaussian(cells(16, kTileRows), 4);
    for (float& value : w) value = value > 1.0f ? 0.0f : std::abs(value);
    const std::vector<float> before = gaussian(cells(16, head_dim), 5);
    for (const int n_q : kQueryCounts) {
      std::vector<float> acc = before;
      kernels.add(codec.value(), head_dim, tile.bytes.data(), head, w.data(), n_q, acc.data());
      const Worst worst = worst_sum(w, tile.rows, kTileRows, head_dim, n_q, before, acc);
      EXPECT_LE(worst.ratio, kBound) << shape(codec, head_dim, head, n_q) << " at " << worst.index;
      std::vector<float> alone = before;
      for (int i = 0; i < n_q; ++i) {
        kernels.add(codec.value(), head_dim, tile.bytes.data(), head, w.data() + i * kTileRows, 1,
                    alone.data() + i * head_dim);
      }
      ASSERT_TRUE(same_bits(alone.data(), acc.data(), 16 * head_dim))
          << shape(codec, head_dim, head, n_q) << ": a query depends on the others";
    }
  });
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, TileKernels,
                         testing::Combine(testing::ValuesIn(available_cpu_isas()),
                                          testing::ValuesIn(codecs())),
                         axes_name);

class RowKernels : public testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(RowKernels, ScoreAndAdd) {
  const auto [isa, type] = GetParam();
  const test::IsaGuard guard(isa);
  const auto index = static_cast<std::size_t>(type);
  for (const int head_dim : kHeadDims) {
    const std::int64_t stride = 2 * head_dim + 3;  // rows of a cache with several heads
    const std::vector<float> x = gaussian(cells(kTileRows, static_cast<int>(stride)), 6);
    std::vector<std::byte> stored(x.size() * dtype_bytes(type));
    for (std::size_t i = 0; i < x.size(); ++i) {
      store_value(type, stored.data(), static_cast<std::int64_t>(i), x[i]);
    }
    std::vector<float> rows;
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < head_dim; ++c)
        rows.push_back(load_value(type, stored.data(), row * stride + c));
    }
    const std::vector<float> q = gaussian(cells(16, head_dim), 7);
    const std::vector<float> w = gaussian(cells(16, kTileRows), 8);
    for (const int n_rows : {1, 2, 3, 7, 8, 63, 64}) {
      for (const int n_q : kQueryCounts) {
        const std::string at = isa + " " + to_string(type) + " head_dim " +
                               std::to_string(head_dim) + " n_rows " + std::to_string(n_rows) +
                               " n_q " + std::to_string(n_q);
        std::vector<float> scores(cells(n_q, kTileRows), -7.0f);
        cpu::kernels().score_rows[index](head_dim, stored.data(), stride, n_rows, q.data(), n_q,
                                         scores.data());
        EXPECT_LE(worst_score(q, rows, n_rows, head_dim, n_q, scores).ratio, kBound) << at;
        std::vector<float> acc = q;
        cpu::kernels().add_rows[index](head_dim, stored.data(), stride, n_rows, w.data(), n_q,
                                       acc.data());
        EXPECT_LE(worst_sum(w, rows, n_rows, head_dim, n_q, q, acc).ratio, kBound) << at;
        std::vector<float> scores_alone(scores.size(), -7.0f), acc_alone = q;
        for (int i = 0; i < n_q; ++i) {
          cpu::kernels().score_rows[index](head_dim, stored.data(), stride, n_rows,
                                           q.data() + i * head_dim, 1,
                                           scores_alone.data() + i * kTileRows);
          cpu::kernels().add_rows[index](head_dim, stored.data(), stride, n_rows,
                                         w.data() + i * kTileRows, 1,
                                         acc_alone.data() + i * head_dim);
        }
        // Also proves that columns from n_rows on were left alone.
        ASSERT_EQ(scores, scores_alone) << at;
        ASSERT_EQ(acc, acc_alone) << at;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, RowKernels,
                         testing::Combine(testing::ValuesIn(available_cpu_isas()),
                                          testing::Values(DType::f32, DType::f16, DType::bf16)));

}  // namespace
}  // namespace kvcodec
