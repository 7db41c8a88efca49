// Arithmetic::integer: kernels against double arithmetic on the decoded tile, and what the rounding of
// queries and weights adds to the error of an output.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"
#include "src/cpu/tile_kernels.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

/// Every kind of codes, groups inside and across heads, zeros, runs, signed scales, 8-bit scales.
const char* const kSpecs[] = {"int8",       "wkv:b8:g64",  "wkv:b4:g128", "wkv:b3:g64",
                              "wkv:b2:g32", "kivi:b2:g32", "kivi:b4:g64", "nqkv:g64",
                              "nqkv:g256",  "nqfit:g32",   "nqsym:g128",  "lm:b4",
                              "lm:b3",      "lm:b2",       "lm:b1",       "rabitq:b1",
                              "rabitq:b4",  "mxfp4",       "nvfp4"};
constexpr int kHeadDims[] = {64, 80, 128, 256};
constexpr int kQueryCounts[] = {1, 2, 3, 4, 7, 8, 13, 16, 21, 32};
constexpr int kMost = 32;
/// Counts up to here are compared with the products, more than that with one query at a time.
constexpr int kMostCompared = 13;

std::size_t at(int row, int width) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(width);
}

struct alignas(64) Line {
  std::byte bytes[64];
};

struct Tile {
  Tile(const AnyCodec& codec, Side side, int head_dim, int head)
      : bytes(codec.tile_bytes(head_dim)), rows(at(kTileRows, head_dim)) {
    const int width = codec.head_span(head_dim) * head_dim;
    std::vector<float> x = test::gauss_rows(kTileRows, width, 3);
    std::fill_n(x.begin(), width, 0.0f);  // a row without a scale
    codec.encode_tile(side, head_dim, x.data(), bytes.data());
    decode(codec, side, head_dim, head);
  }

  /// All codes of all heads become those of `byte`.
  void put_codes(const AnyCodec& codec, Side side, int head_dim, int head, const TileFormat& f,
                 std::byte byte) {
    std::size_t end = bytes.size();
    for (const std::uint32_t plane : {f.scale_offset, f.zero_offset}) {
      if (plane > 0) end = std::min(end, std::size_t{plane});
    }
    std::fill_n(bytes.begin(), end, byte);
    decode(codec, side, head_dim, head);
  }

  void decode(const AnyCodec& codec, Side side, int head_dim, int head) {
    const int width = codec.head_span(head_dim) * head_dim;
    std::vector<float> x(at(kTileRows, width));
    codec.decode_tile(side, head_dim, bytes.data(), x.data());
    for (int row = 0; row < kTileRows; ++row) {
      std::copy_n(&x[at(row, width) + at(head, head_dim)], head_dim, &rows[at(row, head_dim)]);
    }
  }

  std::vector<std::byte> bytes;
  std::vector<float> rows;  ///< [kTileRows, head_dim]
};

/// Steps to the largest level of codes with `bits` bits, on this machine. Codes of one bit are summed by
/// tables of bytes, or exactly.
double level_steps(int bits) {
  const cpu::Kernels& table = cpu::kernels();
  return bits == 2   ? table.level_steps[cpu::kTable2]
         : bits == 3 ? table.level_steps[cpu::kTable3]
         : bits == 4 ? table.level_steps[cpu::kTable4]
                     : 127.0;
}

/// What rounding may do to a sum of products of multipliers m and levels x: half a step of 1 / 127 of
/// the largest multiplier for each, and half a step of the levels for the others.
struct Bound {
  explicit Bound(double level_steps_) : steps(level_steps_) {}

  double steps;
  double sum = 0.0, m = 0.0, x = 0.0, top_m = 0.0, top_x = 0.0;

  void add(double multiplier, double level) {
    sum += multiplier * level;
    m += std::abs(multiplier);
    x += std::abs(level);
    top_m = std::max(top_m, std::abs(multiplier));
    top_x = std::max(top_x, std::abs(level));
  }
  void expect(double got, const std::string& what) const {
    EXPECT_NEAR(got, sum, 0.6 * top_m * x / 127.0 + 1.2 * top_x * m / steps + 1e-6 * m) << what;
  }
};

bool has_integers() { return attends_in_integers(make_codec("int8"), Side::key, 128); }

