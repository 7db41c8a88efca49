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
    {"fp8:s1", 80, kKey, 0xa89784d32f308f81, 0xe277692ca97733ab},
    {"fp8:s1", 80, kValue, 0xa89784d32f308f81, 0x91c1299a9886a8d7},
    {"fp8:s1", 128, kKey, 0xf53678306101e6c1, 0xcaa19b318713bef2},
    {"fp8:s1", 128, kValue, 0xf53678306101e6c1, 0x380cd5dbabd9014e},
    {"fp8:row", 80, kKey, 0xa89784d32f308f81, 0x4090fa11b987909e},
    {"fp8:row", 80, kValue, 0xa89784d32f308f81, 0xab59e822d0f077b4},
    {"fp8:row", 128, kKey, 0xf53678306101e6c1, 0x034aca378bd47a6d},
    {"fp8:row", 128, kValue, 0xf53678306101e6c1, 0x095612fc7054f867},
    {"nvfp4", 80, kKey, 0xa89784d32f308f81, 0xb59ca7861522178f},
    {"nvfp4", 80, kValue, 0xa89784d32f308f81, 0x4c631d99521f495a},
    {"nvfp4", 128, kKey, 0xf53678306101e6c1, 0x92bcbe6d03d14d7d},
    {"nvfp4", 128, kValue, 0xf53678306101e6c1, 0xde4621541c148805},
    {"mxfp4", 80, kKey, 0xa89784d32f308f81, 0xc059d7003c02ca7a},
    {"mxfp4", 80, kValue, 0xa89784d32f308f81, 0xe593531fb4e5563c},
    {"mxfp4", 128, kKey, 0xf53678306101e6c1, 0x93831007d9c46759},
    {"mxfp4", 128, kValue, 0xf53678306101e6c1, 0x4b1171d99dc6cdb5},
    {"wkv:b4:g128", 80, kKey, 0xa89784d32f308f81, 0x3bdd6c8579d92e0c},
    {"wkv:b4:g128", 80, kValue, 0xa89784d32f308f81, 0x0916bf3e28f844cc},
    {"wkv:b4:g128", 128, kKey, 0xf53678306101e6c1, 0x56a0ff77faa912c8},
    {"wkv:b4:g128", 128, kValue, 0xf53678306101e6c1, 0x342aa2583e73c99b},
    {"wkv:b4:g64:x0.92", 80, kKey, 0xa89784d32f308f81, 0x37cbc7d37897022e},
    {"wkv:b4:g64:x0.92", 80, kValue, 0xa89784d32f308f81, 0xabc603bdd215bc7b},
    {"wkv:b4:g64:x0.92", 128, kKey, 0xf53678306101e6c1, 0xa3db1ee2e09e56da},
    {"wkv:b4:g64:x0.92", 128, kValue, 0xf53678306101e6c1, 0x6fbfb0867ade0250},
    {"wkv:b3:g32", 80, kKey, 0xa89784d32f308f81, 0x551d6a37adb01663},
    {"wkv:b3:g32", 80, kValue, 0xa89784d32f308f81, 0x663853fbc74f994e},
    {"wkv:b3:g32", 128, kKey, 0xf53678306101e6c1, 0xa2fd497ba75df914},
    {"wkv:b3:g32", 128, kValue, 0xf53678306101e6c1, 0x34852a586966e763},
    {"wkv:b2:g128", 80, kKey, 0xa89784d32f308f81, 0x33bc25c95cbfc17e},
    {"wkv:b2:g128", 80, kValue, 0xa89784d32f308f81, 0x17718869c2df1122},
    {"wkv:b2:g128", 128, kKey, 0xf53678306101e6c1, 0xe1322315246cebc4},
    {"wkv:b2:g128", 128, kValue, 0xf53678306101e6c1, 0x52e46c6ddb7716b3},
    {"wkv:b2:g64:x0.58", 80, kKey, 0xa89784d32f308f81, 0x84ddc16dd564a224},
    {"wkv:b2:g64:x0.58", 80, kValue, 0xa89784d32f308f81, 0x16972e53115a1320},
    {"wkv:b2:g64:x0.58", 128, kKey, 0xf53678306101e6c1, 0xdddf3398e6e5e9e5},
    {"wkv:b2:g64:x0.58", 128, kValue, 0xf53678306101e6c1, 0xd12250437b17ac9d},
    {"wkv:b8:g128", 80, kKey, 0xa89784d32f308f81, 0x9cf154a45fe8543a},
    {"wkv:b8:g128", 80, kValue, 0xa89784d32f308f81, 0x5f55befb8deab308},
    {"wkv:b8:g128", 128, kKey, 0xf53678306101e6c1, 0xe92c67d50220f4a8},
    {"wkv:b8:g128", 128, kValue, 0xf53678306101e6c1, 0xdc873b29245b2580},
    {"kivi:b2:g32", 80, kKey, 0xa89784d32f308f81, 0x24b0ddb0b414798c},
    {"kivi:b2:g32", 80, kValue, 0xa89784d32f308f81, 0x8dc6a3ec306d1312},
    {"kivi:b2:g32", 128, kKey, 0xf53678306101e6c1, 0x90ca7354fc125f1a},
    {"kivi:b2:g32", 128, kValue, 0xf53678306101e6c1, 0x631dc8dff862f102},
    {"kivi:b4:g64", 80, kKey, 0xa89784d32f308f81, 0xb59c5d0c78124734},
    {"kivi:b4:g64", 80, kValue, 0xa89784d32f308f81, 0xd74db47d1a5893c2},
    {"kivi:b4:g64", 128, kKey, 0xf53678306101e6c1, 0x36fb65f5eec2c8d0},
    {"kivi:b4:g64", 128, kValue, 0xf53678306101e6c1, 0x4c41e8a1899a679c},
    {"lm:b4", 80, kKey, 0xa89784d32f308f81, 0x531f6a01f0432c47},
    {"lm:b4", 80, kValue, 0xa89784d32f308f81, 0xdbe7d253b118dafb},
    {"lm:b4", 128, kKey, 0xf53678306101e6c1, 0xad9f0a68f44e0b58},
    {"lm:b4", 128, kValue, 0xf53678306101e6c1, 0x9904a565b33599b6},
    {"lm:b3:unbiased", 80, kKey, 0xa89784d32f308f81, 0x26220a52b1d8ff45},
    {"lm:b3:unbiased", 80, kValue, 0xa89784d32f308f81, 0x16d9bdccdeb287e2},
    {"lm:b3:unbiased", 128, kKey, 0xf53678306101e6c1, 0x6761501302e09035},
    {"lm:b3:unbiased", 128, kValue, 0xf53678306101e6c1, 0xa5ae3b68415cd73f},
    {"lm:b2:norm", 80, kKey, 0xa89784d32f308f81, 0xa325e12b8d694343},
    {"lm:b2:norm", 80, kValue, 0xa89784d32f308f81, 0xe15f24a567278c88},
    {"lm:b2:norm", 128, kKey, 0xf53678306101e6c1, 0xe98c38b22bdadd18},
    {"lm:b2:norm", 128, kValue, 0xf53678306101e6c1, 0xf2b9fb51740bdc09},
    {"lm:b1:rms", 80, kKey, 0xa89784d32f308f81, 0x225aa92419e13703},
    {"lm:b1:rms", 80, kValue, 0xa89784d32f308f81, 0xfe440df3a7911bd5},
    {"lm:b1:rms", 128, kKey, 0xf53678306101e6c1, 0xde018a32fe02863d},
    {"lm:b1:rms", 128, kValue, 0xf53678306101e6c1, 0x5c7d3d9c864085f4},
    {"rabitq:b4", 80, kKey, 0xa89784d32f308f81, 0x538c0ce0d05bf930},
    {"rabitq:b4", 80, kValue, 0xa89784d32f308f81, 0x4e254a4c58b7bb33},
    {"rabitq:b4", 128, kKey, 0xf53678306101e6c1, 0x134ceeaad60b7757},
    {"rabitq:b4", 128, kValue, 0xf53678306101e6c1, 0xb41bc0d3310c07b2},
    {"rabitq:b3:fast", 80, kKey, 0xa89784d32f308f81, 0x3c29fa4db504a50a},
    {"rabitq:b3:fast", 80, kValue, 0xa89784d32f308f81, 0x86f8f1e681fd7007},
    {"rabitq:b3:fast", 128, kKey, 0xf53678306101e6c1, 0x9fdfe40c0570a4c0},
    {"rabitq:b3:fast", 128, kValue, 0xf53678306101e6c1, 0xa47e0da47a50cd77},
    {"rabitq:b1", 80, kKey, 0xa89784d32f308f81, 0x82af2b3ac094c8b6},
    {"rabitq:b1", 80, kValue, 0xa89784d32f308f81, 0x3743d9d7f930ad44},
    {"rabitq:b1", 128, kKey, 0xf53678306101e6c1, 0x2514902b8532cc8b},
    {"rabitq:b1", 128, kValue, 0xf53678306101e6c1, 0xc60ffaaa8de12792},
    {"qjl:m256", 80, kKey, 0xa89784d32f308f81, 0x19c1a41020c291c4},
    {"qjl:m256", 128, kKey, 0xf53678306101e6c1, 0xb065fb567fb849f2},
    {"qjl:m96:o8:mo64:gauss", 80, kKey, 0xa89784d32f308f81, 0xfae62951157706e1},
    {"qjl:m96:o8:mo64:gauss", 128, kKey, 0xf53678306101e6c1, 0x844820aa1c6e4834},
    {"qjl:m128:o5:tile:cd:s9", 80, kKey, 0xa89784d32f308f81, 0x34851d0ad863d300},
    {"qjl:m128:o5:tile:cd:s9", 128, kKey, 0xf53678306101e6c1, 0x37c6ddd8fe5680ee},
    {"qjl:m96:o4:mo32:fixed", 80, kKey, 0xa89784d32f308f81, 0x13c300d44847277a},
    {"qjl:m96:o4:mo32:fixed", 128, kKey, 0xf53678306101e6c1, 0xe77e79cd3b31eb07},
    {"qjl:m160:o4:exact", 80, kKey, 0xa89784d32f308f81, 0x126d57a2a15a2c92},
    {"qjl:m160:o4:exact", 128, kKey, 0xf53678306101e6c1, 0x7d19887cc5fc8429},
    {"nqfit:g64", 80, kKey, 0xa89784d32f308f81, 0x169815f12a03e135},
    {"nqfit:g64", 80, kValue, 0xa89784d32f308f81, 0x8440a3ceacaa62d8},
    {"nqfit:g64", 128, kKey, 0xf53678306101e6c1, 0xa017497151f5ab90},
    {"nqfit:g64", 128, kValue, 0xf53678306101e6c1, 0x9c4a0dac0ba4fc48},
    {"nqfit:g64:search", 80, kKey, 0xa89784d32f308f81, 0xf3fe469390fe020b},
    {"nqfit:g64:search", 80, kValue, 0xa89784d32f308f81, 0xb5dbb9c5e696d475},
    {"nqfit:g64:search", 128, kKey, 0xf53678306101e6c1, 0x20ac978a866766db},
    {"nqfit:g64:search", 128, kValue, 0xf53678306101e6c1, 0x680fce4afd5b0d69},
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
    {"nqsym:g32:search", 128, kValue, 0xf53678306101e6c1, 0x2f069273e7622c12}};

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
