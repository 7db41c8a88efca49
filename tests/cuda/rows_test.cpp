// encode_rows makes the bytes that a Cache makes of the same rows.
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "kvcodec/cuda/codec.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

class EncodeRowsTest : public test::OnDevice<> {};

/// A layer, and rows of a few sequences for it.
struct Layer {
  HeadShape shape{4, 4, 64};
  SideConfig k;
  SideConfig v;
  std::int32_t page_size = 128;

  Layer(const std::string& k_codec, const std::string& v_codec) {
    k.codec = make_codec(k_codec);
    v.codec = make_codec(v_codec);
  }
  PageFormat format() const {
    return make_page_format(k.codec, v.codec, shape.head_dim, shape.n_kv_heads, page_size);
  }
};

/// Every tile of every stream, in the order of streams: strips of the pages a view lists.
std::vector<std::byte> strips(const PageFormat& f, const std::vector<std::byte>& pages,
                              const std::vector<std::int64_t>& indptr,
                              const std::vector<std::int32_t>& indices,
                              const std::vector<std::int64_t>& n_rows) {
  std::vector<std::byte> out;
  for (std::size_t stream = 0; stream + 1 < indptr.size(); ++stream) {
    for (std::int64_t row = 0; row < n_rows[stream]; row += kTileRows) {
      const auto page = static_cast<std::size_t>(
          indices[static_cast<std::size_t>(indptr[stream] + row / f.page_size)]);
      const int strip = static_cast<int>(row % f.page_size) / kTileRows;
      const std::byte* tile = f.k_tile(pages.data() + page * f.page_bytes(), strip, 0).tile;
      out.insert(out.end(), tile, tile + f.strip_bytes());
    }
  }
  return out;
}

/// The same of a Cache that took the rows of every sequence.
struct OnHost {
  std::vector<std::byte> strips_of_all;
  std::vector<bool> clamped;
};
OnHost encode_on_host(const Layer& layer, const std::vector<AnyRows>& k,
                      const std::vector<AnyRows>& v) {
  CacheConfig config;
  config.shape = layer.shape;
  LayerConfig l;
  l.k = layer.k;
  l.v = layer.v;
  l.n_recent = 0;
  config.layers = {l};
  config.page_size = layer.page_size;
  config.max_tokens = 4096;
  config.max_sequences = 8;
  Cache cache(config);
  OnHost host;
  for (std::size_t s = 0; s < k.size(); ++s) {
    const SeqId seq = cache.open();
    cache.append(seq, 0, k[s], v[s]);
    host.clamped.push_back(cache.has_clamped(seq));
    ViewBuffers buffers;
    const SeqId seqs[] = {seq};
    const KvView view = cache.view(0, seqs, buffers);
    for (std::int64_t stream = 0; stream < view.n_streams_per_seq(); ++stream) {
      EXPECT_EQ(view.encoded_rows(stream), k[s].n_tokens);
      for (std::int64_t row = 0; row < view.encoded_rows(stream); row += kTileRows) {
        const std::byte* page = view.page_data(view.page_of(stream, row));
        const int strip = static_cast<int>(row % view.format.page_size) / kTileRows;
        test::append_bytes(host.strips_of_all, view.format.k_tile(page, strip, 0).tile,
                           view.format.strip_bytes());
      }
    }
  }
  return host;
}

/// The rows of one side in device memory: dense or with gaps, in any type.
template <class T>
struct DeviceRows {
  std::vector<T> host;
  cuda::DeviceBuffer<T> device;
  std::int64_t token_stride;
  std::int64_t head_stride;
  std::int64_t n_tokens;

  DeviceRows(const HeadShape& shape, const std::vector<float>& x, std::int64_t gap)
      : token_stride(shape.n_kv_heads * (shape.head_dim + gap) + 3 * gap),
        head_stride(shape.head_dim + gap),
        n_tokens(static_cast<std::int64_t>(x.size()) / (shape.n_kv_heads * shape.head_dim)) {
    host.resize(static_cast<std::size_t>(n_tokens * token_stride));
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); ++i) {
      const std::int64_t c = i % shape.head_dim;
      const std::int64_t h = i / shape.head_dim % shape.n_kv_heads;
      const std::int64_t t = i / shape.head_dim / shape.n_kv_heads;
      host[static_cast<std::size_t>(t * token_stride + h * head_stride + c)] =
          from_f32<T>(x[static_cast<std::size_t>(i)]);
    }
    device = test::on_device(host);
  }
  AnyRows on_host(std::int64_t first, std::int64_t n) const {
    return Rows<T>{host.data() + first * token_stride, n, token_stride, head_stride};
  }
  AnyRows on_device() const { return Rows<T>{device.data(), n_tokens, token_stride, head_stride}; }
};