class IntegerKernels : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!has_integers()) GTEST_SKIP() << "no integer products on this machine";
  }

  /// body(codec, head_dim, head), on every instruction set that has integers.
  template <class Body>
  void for_each_shape(const Body& body) const {
    for (const std::string& isa : available_cpu_isas()) {
      const test::IsaGuard guard(isa);
      SCOPED_TRACE(isa);
      if (has_integers()) for_each_shape_here(body);
    }
  }

 private:
  template <class Body>
  void for_each_shape_here(const Body& body) const {
    for (const int head_dim : kHeadDims) {
      const AnyCodec codec = make_codec(GetParam()).with_tables(head_dim);
      if (!codec.supports(head_dim)) continue;
      for (int head = 0; head < codec.head_span(head_dim); ++head) body(codec, head_dim, head);
    }
  }
};

TEST_P(IntegerKernels, ScoresAreTheProductsUpToRounding) {
  for_each_shape([&](const AnyCodec& codec, int head_dim, int head) {
    const cpu::KeyKernel kernel(cpu::kernels(), codec, head_dim, false, true);
    TileFormat format;
    if (codec.tile_format(Side::key, head_dim, format) && format.bits == 1 && head_dim % 32 != 0) {
      return;  // no whole words: f32
    }
    ASSERT_EQ(kernel.reading(), cpu::TileReading::integer);
    const Tile tile(codec, Side::key, head_dim, head);
    const std::vector<float> q = test::gauss_rows(kMost, head_dim, 5);
    const int width = codec.query_width(head_dim);
    std::vector<float> prepared(at(kMost, width));
    for (int i = 0; i < kMost; ++i) {
      codec.prepare_query(head_dim, &q[at(i, head_dim)], &prepared[at(i, width)]);
    }
    const std::size_t of_query = cpu::KeyKernel::bytes_per_query(codec, head_dim);
    std::vector<Line> memory(kMost * of_query / 64);
    std::byte* bytes = memory.data()->bytes;
    kernel.prepare(codec, prepared.data(), kMost, bytes);
    for (const int n_q : kQueryCounts) {
      const std::string what =
          codec.name() + " head_dim " + std::to_string(head_dim) + " n_q " + std::to_string(n_q);
      std::vector<float> scores(at(n_q, kTileRows), NAN);
      cpu::Ahead ahead;
      const cpu::KernelUnit unit(cpu::kernels(), n_q);
      kernel(codec, tile.bytes.data(), head, prepared.data(), bytes, n_q, ahead, scores.data());
      for (int i = 0; i < n_q; ++i) {
        for (int row = 0; row < kTileRows && n_q <= kMostCompared; ++row) {
          Bound bound(level_steps(format.bits));
          for (int c = 0; c < head_dim; ++c) {
            bound.add(static_cast<double>(q[at(i, head_dim) + at(c, 1)]),
                      static_cast<double>(tile.rows[at(row, head_dim) + at(c, 1)]));
          }
          bound.expect(static_cast<double>(scores[at(i, kTileRows) + at(row, 1)]), what);
        }
        std::vector<float> alone(kTileRows);
        kernel(codec, tile.bytes.data(), head, &prepared[at(i, width)],
               bytes + static_cast<std::size_t>(i) * of_query, 1, ahead, alone.data());
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), &scores[at(i, kTileRows)]))
            << what << ": query " << i << " depends on the others";
      }
    }
  });
}

TEST_P(IntegerKernels, SumsAreTheProductsUpToRounding) {
  for_each_shape([&](const AnyCodec& codec, int head_dim, int head) {
    const cpu::ValueKernel kernel(cpu::kernels(), codec, head_dim, false, true);
    TileFormat format;
    if (codec.tile_format(Side::value, head_dim, format) && format.bits == 1) return;  // f32
    ASSERT_EQ(kernel.reading(), cpu::TileReading::integer);
    const Tile tile(codec, Side::value, head_dim, head);
    std::vector<float> w = test::gauss_rows(kMost, kTileRows, 7);
    for (float& x : w) x = std::abs(x);
    std::fill_n(w.begin(), kTileRows, 0.0f);  // a query that sees nothing
    const std::vector<float> before = test::gauss_rows(kMost, head_dim, 9);
    for (const int n_q : kQueryCounts) {
      const std::string what =
          codec.name() + " head_dim " + std::to_string(head_dim) + " n_q " + std::to_string(n_q);
      std::vector<float> acc = before;
      cpu::Ahead ahead;
      const cpu::KernelUnit unit(cpu::kernels(), n_q);
      kernel(codec, tile.bytes.data(), head, w.data(), n_q, ahead, acc.data());
      std::vector<float> alone = before;
      for (int i = 0; i < n_q; ++i) {
        for (int c = 0; c < head_dim && n_q <= kMostCompared; ++c) {
          // Weights times scales are what is rounded, so both tops are those of the tile.
          Bound bound(level_steps(format.bits));
          for (int row = 0; row < kTileRows; ++row) {
            bound.add(static_cast<double>(w[at(i, kTileRows) + at(row, 1)]),
                      static_cast<double>(tile.rows[at(row, head_dim) + at(c, 1)]));
          }
          for (const float x : tile.rows) {
            bound.top_x = std::max(bound.top_x, std::abs(static_cast<double>(x)));
          }
          bound.x = std::max(bound.x, bound.top_x * kTileRows / 3);
          bound.expect(static_cast<double>(acc[at(i, head_dim) + at(c, 1)]) -
                           static_cast<double>(before[at(i, head_dim) + at(c, 1)]),
                       what);
        }
        kernel(codec, tile.bytes.data(), head, &w[at(i, kTileRows)], 1, ahead,
               &alone[at(i, head_dim)]);
      }
      ASSERT_EQ(alone, acc) << what << ": a query depends on the others";
    }
  });
}

