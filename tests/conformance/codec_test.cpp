// The laws of codec.hpp, for every built-in codec and variant, every head size and both sides.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/guard.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

/// One codec at one head size on one side.
struct Subject {
  AnyCodec codec;
  int head_dim;
  Side side;

  int width() const { return codec.head_span(head_dim) * head_dim; }
  std::size_t bytes() const { return codec.tile_bytes(head_dim); }
  std::string text() const {
    return codec.name() + ", head_dim " + std::to_string(head_dim) + ", side " + to_string(side);
  }
  std::vector<std::byte> encode(const std::vector<float>& x) const {
    std::vector<std::byte> out(bytes());
    codec.encode_tile(side, head_dim, x.data(), out.data());
    return out;
  }
  std::vector<float> decode(const std::vector<std::byte>& in) const {
    std::vector<float> x(static_cast<std::size_t>(kTileRows * width()));
    codec.decode_tile(side, head_dim, in.data(), x.data());
    return x;
  }
};

class CodecLaws : public ::testing::TestWithParam<std::string> {
 protected:
  template <class F>
  void for_each_subject(F&& fn) const {
    int n = 0;
    for (const int head_dim : test::kHeadDims) {
      for (const Side side : test::kSides) {
        const AnyCodec codec = make_codec(GetParam());
        if (!codec.supports(head_dim) || (codec.key_only() && side == Side::value)) continue;
        const Subject s{codec.with_tables(head_dim), head_dim, side};
        SCOPED_TRACE(s.text());
        fn(s);
        ++n;
      }
    }
    EXPECT_GT(n, 0) << "no head size is supported";
  }
};

/// Queries as score_tile takes them.
std::vector<float> prepared(const Subject& s, const std::vector<float>& q) {
  const auto d = static_cast<std::size_t>(s.head_dim);
  const auto width = static_cast<std::size_t>(s.codec.query_width(s.head_dim));
  std::vector<float> out(q.size() / d * width);
  for (std::size_t i = 0; i * d < q.size(); ++i) {
    s.codec.prepare_query(s.head_dim, q.data() + i * d, out.data() + i * width);
  }
  return out;
}

TEST_P(CodecLaws, NameParsesBackToTheSameCodec) {
  const AnyCodec codec = make_codec(GetParam());
  const AnyCodec again = make_codec(codec.name());
  EXPECT_EQ(again.name(), codec.name());
  EXPECT_EQ(std::string(again.family()), codec.family());
  const Subject a{codec.with_tables(128), 128, Side::key};
  const Subject b{again.with_tables(128), 128, Side::key};
  const std::vector<float> x = test::gauss_rows(kTileRows, a.width(), 1);
  EXPECT_EQ(a.encode(x), b.encode(x));
}

TEST_P(CodecLaws, WritesExactlyItsBytes) {
  for_each_subject([](const Subject& s) {
    EXPECT_EQ(s.bytes() % 16, 0u);
    EXPECT_LE(s.width(), kMaxTileWidth);
    for (const test::Input kind : test::kAllInputs) {
      const std::vector<float> x = test::make_rows(kind, kTileRows, s.width(), 7);
      // Different garbage beforehand, the same bytes afterwards: all were written, none read.
      test::Guarded<> a(s.bytes(), std::byte{0xff});
      test::Guarded<> b(s.bytes(), std::byte{0x5a});
      EXPECT_TRUE(s.codec.encode_tile(s.side, s.head_dim, x.data(), a.data()));
      EXPECT_TRUE(s.codec.encode_tile(s.side, s.head_dim, x.data(), b.data()));
      EXPECT_TRUE(a.intact() && b.intact()) << to_string(kind);
      EXPECT_EQ(a.copy(), b.copy()) << to_string(kind);
      test::Guarded<float> y(x.size());
      s.codec.decode_tile(s.side, s.head_dim, a.data(), y.data());
      EXPECT_TRUE(y.intact()) << to_string(kind);
    }
  });
}