/// Three sequences of 192, 64 and 128 rows; pages in a scrambled order; in one call, or with the first
/// 64 rows of the first sequence in a call before.
template <class T>
void compare_with_cache(const Layer& layer, std::int64_t gap, bool two_calls, float spoil = 1.0f) {
  const std::vector<std::int64_t> lengths = {192, 64, 128};
  const std::int64_t n = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  test::Tokens tokens(layer.shape, n, 7, test::Input::outlier);
  tokens.k[static_cast<std::size_t>(200 * tokens.width() + 5)] *= spoil;  // in sequence 1
  const DeviceRows<T> k(layer.shape, tokens.k, gap);
  const DeviceRows<T> v(layer.shape, tokens.v, gap);
  std::vector<AnyRows> k_host;
  std::vector<AnyRows> v_host;
  std::vector<std::int64_t> row_indptr = {0};
  for (const std::int64_t length : lengths) {
    k_host.push_back(k.on_host(row_indptr.back(), length));
    v_host.push_back(v.on_host(row_indptr.back(), length));
    row_indptr.push_back(row_indptr.back() + length);
  }
  const OnHost want = encode_on_host(layer, k_host, v_host);

  const PageFormat format = layer.format();
  std::vector<std::int64_t> indptr = {0};
  std::vector<std::int64_t> n_rows;
  for (const std::int64_t length : lengths) {
    for (int stream = 0; stream < layer.shape.n_kv_heads / format.span; ++stream) {
      indptr.push_back(indptr.back() + (length + layer.page_size - 1) / layer.page_size);
      n_rows.push_back(length);
    }
  }
  std::vector<std::int32_t> indices(static_cast<std::size_t>(indptr.back()));
  for (std::size_t i = 0; i < indices.size(); ++i) {  // a permutation: 5 does not divide the count
    indices[i] = static_cast<std::int32_t>(5 * i % indices.size());
  }
  ASSERT_NE(indices.size() % 5, 0u);
  const auto device_indptr = test::on_device(indptr);
  const auto device_indices = test::on_device(indices);
  test::GuardedBuffer<> pages(indices.size() * format.page_bytes());
  test::GuardedBuffer<std::uint32_t> clamped(lengths.size());
  clamped.upload({0, 0, 0});

  const cuda::DeviceCodec k_codec(layer.k.codec, layer.shape.head_dim);
  const cuda::DeviceCodec v_codec(layer.v.codec, layer.shape.head_dim);
  const cuda::DeviceTransform k_transform(layer.k.transform);
  const cuda::DeviceTransform v_transform(layer.v.transform);
  cuda::DeviceBuffer<float> center;
  cuda::EncodeRows job;
  job.shape = layer.shape;
  job.format = format;
  job.k = {k_codec.codec(), k_transform.chain(), default_raw_dtype(layer.k.codec), nullptr,
           k.on_device()};
  job.v = {v_codec.codec(), v_transform.chain(), default_raw_dtype(layer.v.codec), nullptr,
           v.on_device()};
  if (layer.k.center.kind == Centering::Kind::fixed) {
    std::vector<float> centers;  // in transformed space, once per sequence
    const auto width = static_cast<std::size_t>(tokens.width());
    for (std::size_t i = 0; i < lengths.size() * width; ++i) {
      centers.push_back(layer.k.center.values[i % width]);
    }
    center = test::on_device(centers);
    job.k.center = center.data();
  }
  job.n_seq = static_cast<std::int32_t>(lengths.size());
  job.max_rows = 192;
  job.pages = pages.data();
  job.page_stride = static_cast<std::int64_t>(format.page_bytes());
  job.indptr = device_indptr.data();
  job.indices = device_indices.data();
  job.clamped = clamped.data();
  if (!two_calls) {
    const auto rows = test::on_device(row_indptr);
    job.row_indptr = rows.data();
    cuda::encode_rows(job);
  } else {
    const auto first = test::on_device(std::vector<std::int64_t>{0, 64, 64, 64});
    job.row_indptr = first.data();
    cuda::encode_rows(job);
    row_indptr[0] = 64;
    const auto rest = test::on_device(row_indptr);
    const auto n_encoded = test::on_device(std::vector<std::int64_t>{64, 0, 0});
    job.row_indptr = rest.data();
    job.n_encoded = n_encoded.data();
    cuda::encode_rows(job);
  }
  EXPECT_EQ(strips(format, pages.to_host(), indptr, indices, n_rows), want.strips_of_all);
  const std::vector<std::uint32_t> flags = clamped.to_host();
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    EXPECT_EQ(flags[s] != 0, want.clamped[s]) << "sequence " << s;
  }
}

TEST_F(EncodeRowsTest, CodecsOfOneTypeInOneLaunch) {
  Layer layer("int8", "int8");
  compare_with_cache<float>(layer, 0, false);
  compare_with_cache<float>(layer, 0, true);
}