// Products that are all as large as they get must not leave the integers that they are summed in.
TEST_P(IntegerKernels, TheLargestSumsFit) {
  for_each_shape([&](const AnyCodec& codec, int head_dim, int head) {
    TileFormat f;
    if (!codec.tile_format(Side::key, head_dim, f) || f.bits == 1 || f.bits == 8) return;
    const cpu::KeyKernel key(cpu::kernels(), codec, head_dim, false, true);
    const cpu::ValueKernel value(cpu::kernels(), codec, head_dim, false, true);
    constexpr int kSigns = 4;
    std::vector<float> q(at(kSigns, head_dim)), w(at(kSigns, kTileRows));
    const auto fill = [&](std::vector<float>& x, int width) {
      for (int e = 0; e < width; ++e) {
        x[at(0, width) + at(e, 1)] = 1.0f;
        x[at(1, width) + at(e, 1)] = -1.0f;
        x[at(2, width) + at(e, 1)] = e % 4 < 2 ? 1.0f : -1.0f;
        x[at(3, width) + at(e, 1)] = e % 5 < 2 ? 1.0f : -0.5f;
      }
    };
    fill(q, head_dim);
    fill(w, kTileRows);
    std::vector<Line> memory(kSigns * cpu::KeyKernel::bytes_per_query(codec, head_dim) / 64);
    key.prepare(codec, q.data(), kSigns, memory.data()->bytes);
    for (const int codes : {0x00, 0xff, 0x0f, 0xf0}) {
      for (const Side side : {Side::key, Side::value}) {
        Tile tile(codec, side, head_dim, head);
        ASSERT_TRUE(codec.tile_format(side, head_dim, f));
        tile.put_codes(codec, side, head_dim, head, f, static_cast<std::byte>(codes));
        const bool keys = side == Side::key;
        const int width = keys ? kTileRows : head_dim;
        const int summed = keys ? head_dim : kTileRows;
        // A sum of 16 bits gone round would be 6 % of this or more, rounding 2 % at most.
        double tolerance = 0.0;
        for (const float x : tile.rows) {
          tolerance = std::max(tolerance, 0.03 * summed * std::abs(static_cast<double>(x)));
        }
        std::vector<float> out(at(kSigns, width));
        cpu::Ahead ahead;
        const cpu::KernelUnit unit(cpu::kernels(), kSigns);
        if (keys) {
          key(codec, tile.bytes.data(), head, q.data(), memory.data()->bytes, kSigns, ahead,
              out.data());
        } else {
          value(codec, tile.bytes.data(), head, w.data(), kSigns, ahead, out.data());
        }
        for (int i = 0; i < kSigns; ++i) {
          for (int lane = 0; lane < width; ++lane) {
            double want = 0.0;
            for (int e = 0; e < summed; ++e) {
              const float x = keys ? tile.rows[at(lane, head_dim) + at(e, 1)]
                                   : tile.rows[at(e, head_dim) + at(lane, 1)];
              const float m = keys ? q[at(i, head_dim) + at(e, 1)] : w[at(i, kTileRows) + at(e, 1)];
              want += static_cast<double>(m) * static_cast<double>(x);
            }
            ASSERT_NEAR(static_cast<double>(out[at(i, width) + at(lane, 1)]), want, tolerance)
                << codec.name() << (keys ? " keys" : " values") << " head_dim " << head_dim
                << " codes " << codes;
          }
        }
      }
    }
  });
}