TEST_P(CodecLaws, LossLiesInsideItsBoundsFromBothSides) {
  for_each_subject([](const Subject& s) {
    double error = 0.0;
    double norm = 0.0;
    const bool searches = s.codec.name().find("search") != std::string::npos;
    const std::int64_t n_values = searches ? 20000 : 40000;
    for (std::uint64_t seed = 0;
         seed * 64 * static_cast<std::uint64_t>(s.width()) < static_cast<std::uint64_t>(n_values);
         ++seed) {
      const std::vector<float> x = test::gauss_rows(kTileRows, s.width(), 1000 + seed);
      const std::vector<float> y = s.decode(s.encode(x));
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double e = static_cast<double>(x[i]) - static_cast<double>(y[i]);
        error += e * e;
        norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      }
    }
    const LossBounds bounds = s.codec.loss(s.head_dim);
    EXPECT_GE(error / norm, bounds.low);
    EXPECT_LE(error / norm, bounds.high);
  });
}

TEST_P(CodecLaws, OutputIsFiniteWhateverComesIn) {
  for_each_subject([](const Subject& s) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    test::Random random(3);
    std::vector<float> x = test::gauss_rows(kTileRows, s.width(), 4);
    for (int trial = 0; trial < 4; ++trial) {
      for (float& value : x) {
        if (random.below(10) != 0) continue;
        // Any bits at all, and the named troublemakers.
        const float any = bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
        const float named[] = {kInf, -kInf, kNan, -kNan, 3.4e38f, -3.4e38f, 1e-45f, 65520.0f};
        value = random.below(2) == 0 ? any : named[random.below(8)];
      }
      std::vector<std::byte> tile(s.bytes());
      EXPECT_FALSE(s.codec.encode_tile(s.side, s.head_dim, x.data(), tile.data()));
      for (const float y : s.decode(tile)) ASSERT_TRUE(std::isfinite(y));
    }
  });
}

/// A TileWriter that refuses to set a bit twice.
struct OneTimeTile {
  std::byte* data;

  OneTimeTile operator+(std::size_t n) const { return {data + n}; }
  void set_bits(std::size_t word, std::uint32_t bits) const {
    std::uint32_t value;
    std::memcpy(&value, data + 4 * word, 4);
    EXPECT_EQ(value & bits, 0u) << "word " << word;
    value |= bits;
    std::memcpy(data + 4 * word, &value, 4);
  }
};
static_assert(TileWriter<OneTimeTile>);

/// fn(codec) with the type of `any`; fails if the type is not on the list.
template <class F>
void with_type(const AnyCodec& any, const F& fn) {
  bool found = false;
  BuiltinCodecs::for_each([&]<class C>() {
    if (const C* codec = any.as<C>()) {
      found = true;
      fn(*codec);
    }
  });
  EXPECT_TRUE(found);
}

/// 0..n-1 in an order drawn from `seed`.
std::vector<int> shuffled(int n, std::uint64_t seed) {
  std::vector<int> order;
  test::Random random(seed);
  for (int i = 0; i < n; ++i) {
    const auto at = random.below(i + 1);
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(at), i);
  }
  return order;
}

