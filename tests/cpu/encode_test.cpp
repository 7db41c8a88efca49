// Every kernel that encodes, on every instruction set of this machine: the bytes of the codec's own
// encode_tile, whatever the values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kvcodec/codec/encode_tile.hpp"
#include "src/cpu/tile_encoder.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

/// Every built-in codec with its variants, and the widths and groups that are missing there. There is no
/// kernel for the search of "rabitq".
std::vector<std::string> specs() {
  std::vector<std::string> list = test::codec_specs();
  std::erase(list, "rabitq:b4");
  for (const char* spec :
       {"fp8:s0.37",   "fp8:s1e-30",     "nvfp4:s0.01",     "nvfp4:s1e-30", "wkv:b2:g32",
        "wkv:b3:g64",  "wkv:b3:g128:x1", "wkv:b4:g32:x0.3", "wkv:b8:g32",   "kivi:b2:g64",
        "kivi:b4:g32", "lm:b1",          "lm:b2",           "lm:b3:norm",   "lm:b4:unbiased",
        "lm:b4:rms",   "rabitq:b2:fast", "rabitq:b4:fast",  "nqfit:g32",    "nqfit:g256:x0.5",
        "nqfit:g128"}) {
    list.emplace_back(spec);
  }
  return list;
}

/// Values that round, tie, vanish, overflow or are no numbers; some kinds clean, so that nothing has to
/// be clamped.
constexpr int kKinds = 14;
std::vector<float> special_rows(int kind, int width, std::uint64_t seed) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float odd[] = {0.0f,     -0.0f,    NAN,      kInf,  -kInf,    1e-45f,   -1e-45f, 3e38f,
                       -3.4e38f, 65504.0f, 65519.9f, -7e4f, 65520.0f, 6e-8f,    -6e-5f,  1.0f,
                       -1.0f,    448.0f,   2.9e7f,   0.5f,  0x1p-25f, 0x1p-14f, 6.0f,    -5.0f};
  if (kind < 6) return test::make_rows(test::kAllInputs[kind], kTileRows, width, seed);
  std::vector<float> x = test::gauss_rows(kTileRows, width, seed);
  test::Random random(seed + 1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto row = static_cast<int>(i) / width;
    switch (kind) {
      case 6: x[i] = odd[random.below(24)]; break;
      case 7: x[i] = static_cast<float>(random.below(9) - 4); break;  // ties, equal maxima
      case 8: x[i] = std::ldexp(x[i], static_cast<int>(row % 48) - 40); break;
      case 9: x[i] = std::ldexp(x[i], 2 * (row % 60) - 140); break;  // subnormals of f32
      case 10: x[i] = random.below(2) == 0 ? 0.0f : -0.0f; break;
      case 11: x[i] = row < 21 ? 0.0f : x[i]; break;  // a tile that begins late
      case 12:
        if (random.below(97) == 0) x[i] = odd[random.below(24)];
        break;
      default: x[i] = std::ldexp(x[i], row % 16); break;  // up to the f16 limit
    }
  }
  return x;
}

using Axes = std::tuple<std::string, std::string>;

std::string axes_name(const testing::TestParamInfo<Axes>& info) {
  return std::get<0>(info.param) + "_" + test::test_name(std::get<1>(info.param));
}

/// "scalar" is the definition itself.
std::vector<std::string> simd_isas() {
  std::vector<std::string> isas = available_cpu_isas();
  std::erase(isas, "scalar");
  return isas;
}

/// A build without SIMD has nothing to compare.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(EncodeKernels);

class EncodeKernels : public testing::TestWithParam<Axes> {};

/// Bytes that differ, and where the first one is.
std::string difference(const std::vector<std::byte>& got, const std::vector<std::byte>& want) {
  std::size_t n = 0, first = 0;
  for (std::size_t i = got.size(); i-- > 0;) {
    if (got[i] == want[i]) continue;
    first = i;
    ++n;
  }
  if (n == 0) return "";
  return std::to_string(n) + " of " + std::to_string(got.size()) + " bytes differ, the first at " +
         std::to_string(first) + ": " + std::to_string(static_cast<int>(got[first])) +
         ", expected " + std::to_string(static_cast<int>(want[first]));
}

/// Without one, a test of its bytes would compare the definition with itself.
bool has_kernel(const AnyCodec& codec, Side side, int head_dim) {
  cpu::TileEncoding encoding;
  return codec.as<Qjl>() != nullptr || cpu::tile_encoding(codec, side, head_dim, encoding);
}

TEST_P(EncodeKernels, WriteTheBytesOfTheDefinition) {
  const auto& [isa, spec] = GetParam();
  const test::IsaGuard guard(isa);
  for (const int head_dim : test::kHeadDims) {
    const AnyCodec codec = make_codec(spec).with_tables(head_dim);
    if (!codec.supports(head_dim)) continue;
    for (const Side side : test::kSides) {
      if (side == Side::value && codec.key_only()) continue;
      ASSERT_TRUE(has_kernel(codec, side, head_dim)) << spec;
      const int width = codec.head_span(head_dim) * head_dim;
      const std::size_t n = codec.tile_bytes(head_dim);
      std::vector<std::byte> first(n);  // of the stream; "fixed" outliers are this one's
      codec.encode_tile(side, head_dim, test::gauss_rows(kTileRows, width, 5).data(), first.data());
      for (int kind = 0; kind < kKinds; ++kind) {
        const std::vector<float> x = special_rows(kind, width, 7u + static_cast<unsigned>(kind));
        std::vector<std::byte> want(n + 64, std::byte{0x5a}), got = want;
        const std::byte* of_stream = kind % 2 == 0 ? nullptr : first.data();
        const bool finite =
            codec.encode_tile_after(side, head_dim, of_stream, x.data(), want.data());
        const std::string at = spec + " " + to_string(side) + " head_dim " +
                               std::to_string(head_dim) + " kind " + std::to_string(kind);
        EXPECT_EQ(encode_tile(codec, side, head_dim, of_stream, x.data(), got.data()), finite)
            << at;
        ASSERT_EQ(difference(got, want), "") << at;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, EncodeKernels,
                         testing::Combine(testing::ValuesIn(simd_isas()),
                                          testing::ValuesIn(specs())),
                         axes_name);

}  // namespace
}  // namespace kvcodec
