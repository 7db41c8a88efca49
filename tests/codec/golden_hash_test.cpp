// A change of bytes must not go unseen: hashes of tiles of fixed inputs. The inputs are made with
// exact arithmetic only, so they are the same on every machine.
//
// When bytes change on purpose, raise kFormatVersion (core/config.hpp), write it down under
// "Format" in CHANGELOG.md and replace the table by the lines that this test prints.
#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

struct Line {
  const char* codec;
  int head_dim;
  Side side;
  std::uint64_t input;  ///< hash of the input values
  std::uint64_t bytes;  ///< hash of the tile
};

constexpr Side kKey = Side::key;
constexpr Side kValue = Side::value;
constexpr Line kTable[] = {
    {"f32", 80, kKey, 0xa89784d32f308f81, 0x55eb2b5959909fd5},
    {"f32", 80, kValue, 0xa89784d32f308f81, 0xdc23eb49fabc186d},
    {"f32", 128, kKey, 0xf53678306101e6c1, 0xc2a733ed572e2c45},
    {"f32", 128, kValue, 0xf53678306101e6c1, 0xe4460838cfee0b69},
    {"f16", 80, kKey, 0xa89784d32f308f81, 0xe62ca546a5b99783},
    {"f16", 80, kValue, 0xa89784d32f308f81, 0x2fbaffa54f2391eb},
    {"f16", 128, kKey, 0xf53678306101e6c1, 0x93f8da06ee487e10},
    {"f16", 128, kValue, 0xf53678306101e6c1, 0x5de75a4b01f69870},
    {"bf16", 80, kKey, 0xa89784d32f308f81, 0x909b12235266f6e0},
    {"bf16", 80, kValue, 0xa89784d32f308f81, 0x896b2110778e8ea4},
    {"bf16", 128, kKey, 0xf53678306101e6c1, 0x93e7270c95d0651f},
    {"bf16", 128, kValue, 0xf53678306101e6c1, 0x842cd7718bb01343},
    {"int8", 80, kKey, 0xa89784d32f308f81, 0x62110d85ec0790c1},
    {"int8", 80, kValue, 0xa89784d32f308f81, 0xb30f9159e49af5b9},
    {"int8", 128, kKey, 0xf53678306101e6c1, 0x12da5331bbf34c72},
    {"int8", 128, kValue, 0xf53678306101e6c1, 0x84ffc9e299ff1c10},
    {"nqkv:g32", 80, kKey, 0xa89784d32f308f81, 0x127a7edbf94f5158},
    {"nqkv:g32", 80, kValue, 0xa89784d32f308f81, 0xf035e9397550ad74},
    {"nqkv:g32", 128, kKey, 0xf53678306101e6c1, 0xbff84040e10a5ae0},
    {"nqkv:g32", 128, kValue, 0xf53678306101e6c1, 0xfa71331c9a4f62df},
    {"nqkv:g64", 80, kKey, 0xa89784d32f308f81, 0x23e58c79d5a956d5},
    {"nqkv:g64", 80, kValue, 0xa89784d32f308f81, 0xb10364005c48803b},
    {"nqkv:g64", 128, kKey, 0xf53678306101e6c1, 0x59a5119507bc38fb},
    {"nqkv:g64", 128, kValue, 0xf53678306101e6c1, 0xb0926ccdb5071f5f},
    {"nqkv:g128", 128, kKey, 0xf53678306101e6c1, 0x2690c4853e64cec4},
    {"nqkv:g128", 128, kValue, 0xf53678306101e6c1, 0x21bfc8d88f12a6ea},
    {"nqkv:g256", 128, kKey, 0x74c92221806cc0aa, 0x6983b4702a282f64},
    {"nqkv:g256", 128, kValue, 0x74c92221806cc0aa, 0xe0507ee29b9bd146},
    {"nqkv:g64:x0.96", 80, kKey, 0xa89784d32f308f81, 0x3a1835ac74786e1f},
    {"nqkv:g64:x0.96", 80, kValue, 0xa89784d32f308f81, 0x7f78f4b105fdb7d4},
    {"nqkv:g64:x0.96", 128, kKey, 0xf53678306101e6c1, 0x3a521ed143a0275c},
    {"nqkv:g64:x0.96", 128, kValue, 0xf53678306101e6c1, 0xef413b66b469bc64},
    {"nqkv:g32:search", 80, kKey, 0xa89784d32f308f81, 0xe3a9c15f7feaaca6},
    {"nqkv:g32:search", 80, kValue, 0xa89784d32f308f81, 0x9c6407b79a951d81},
    {"nqkv:g32:search", 128, kKey, 0xf53678306101e6c1, 0x915e5d9f628d1dd2},
    {"nqkv:g32:search", 128, kValue, 0xf53678306101e6c1, 0x9fa94e9318576f90},
    {"nqsym:g32", 80, kKey, 0xa89784d32f308f81, 0x8ab68f0ede58c8c8},
    {"nqsym:g32", 80, kValue, 0xa89784d32f308f81, 0x59eaed1cbcb40fae},
    {"nqsym:g32", 128, kKey, 0xf53678306101e6c1, 0xe10bc5ac729779a0},
    {"nqsym:g32", 128, kValue, 0xf53678306101e6c1, 0xafc66d63b70caf0f},
    {"nqsym:g64", 80, kKey, 0xa89784d32f308f81, 0x54932d11166c1c0f},
    {"nqsym:g64", 80, kValue, 0xa89784d32f308f81, 0x55e5d47690d299fd},
    {"nqsym:g64", 128, kKey, 0xf53678306101e6c1, 0xa00a8c1c0fd66397},
    {"nqsym:g64", 128, kValue, 0xf53678306101e6c1, 0x125d59291f133e44},
    {"nqsym:g128", 128, kKey, 0xf53678306101e6c1, 0x2ddd18bcd05eb3ca},
    {"nqsym:g128", 128, kValue, 0xf53678306101e6c1, 0xb1a6632b35c5b1d3},
    {"nqsym:g256", 128, kKey, 0x74c92221806cc0aa, 0xfb4587a996ad6245},
    {"nqsym:g256", 128, kValue, 0x74c92221806cc0aa, 0x1e985f756b01712e},
    {"nqsym:g64:x0.96", 80, kKey, 0xa89784d32f308f81, 0x06019b04a054cb73},
    {"nqsym:g64:x0.96", 80, kValue, 0xa89784d32f308f81, 0x90ef186fbb89a907},
    {"nqsym:g64:x0.96", 128, kKey, 0xf53678306101e6c1, 0x11840d6819677c48},
    {"nqsym:g64:x0.96", 128, kValue, 0xf53678306101e6c1, 0xb1db8e0d365277ea},
    {"nqsym:g32:search", 80, kKey, 0xa89784d32f308f81, 0x590fd83a85d15580},
    {"nqsym:g32:search", 80, kValue, 0xa89784d32f308f81, 0x23a7212cff8dceae},
    {"nqsym:g32:search", 128, kKey, 0xf53678306101e6c1, 0xe007e44c8ebfd66a},
    {"nqsym:g32:search", 128, kValue, 0xf53678306101e6c1, 0x2f069273e7622c12},
};