TEST_P(CodecLaws, PartsInAnyOrderAreTheTile) {
  for_each_subject([](const Subject& s) {
    with_type(s.codec, [&]<class C>(const C& codec) {
      if constexpr (PartedCodec<C>) {
        const int stride = s.width() + 3;  // rows need not be dense
        const auto at = [&](int row, int c) { return static_cast<std::size_t>(row * stride + c); };
        std::vector<float> x = test::gauss_rows(kTileRows, s.width(), 41);
        x[77] = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> spaced(static_cast<std::size_t>(kTileRows * stride), 1e9f);
        for (int row = 0; row < kTileRows; ++row) {
          for (int c = 0; c < s.width(); ++c) {
            spaced[at(row, c)] = x[static_cast<std::size_t>(row * s.width() + c)];
          }
        }
        test::Guarded<> tile(s.bytes(), std::byte{0});
        test::Guarded<> plain(s.bytes(), std::byte{0});
        bool finite = true;
        for (const int part : shuffled(codec.n_parts(s.side, s.head_dim), 5)) {
          finite &= codec.encode_part(s.side, s.head_dim, spaced.data(), stride, part,
                                      OneTimeTile{tile.data()});
          codec.encode_part(s.side, s.head_dim, spaced.data(), stride, part, plain.data());
        }
        EXPECT_FALSE(finite);
        EXPECT_TRUE(tile.intact() && plain.intact());
        EXPECT_EQ(tile.copy(), s.encode(x));
        EXPECT_EQ(plain.copy(), s.encode(x));
        if constexpr (ContinuingParts<C>) {
          const std::vector<std::byte> first =
              s.encode(test::make_rows(test::Input::lognormal, kTileRows, s.width(), 42));
          test::Guarded<> after(s.bytes(), std::byte{0});
          for (const int part : shuffled(codec.n_parts(s.side, s.head_dim), 7)) {
            codec.encode_part_after(s.side, s.head_dim, first.data(), spaced.data(), stride, part,
                                    OneTimeTile{after.data()});
          }
          std::vector<std::byte> want(s.bytes());
          s.codec.encode_tile_after(s.side, s.head_dim, first.data(), x.data(), want.data());
          EXPECT_EQ(after.copy(), want);
        }
        std::vector<float> y(spaced.size(), -7.0f);
        for (const int part : shuffled(codec.n_parts(s.side, s.head_dim), 6)) {
          codec.decode_part(s.side, s.head_dim, tile.data(), part, y.data(), stride);
        }
        const std::vector<float> want = s.decode(tile.copy());
        for (int row = 0; row < kTileRows; ++row) {
          for (int c = 0; c < stride; ++c) {
            ASSERT_EQ(y[at(row, c)],
                      c < s.width() ? want[static_cast<std::size_t>(row * s.width() + c)] : -7.0f)
                << row << ", " << c;
          }
        }
      }
    });
  });
}

// Any tile made after a first one can stand for it; without a first tile, or in a codec that fixes
// nothing, it is encode_tile.
TEST_P(CodecLaws, TilesHandOnWhatTheFirstOneFixed) {
  for_each_subject([](const Subject& s) {
    const auto rows = [&](std::uint64_t seed) {
      return test::make_rows(test::Input::lognormal, kTileRows, s.width(), seed);
    };
    const auto after = [&](const std::byte* first_tile, const std::vector<float>& x,
                           bool finite = true, std::byte garbage = std::byte{0xff}) {
      test::Guarded<> out(s.bytes(), garbage);
      EXPECT_EQ(s.codec.encode_tile_after(s.side, s.head_dim, first_tile, x.data(), out.data()),
                finite);
      EXPECT_TRUE(out.intact());
      return out.copy();
    };
    const std::vector<std::byte> first = s.encode(rows(31));
    const std::vector<std::byte> second = after(first.data(), rows(32));
    EXPECT_EQ(second, after(first.data(), rows(32), true, std::byte{0x5a})) << "garbage was read";
    EXPECT_EQ(after(nullptr, rows(32)), s.encode(rows(32)));
    EXPECT_EQ(after(first.data(), rows(31)), first);
    EXPECT_EQ(after(second.data(), rows(33)), after(first.data(), rows(33)));
    if (s.codec.functions().encode_tile_after == nullptr) {
      EXPECT_EQ(second, s.encode(rows(32)));
    }
    std::vector<float> spoilt = rows(34);
    spoilt[5] = std::numeric_limits<float>::quiet_NaN();
    spoilt[70] = std::numeric_limits<float>::infinity();
    for (const float y : s.decode(after(first.data(), spoilt, false))) {
      ASSERT_TRUE(std::isfinite(y));
    }
  });
}