// Whatever multiplies the integers, their sums are exact.
TEST(IntegerMatrices, GiveTheBitsOfVectors) {
  const std::vector<std::string> isas = available_cpu_isas();
  if (std::find(isas.begin(), isas.end(), "amx") == isas.end()) GTEST_SKIP() << "no AMX";
  for (const char* spec : kSpecs) {
    const AnyCodec codec = make_codec(spec).with_tables(128);
    const Tile keys(codec, Side::key, 128, 0);
    const Tile values(codec, Side::value, 128, 0);
    const std::vector<float> q = test::gauss_rows(kMost, 128, 5);
    const std::vector<float> w = test::gauss_rows(kMost, kTileRows, 7);
    std::vector<float> scores[2], sums[2];
    for (const int i : {0, 1}) {
      const test::IsaGuard guard(i == 0 ? "avx512" : "amx");
      const cpu::KeyKernel key(cpu::kernels(), codec, 128, false, true);
      const cpu::ValueKernel value(cpu::kernels(), codec, 128, false, true);
      std::vector<Line> memory(kMost * cpu::KeyKernel::bytes_per_query(codec, 128) / 64);
      std::byte* bytes = memory.data()->bytes;
      key.prepare(codec, q.data(), kMost, bytes);
      scores[i].resize(at(kMost, kTileRows));
      sums[i].resize(at(kMost, 128));
      const cpu::KernelUnit unit(cpu::kernels(), kMost);
      cpu::Ahead ahead;
      key(codec, keys.bytes.data(), 0, q.data(), bytes, kMost, ahead, scores[i].data());
      value(codec, values.bytes.data(), 0, w.data(), kMost, ahead, sums[i].data());
    }
    EXPECT_EQ(scores[0], scores[1]) << spec;
    EXPECT_EQ(sums[0], sums[1]) << spec;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, IntegerKernels, testing::ValuesIn(kSpecs), [](const auto& of) {
  std::string name = of.param;
  std::replace(name.begin(), name.end(), ':', '_');
  return name;
});

TEST(IntegerLevels, EvenlySpacedLevelsAreExact) {
  TileFormat f;
  f.width = 128;
  f.zero_offset = 64;
  for (f.bits = 2; f.bits <= 4; ++f.bits) {
    const int n = 1 << f.bits;
    for (int i = 0; i < n; ++i) f.table[i] = static_cast<float>(i);
    for (const int steps : {15, 32, 64, 127}) {
      const cpu::IntegerLevels levels = cpu::integer_levels(f, steps);
      for (int i = 0; i < n; ++i) {
        EXPECT_FLOAT_EQ(levels.unit * static_cast<float>(levels.bytes[i] - steps - 1),
                        static_cast<float>(i) - 0.5f * static_cast<float>(n - 1));
      }
    }
  }
}

TEST(IntegerLevels, FourBitFloatsAreExact) {
  for (const char* spec : {"mxfp4", "nvfp4"}) {
    TileFormat f;
    ASSERT_TRUE(make_codec(spec).tile_format(Side::key, 128, f));
    for (const int steps : {64, 127}) {
      const cpu::IntegerLevels levels = cpu::integer_levels(f, steps);
      for (int i = 0; i < 16; ++i) {
        EXPECT_FLOAT_EQ(levels.unit * static_cast<float>(levels.bytes[i] - steps - 1), f.table[i]);
      }
    }
  }
}

// What rounding changes on average goes into every row in the same direction and does not cancel.
TEST(IntegerLevels, KeepTheMeanOfNormalFloats) {
  TileFormat f;
  ASSERT_TRUE(make_codec("nqkv:g64").tile_format(Side::value, 128, f));
  for (const int steps : {64, 127}) {
    const cpu::IntegerLevels levels = cpu::integer_levels(f, steps);
    float mean = 0.0f;
    for (int i = 0; i < 16; ++i) {
      const int step = levels.bytes[i] - steps - 1;
      mean += (f.table[i] - levels.unit * static_cast<float>(step)) / 16.0f;
    }
    EXPECT_LE(std::abs(mean), 1e-3f * f.table[15]) << steps << " steps";
  }
}

TEST(IntegerLevels, StayWithinTheirSteps) {
  for (const char* spec : {"lm:b2", "lm:b3", "lm:b4", "nqkv:g64", "mxfp4"}) {
    TileFormat f;
    ASSERT_TRUE(make_codec(spec).tile_format(Side::key, 128, f));
    const int n = 1 << f.bits;
    for (const int steps : {15, 32, 64, 127}) {
      const cpu::IntegerLevels levels = cpu::integer_levels(f, steps);
      for (int i = 0; i < 64; ++i) {
        EXPECT_GE(levels.bytes[i], 1);
        EXPECT_LE(levels.bytes[i], 2 * steps + 1);
        const float level = levels.unit * static_cast<float>(levels.bytes[i] - steps - 1);
        EXPECT_NEAR(level, f.table[i % n], 0.5f * levels.unit * 1.001f) << spec << ", " << steps;
      }
    }
  }
}

// ---- The fidelity sets ----

constexpr int kDim = 128;
constexpr std::int64_t kKeys = 4096;
constexpr HeadShape kShape{8, 2, kDim};

/// Relative L2 error of the output of a plan; K channels 5, 37, 70 and 111 times `outliers`, queries
/// times `peak`.
double output_error(const Cache& cache, SeqId seq, const Tokens& tokens, std::vector<float> q,
                    float peak, Arithmetic arithmetic) {
  for (float& x : q) x *= peak;
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, kShape.n_q_heads, kDim);
  AttendOptions options = test::default_options(kDim);
  options.arithmetic = arithmetic;
  std::vector<float> out(q.size());
  AttendWorkspace workspace;
  attend(cache, 0, step, out.data(), nullptr, options, workspace);
  static const std::vector<std::int32_t> pos(kKeys);
  double error = 0.0, norm = 0.0;
  std::vector<double> want(kDim);
  for (int h = 0; h < kShape.n_q_heads; ++h) {
    const int head = h / kShape.gqa_group();
    reference_attend(kDim, kKeys, &q[at(h, kDim)], &tokens.k[at(head, kDim)],
                     &tokens.v[at(head, kDim)], tokens.width(), pos.data(), 0,
                     test::default_options(kDim), -std::numeric_limits<double>::infinity(),
                     want.data());
    for (int c = 0; c < kDim; ++c) {
      const double x = want[at(c, 1)];
      const double difference = static_cast<double>(out[at(h, kDim) + at(c, 1)]) - x;
      error += difference * difference;
      norm += x * x;
    }
  }
  return std::sqrt(error / norm);
}

