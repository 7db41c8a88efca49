// Every kernel on every instruction set of this machine against double arithmetic on the decoded
// tile, and the promise that a query's bits do not depend on its company.
#include "src/cpu/tile_kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kvcodec/codec/codebook.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

constexpr int kQueryCounts[] = {1, 2, 3, 4, 5, 7, 8, 9, 16};
constexpr int kHeadDims[] = {64, 80, 96, 112, 128, 256};

/// Error of a sum of products in f32: a few roundings of the sum of magnitudes.
constexpr double kBound = 2e-6;

/// Every built-in codec with its variants, and the widths and groups that are missing there.
std::vector<std::string> specs() {
  std::vector<std::string> list = test::codec_specs();
  for (const char* spec :
       {"fp8:s0.37",   "nvfp4:s0.01",    "wkv:b2:g32",  "wkv:b3:g64",
        "wkv:b3:g128", "wkv:b4:g32",     "wkv:b8:g32",  "wkv:b8:g64",
        "kivi:b2:g64", "kivi:b4:g32",    "lm:b1",       "lm:b2",
        "lm:b3",       "rabitq:b2",      "rabitq:b3",   "nqfit:g32",
        "nqfit:g128",  "nqfit:g256",     "qjl:m64",     "qjl:m1024",
        "qjl:m96",     "qjl:m128:gauss", "qjl:m256:o8", "qjl:m256:o32:mo64:tile"}) {
    list.emplace_back(spec);
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

/// 64 rows of one head that a kernel reads, with the bytes they come from.
struct Tile {
  std::vector<std::byte> bytes;
  std::vector<float> rows;  ///< [kTileRows, head_dim]
  double range = 0.0;       ///< the least that a group of the codec spans
};

/// Kernels count codes from the middle of a group and its zero from there as well. In a row of equal
/// values the two cancel up to a rounding of the group's range, which "wkv" keeps above 0.
double least_range(const AnyCodec& codec) {
  const auto* affine = codec.as<AffineToken>();
  return affine == nullptr ? 0.0 : double{AffineToken::kSmallestScale} * ((1 << affine->bits) - 1);
}

Tile make_tile(const AnyCodec& codec, Side side, int head_dim, int head, unsigned seed) {
  const int width = codec.head_span(head_dim) * head_dim;
  std::vector<float> x = gaussian(cells(kTileRows, width), seed);
  for (int c = 0; c < width; ++c) x[static_cast<std::size_t>(c)] = 0.0f;  // a row without a scale
  Tile tile;
  tile.range = least_range(codec);
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

Worst worst_score(const std::vector<float>& q, const Tile& tile, int n_rows, int head_dim, int n_q,
                  const std::vector<float>& scores) {
  Worst worst;
  for (int i = 0; i < n_q; ++i) {
    for (int row = 0; row < n_rows; ++row) {
      double sum = 0.0, magnitude = 0.0;
      for (int c = 0; c < head_dim; ++c) {
        const double product = double{q[cells(i, head_dim) + cells(c, 1)]} *
                               double{tile.rows[cells(row, head_dim) + cells(c, 1)]};
        sum += product;
        magnitude +=
            std::abs(product) + std::abs(double{q[cells(i, head_dim) + cells(c, 1)]}) * tile.range;
      }
      const std::size_t at = cells(i, kTileRows) + cells(row, 1);
      worst.see(at, double{scores[at]}, sum, magnitude);
    }
  }
  return worst;
}

/// `before` is what the accumulator held.
Worst worst_sum(const std::vector<float>& w, const Tile& tile, int n_rows, int head_dim, int n_q,
                const std::vector<float>& before, const std::vector<float>& acc) {
  Worst worst;
  for (int i = 0; i < n_q; ++i) {
    for (int c = 0; c < head_dim; ++c) {
      const std::size_t at = cells(i, head_dim) + cells(c, 1);
      double sum = double{before[at]}, magnitude = std::abs(sum);
      for (int row = 0; row < n_rows; ++row) {
        const double product = double{w[cells(i, kTileRows) + cells(row, 1)]} *
                               double{tile.rows[cells(row, head_dim) + cells(c, 1)]};
        sum += product;
        magnitude += std::abs(product) +
                     std::abs(double{w[cells(i, kTileRows) + cells(row, 1)]}) * tile.range;
      }
      worst.see(at, double{acc[at]}, sum, magnitude);
    }
  }
  return worst;
}

bool same_bits(const float* a, const float* b, int n) {
  return std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(float)) == 0;
}

using Axes = std::tuple<std::string, std::string>;

std::string axes_name(const testing::TestParamInfo<Axes>& info) {
  return std::get<0>(info.param) + "_" + test::test_name(std::get<1>(info.param));
}

/// A codec, a head of its tiles, and the queries that a K tile takes.
struct Shape {
  AnyCodec codec;
  int head_dim;
  int head;

  std::string text(int n_q) const {
    return codec.name() + " head_dim " + std::to_string(head_dim) + " head " +
           std::to_string(head) + " n_q " + std::to_string(n_q) + " on " + cpu_isa();
  }
};

/// Whether the product of lines reads the codes: tables of partial sums read those of one bit.
bool has_lines(const AnyCodec& codec) {
  TileFormat f;
  return codec.tile_format(Side::value, 128, f) && f.bits > 1;
}

/// What a kernel may have asked for of a tile ahead: as it reads codes line by line, most of the tile, and
/// nothing far behind it.
void expect_fetched(const cpu::Ahead& ahead, const Tile& tile, const std::string& what) {
  const auto n = ahead.at - tile.bytes.data();
  const auto size = static_cast<std::ptrdiff_t>(tile.bytes.size());
  EXPECT_LT(n, size + 4 * static_cast<std::ptrdiff_t>(cpu::kCacheLine)) << what;
  if (std::string(cpu_isa()) != "scalar") {
    EXPECT_GT(n, 0) << what;
  }
}

void check_score(const Shape& s, const Tile& tile) {
  const cpu::KeyKernel kernel(cpu::kernels(), s.codec, s.head_dim);
  if (std::string(cpu_isa()) != "scalar") {
    ASSERT_GE(kernel.reading(), cpu::TileReading::format) << s.text(1) << ": no fast path";
  }
  const auto score = [&](const float* q, int n_q, float* scores) {
    cpu::Ahead ahead{tile.bytes.data(), tile.bytes.data() + tile.bytes.size()};
    if (kernel) {
      kernel(s.codec, tile.bytes.data(), s.head, q, nullptr, n_q, ahead, scores);
    } else {
      s.codec.functions().score_tile(s.codec.value(), s.head_dim, tile.bytes.data(), s.head, q, n_q,
                                     scores);
    }
    if (kernel.reading() == cpu::TileReading::format && has_lines(s.codec)) {
      expect_fetched(ahead, tile, s.text(n_q));
    }
  };
  const int width = s.codec.query_width(s.head_dim);
  const std::vector<float> q = gaussian(cells(16, s.head_dim), 2);
  std::vector<float> prepared(cells(16, width));
  for (int i = 0; i < 16; ++i) {
    s.codec.prepare_query(s.head_dim, q.data() + i * s.head_dim, prepared.data() + i * width);
  }
  std::vector<float> alone(kTileRows);
  for (const int n_q : kQueryCounts) {
    std::vector<float> scores(cells(n_q, kTileRows), NAN);
    score(prepared.data(), n_q, scores.data());
    const Worst worst = worst_score(q, tile, kTileRows, s.head_dim, n_q, scores);
    EXPECT_LE(worst.ratio, kBound) << s.text(n_q) << " at " << worst.index;
    for (int i = 0; i < n_q; ++i) {
      score(prepared.data() + i * width, 1, alone.data());
      ASSERT_TRUE(same_bits(alone.data(), scores.data() + i * kTileRows, kTileRows))
          << s.text(n_q) << ": query " << i << " depends on the others";
    }
  }
}

void check_add(const Shape& s, const Tile& tile) {
  const cpu::ValueKernel kernel(cpu::kernels(), s.codec, s.head_dim);
  if (std::string(cpu_isa()) != "scalar") {
    ASSERT_GE(kernel.reading(), cpu::TileReading::format) << s.text(1) << ": no fast path";
  }
  const auto add = [&](const float* w, int n_q, float* acc) {
    cpu::Ahead ahead{tile.bytes.data(), tile.bytes.data() + tile.bytes.size()};
    if (kernel) {
      kernel(s.codec, tile.bytes.data(), s.head, w, n_q, ahead, acc);
    } else {
      s.codec.functions().add_tile(s.codec.value(), s.head_dim, tile.bytes.data(), s.head, w, n_q,
                                   acc);
    }
    if (kernel.reading() == cpu::TileReading::format && has_lines(s.codec)) {
      expect_fetched(ahead, tile, s.text(n_q));
    }
  };
  std::vector<float> w = gaussian(cells(16, kTileRows), 4);
  for (float& value : w) value = value > 1.0f ? 0.0f : std::abs(value);
  const std::vector<float> before = gaussian(cells(16, s.head_dim), 5);
  for (const int n_q : kQueryCounts) {
    std::vector<float> acc = before;
    add(w.data(), n_q, acc.data());
    const Worst worst = worst_sum(w, tile, kTileRows, s.head_dim, n_q, before, acc);
    EXPECT_LE(worst.ratio, kBound) << s.text(n_q) << " at " << worst.index;
    std::vector<float> alone = before;
    for (int i = 0; i < n_q; ++i) add(w.data() + i * kTileRows, 1, alone.data() + i * s.head_dim);
    ASSERT_TRUE(same_bits(alone.data(), acc.data(), 16 * s.head_dim))
        << s.text(n_q) << ": a query depends on the others";
  }
}

/// Calls body(shape) for every shape of the codec under test.
class TileKernels : public testing::TestWithParam<Axes> {
 protected:
  template <class Body>
  void for_each_shape(Side side, const Body& body) {
    const auto& [isa, spec] = GetParam();
    const test::IsaGuard guard(isa);
    ASSERT_EQ(cpu::kernels().isa, isa);
    for (const int head_dim : kHeadDims) {
      const AnyCodec codec = make_codec(spec).with_tables(head_dim);
      if (!codec.supports(head_dim)) continue;
      if (side == Side::value && codec.key_only()) continue;
      for (int head = 0; head < codec.head_span(head_dim); ++head) {
        body(Shape{codec, head_dim, head});
      }
    }
  }
};

TEST_P(TileKernels, Score) {
  for_each_shape(Side::key, [](const Shape& s) {
    check_score(s, make_tile(s.codec, Side::key, s.head_dim, s.head, 1));
  });
}

TEST_P(TileKernels, Add) {
  for_each_shape(Side::value, [](const Shape& s) {
    check_add(s, make_tile(s.codec, Side::value, s.head_dim, s.head, 3));
  });
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, TileKernels,
                         testing::Combine(testing::ValuesIn(available_cpu_isas()),
                                          testing::ValuesIn(specs())),
                         axes_name);

/// A tile whose rows name a few entries, some none, at positions all over the table.
class CodebookKernels : public testing::TestWithParam<std::string> {
 protected:
  void check(const char* spec, Side side, bool turned) {
    const test::IsaGuard guard(GetParam());
    for (const int head_dim : kHeadDims) {
      std::vector<double> frequencies;
      for (int i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(0.9, i));
      const RopeTable rope(frequencies, 1000);
      const Codebook codec = *make_bound(spec, head_dim, turned ? &rope : nullptr);
      Tile tile;
      tile.bytes.resize(codec.tile_bytes(head_dim));
      const std::vector<float> magnitudes = gaussian(kTileRows, 11);
      for (int row = 0; row < kTileRows; ++row) {
        const std::uint32_t index = row % 9 == 4 ? ~0u : static_cast<std::uint32_t>(row * row % 23);
        const float magnitude = std::abs(magnitudes[static_cast<std::size_t>(row)]);
        const std::int32_t position = row * 16 - 5;  // the first and the last lie outside the table
        codec.put_rows(row, row + 1, &index, &magnitude, &position, tile.bytes.data());
      }
      tile.rows.resize(cells(kTileRows, head_dim));
      codec.decode_tile(side, head_dim, tile.bytes.data(), tile.rows.data());
      if (side == Side::key) check_score(Shape{codec, head_dim, 0}, tile);
      else check_add(Shape{codec, head_dim, 0}, tile);
    }
  }

 private:
  /// 20 entries: indices 20..22 are beyond the table.
  const Codebook* make_bound(const char* options, int head_dim, const RopeTable* rope) {
    bound_ = Codebook::parse(options);
    entries_.clear();
    for (const float x : gaussian(cells(20, head_dim), 12)) {
      entries_.push_back(to_f16(x / std::sqrt(static_cast<float>(head_dim))));
    }
    bound_.entries = entries_.data();
    bound_.n_entries = 20;
    if (rope != nullptr) bound_.rope = rope->view();
    return &bound_;
  }

  Codebook bound_;
  std::vector<f16> entries_;
};

TEST_P(CodebookKernels, TurnedKeys) { check("", Side::key, true); }
TEST_P(CodebookKernels, PlainKeys) {
  check("", Side::key, false);
  check("norope", Side::key, true);
}
TEST_P(CodebookKernels, Values) {
  check("", Side::value, true);
  check("norope", Side::value, false);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CodebookKernels, testing::ValuesIn(available_cpu_isas()),
                         [](const auto& at) { return at.param; });

class SketchQueries : public testing::TestWithParam<std::string> {};

// Any number of queries at a time, sketches of whole and of half vectors of words.
TEST_P(SketchQueries, AreThoseOfTheCodec) {
  const test::IsaGuard guard(GetParam());
  for (const char* spec : {"qjl:m64", "qjl:m96", "qjl:m256", "qjl:m256:o8:exact", "qjl:m1024"}) {
    for (const int head_dim : kHeadDims) {
      const AnyCodec codec = make_codec(spec).with_tables(head_dim);
      if (!codec.supports(head_dim)) continue;
      const int width = codec.query_width(head_dim);
      const cpu::KeyKernel kernel(cpu::kernels(), codec, head_dim, false, false);
      const std::vector<float> q = gaussian(cells(16, head_dim), 9);
      std::vector<float> want(cells(16, width)), alone(want);
      for (int i = 0; i < 16; ++i) {
        codec.prepare_query(head_dim, &q[cells(i, head_dim)], &want[cells(i, width)]);
        kernel.widen(codec, &q[cells(i, head_dim)], 1, &alone[cells(i, width)]);
      }
      for (const int n_q : kQueryCounts) {
        const std::string at = GetParam() + " " + spec + " head_dim " + std::to_string(head_dim) +
                               " n_q " + std::to_string(n_q);
        std::vector<float> got(cells(n_q, width), NAN);
        kernel.widen(codec, q.data(), n_q, got.data());
        for (std::size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], 1e-4f) << at << " element " << i;
        }
        ASSERT_TRUE(std::equal(got.begin(), got.end(), alone.begin())) << at;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, SketchQueries, testing::ValuesIn(available_cpu_isas()),
                         [](const auto& at) { return at.param; });

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
    Tile tile;
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < head_dim; ++c)
        tile.rows.push_back(load_value(type, stored.data(), row * stride + c));
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
        EXPECT_LE(worst_score(q, tile, n_rows, head_dim, n_q, scores).ratio, kBound) << at;
        std::vector<float> acc = q;
        cpu::kernels().add_rows[index](head_dim, stored.data(), stride, n_rows, w.data(), n_q,
                                       acc.data());
        EXPECT_LE(worst_sum(w, tile, n_rows, head_dim, n_q, q, acc).ratio, kBound) << at;
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