TEST_F(EncodeRowsTest, RotatedRowsOfEveryType) {
  for (const char* spec : {"nqkv:g64", "kivi:b2:g32", "lm:b3:unbiased", "f32", "bf16"}) {
    SCOPED_TRACE(spec);
    Layer layer(spec, "wkv:b4:g64:x0.92");
    layer.k.transform = Hadamard{};
    layer.v.transform = Hadamard{3};
    compare_with_cache<float>(layer, 0, false);
    compare_with_cache<f16>(layer, 5, true);
    compare_with_cache<bf16>(layer, 8, false);
  }
}

TEST_F(EncodeRowsTest, ScalesSharedByHeads) {
  Layer layer("nqkv:g256", "nqkv:g128");
  compare_with_cache<f16>(layer, 0, true);
  layer.k.transform = Hadamard{};
  compare_with_cache<float>(layer, 3, false);
}

// Later tiles take the outlier channels of the first, whether that is made by the same call or was there.
TEST_F(EncodeRowsTest, TilesThatTakeSomethingFromTheFirst) {
  Layer layer("qjl:m64:o6:fixed", "int8");
  compare_with_cache<f16>(layer, 0, false);
  compare_with_cache<f16>(layer, 0, true);
}

TEST_F(EncodeRowsTest, FactorsPerHeadThenRotation) {
  Layer layer("int8", "fp8:row");
  std::vector<float> factors;
  for (int i = 0; i < layer.shape.n_kv_heads * layer.shape.head_dim; ++i) {
    factors.push_back(0.5f + 0.01f * static_cast<float>(i % 97));
  }
  const AnyTransform affine =
      ChannelAffine::bind({factors.data(), layer.shape.n_kv_heads, layer.shape.head_dim},
                          layer.shape.n_kv_heads, layer.shape.head_dim);
  layer.k.transform = affine;
  layer.k.transform.append(Hadamard{});
  layer.v.transform = affine;
  compare_with_cache<f16>(layer, 0, false);
}

TEST_F(EncodeRowsTest, CentersAreSubtracted) {
  Layer layer("int8", "int8");
  std::vector<float> center;
  for (int i = 0; i < layer.shape.n_kv_heads * layer.shape.head_dim; ++i) {
    center.push_back(0.1f * static_cast<float>(i % 23 - 11));
  }
  layer.k.center = {Centering::Kind::fixed, 256, center.data()};
  compare_with_cache<f16>(layer, 0, false);
}

TEST_F(EncodeRowsTest, ClampedValuesFlagTheirSequence) {
  Layer layer("int8", "nqkv:g64");
  layer.k.transform = Hadamard{};
  compare_with_cache<float>(layer, 0, false, 1e30f);
  compare_with_cache<float>(layer, 0, false, std::numeric_limits<float>::infinity());
  compare_with_cache<bf16>(layer, 0, true, std::numeric_limits<float>::quiet_NaN());
}

// Refused before anything is launched, so also where there is no device.
TEST(EncodeRowsArguments, AreRefusedByName) {
  const Layer layer("int8", "int8");
  alignas(16) std::byte here[64] = {};
  cuda::EncodeRows good;
  good.shape = layer.shape;
  good.format = layer.format();
  good.k.codec = layer.k.codec;
  good.v.codec = layer.v.codec;
  good.k.rows.data = here;
  good.v.rows.data = here;
  good.pages = here;
  good.page_stride = static_cast<std::int64_t>(good.format.page_bytes());
  good.row_indptr = reinterpret_cast<const std::int64_t*>(here);
  good.indptr = good.row_indptr;
  good.indices = reinterpret_cast<const std::int32_t*>(here);
  cuda::encode_rows(good);  // no sequences: nothing to do
  const auto refused = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::EncodeRows job = good;
    spoil(job);
    const std::string message = test::message_of<invalid_argument>([&] { cuda::encode_rows(job); });
    EXPECT_TRUE(test::contains(message, parts));
  };
  refused([](auto& j) { j.max_rows = 100; }, {"encode_rows", "max_rows = 100", "multiple of 64"});
  refused([](auto& j) { j.n_seq = -1; }, {"n_seq = -1"});
  refused([](auto& j) { j.page_stride -= 16; }, {"page_stride", "or more"});
  refused([](auto& j) { j.format.k_tile_bytes += 16; }, {"format", "int8"});
  refused([](auto& j) { j.k.rows.data = nullptr; }, {"k.rows.data = null"});
  refused([](auto& j) { j.v.rows.n_tokens = 3; }, {"v.rows.n_tokens = 3"});
  refused([](auto& j) { j.indices = nullptr; }, {"indices = null"});
  refused([](auto& j) { j.n_seq = 2000000000, j.max_rows = 6400; }, {"n_seq * n_kv_heads"});
  const auto not_served = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::EncodeRows job = good;
    spoil(job);
    EXPECT_TRUE(
        test::contains(test::message_of<unsupported>([&] { cuda::encode_rows(job); }), parts));
  };
  not_served([](auto& j) { j.v.transform = AnyTransform(ChannelAffine{}); },
             {"v.transform = affine"});
  not_served([](auto& j) { j.v.codec = Codebook{}; }, {"codebook"});
}

}  // namespace
}  // namespace kvcodec