TEST(IntegerError, IsWithinATenthOfTheFloatPath) {
  if (!has_integers()) GTEST_SKIP() << "no integer products on this machine";
  struct Set {
    const char* name;
    float peak, outliers;
  };
  constexpr Set kSets[] = {{"Gaussian", 1, 1}, {"peaked", 3, 1}, {"outliers", 1, 10}};
  for (const char* plan :
       {"kv=int8", "kv=wkv:b8:g64", "k=int8,v=nqfit:g64:search", "kv=nqkv:g64", "kv=nqfit:g64",
        "kv=hadamard+lm:b4", "kv=hadamard+lm:b3", "kv=hadamard+lm:b2", "kv=wkv:b4:g128",
        "kv=kivi:b2:g32", "k=kivi:b4:g64,v=wkv:b4:g128", "k=hadamard+qjl:m256,v=nqkv:g64",
        "k=qjl:m256:o8:fixed,v=int8", "k=qjl:m512:o4:exact,v=int8"}) {
    std::printf("%-34s", plan);
    for (const Set& set : kSets) {
      Tokens tokens(kShape, kKeys, 77);
      for (std::size_t row = 0; row < tokens.k.size(); row += kDim) {
        for (const std::size_t c : {5u, 37u, 70u, 111u}) tokens.k[row + c] *= set.outliers;
      }
      Cache cache(make_cache_config(std::string(plan) + ",recent=0", kShape, 1, kKeys));
      const SeqId seq = cache.open();
      ASSERT_EQ(append(cache, seq, 0, tokens, 0, kKeys), Status::ok);
      const std::vector<float> q = test::gauss_rows(kShape.n_q_heads, kDim, 79);
      const double f32 = output_error(cache, seq, tokens, q, set.peak, Arithmetic::f32);
      const double integer = output_error(cache, seq, tokens, q, set.peak, Arithmetic::integer);
      std::printf(" | %.4f -> %.4f (%+.1f %%)", f32, integer, 100.0 * (integer / f32 - 1.0));
      EXPECT_LE(integer, 1.10 * f32) << plan << ", " << set.name;
      EXPECT_NE(integer, f32) << plan << ": the option changes nothing";
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace kvcodec