/// Sums of four uniform values in steps of 2^-20: bell-shaped, exact, a few rows scaled or zero.
std::vector<float> exact_rows(int width) {
  test::Random random(20260101);
  std::vector<float> x(static_cast<std::size_t>(kTileRows * width));
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::int64_t sum = -4 * (1 << 19);
    for (int k = 0; k < 4; ++k) sum += static_cast<std::int64_t>(random.bits() >> 44);
    const std::size_t row = i / static_cast<std::size_t>(width);
    const float scale = row == 3 ? 0.0f : row == 7 ? 0x1p-30f : row == 9 ? 0x1p-16f : 0x1p-20f;
    x[i] = static_cast<float>(sum) * scale;
  }
  return x;
}

TEST(GoldenHash, BytesAreThoseOfTheTable) {
  std::size_t n = 0;
  std::string found;
  for (const std::string& spec : test::codec_specs()) {
    for (const int head_dim : {80, 128}) {
      if (!make_codec(spec).supports(head_dim)) continue;
      const AnyCodec codec = make_codec(spec).with_tables(head_dim);
      if (!codec.bit_exact()) continue;
      for (const Side side : test::kSides) {
        if (codec.key_only() && side == Side::value) continue;
        const std::vector<float> x = exact_rows(codec.head_span(head_dim) * head_dim);
        std::vector<std::byte> tile(codec.tile_bytes(head_dim));
        ASSERT_TRUE(codec.encode_tile(side, head_dim, x.data(), tile.data()));
        const std::uint64_t input = test::fnv1a(x.data(), x.size() * sizeof(float));
        const std::uint64_t bytes = test::fnv1a(tile.data(), tile.size());
        char text[160];
        std::snprintf(text, sizeof text, "    {\"%s\", %d, %s, 0x%016llx, 0x%016llx},\n",
                      spec.c_str(), head_dim, side == kKey ? "kKey" : "kValue",
                      static_cast<unsigned long long>(input),
                      static_cast<unsigned long long>(bytes));
        found += text;
        const Line* line = nullptr;
        for (const Line& candidate : kTable) {
          if (candidate.codec == spec && candidate.head_dim == head_dim && candidate.side == side) {
            line = &candidate;
          }
        }
        ++n;
        if (line == nullptr) {
          ADD_FAILURE() << "the table has no line for " << text;
        } else if (line->input != input) {
          ADD_FAILURE() << "the test's own INPUT changed, so the bytes say nothing: " << text;
        } else if (line->bytes != bytes) {
          ADD_FAILURE() << "the FORMAT of " << spec
                        << " changed: the same input, other bytes: " << text;
        }
      }
    }
  }
  EXPECT_EQ(n, std::size(kTable)) << "the table has lines that no codec belongs to";
  if (HasFailure()) std::printf("The table as it would be now:\n%s", found.c_str());
}

TEST(GoldenHash, VersionOfTheTable) {
  EXPECT_EQ(kFormatVersion, 1) << "the version changed: has the table been renewed?";
}

}  // namespace
}  // namespace kvcodec