TEST_P(CodecLaws, CopyRowsMovesRowsAndNothingElse) {
  for_each_subject([](const Subject& s) {
    if (!s.codec.row_independent()) return;
    const std::vector<float> x = test::gauss_rows(kTileRows, s.width(), 11);
    const std::vector<float> y = test::gauss_rows(kTileRows, s.width(), 12);
    const std::vector<std::byte> from = s.encode(x);
    const std::vector<std::byte> start = s.encode(y);
    for (const auto& [begin, end] : {std::pair{0, 64}, {0, 1}, {63, 64}, {17, 40}, {5, 5}}) {
      std::vector<float> mixed = y;
      const auto w = static_cast<std::size_t>(s.width());
      for (std::size_t i = static_cast<std::size_t>(begin) * w;
           i < static_cast<std::size_t>(end) * w; ++i) {
        mixed[i] = x[i];
      }
      test::Guarded<> to(s.bytes());
      std::copy(start.begin(), start.end(), to.data());
      s.codec.copy_rows(s.side, s.head_dim, from.data(), to.data(), begin, end);
      EXPECT_EQ(to.copy(), s.encode(mixed)) << begin << ".." << end;
      EXPECT_TRUE(to.intact());
    }
  });
}

// The scalar definitions, against float64 sums over the decoded rows.
TEST_P(CodecLaws, ScoringIsTheProductWithDecodedRows) {
  for_each_subject([](const Subject& s) {
    if (s.side != Side::key) return;
    const auto d = static_cast<std::size_t>(s.head_dim);
    const std::vector<std::byte> tile = s.encode(test::gauss_rows(kTileRows, s.width(), 21));
    const std::vector<float> k = s.decode(tile);
    const std::vector<float> q = test::gauss_rows(3, s.head_dim, 22);
    for (int head = 0; head < s.codec.head_span(s.head_dim); ++head) {
      test::Guarded<float> scores(3 * kTileRows);
      s.codec.functions().score_tile(s.codec.value(), s.head_dim, tile.data(), head,
                                     prepared(s, q).data(), 3, scores.data());
      std::vector<double> want;
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t row = 0; row < kTileRows; ++row) {
          const std::size_t at =
              row * static_cast<std::size_t>(s.width()) + static_cast<std::size_t>(head) * d;
          double sum = 0.0;
          for (std::size_t c = 0; c < d; ++c) {
            sum += static_cast<double>(q[i * d + c]) * static_cast<double>(k[at + c]);
          }
          want.push_back(sum);
        }
      }
      EXPECT_TRUE(test::close(scores.copy(), want, kTileRows, {2e-4, 1e-5}, "scores"));
      EXPECT_TRUE(scores.intact());
    }
  });
}

TEST_P(CodecLaws, SummingAddsWeightedDecodedRows) {
  for_each_subject([](const Subject& s) {
    if (s.side != Side::value) return;
    const auto d = static_cast<std::size_t>(s.head_dim);
    const std::vector<std::byte> tile = s.encode(test::gauss_rows(kTileRows, s.width(), 31));
    const std::vector<float> v = s.decode(tile);
    const std::vector<float> w = test::gauss_rows(3, kTileRows, 32);
    for (int head = 0; head < s.codec.head_span(s.head_dim); ++head) {
      test::Guarded<float> acc(3 * d);
      std::fill_n(acc.data(), 3 * d, 0.5f);
      s.codec.functions().add_tile(s.codec.value(), s.head_dim, tile.data(), head, w.data(), 3,
                                   acc.data());
      std::vector<double> want(3 * d, 0.5);
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t row = 0; row < kTileRows; ++row) {
          const std::size_t at =
              row * static_cast<std::size_t>(s.width()) + static_cast<std::size_t>(head) * d;
          for (std::size_t c = 0; c < d; ++c) {
            want[i * d + c] +=
                static_cast<double>(w[i * kTileRows + row]) * static_cast<double>(v[at + c]);
          }
        }
      }
      EXPECT_TRUE(test::close(acc.copy(), want, d, {2e-4, 1e-5}, "sums"));
      EXPECT_TRUE(acc.intact());
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Builtin, CodecLaws, ::testing::ValuesIn(test::codec_specs()),
                         test::name_of_param);

// Every variant this suite runs is a family of the built-in list, and every family has one.
TEST(CodecLists, VariantsBelongToFamilies) {
  const std::string families = codec_families();
  for (const auto& [family, options] : test::option_variants()) {
    EXPECT_NE(families.find(family), std::string::npos) << family;
    EXPECT_FALSE(options.empty()) << family;
  }
  EXPECT_GE(test::codec_specs().size(), BuiltinCodecs::size);
}

}  // namespace
}  // namespace kvcodec
