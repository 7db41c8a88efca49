// Device memory and copies of views: what goes up comes down, byte for byte.
#include <gtest/gtest.h>

#include <cmath>

#include "kvcodec/cuda/device.hpp"
#include "kvcodec/cuda/memory.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

class DeviceMemory : public test::OnDevice<> {};

TEST(Devices, AreCountedWithoutThrowing) {
  const int n = cuda::device_count();
  EXPECT_GE(n, 0);
  EXPECT_TRUE(test::contains(
      test::message_of<invalid_argument>([&] { cuda::describe_device(n); }),
      {"describe_device", "i = " + std::to_string(n), n == 0 ? "there is no device" : "0.."}));
}

TEST_F(DeviceMemory, DevicesAreDescribed) {
  const cuda::DeviceInfo info = cuda::describe_device(0);
  EXPECT_FALSE(info.name.empty());
  EXPECT_GE(info.major, 7);
  EXPECT_GT(info.n_sms, 0);
  EXPECT_GT(info.memory_bytes, 0u);
  EXPECT_GE(info.shared_bytes, 99u * 1024u) << "what tile_memory.cuh counts on";
}

TEST_F(DeviceMemory, BuffersCopyBothWays) {
  const std::vector<int> values = {1, -2, 3, 4, 5};
  cuda::DeviceBuffer<int> a = test::on_device(values);
  EXPECT_EQ(a.to_host(), values);
  cuda::DeviceBuffer<int> b = std::move(a);
  EXPECT_EQ(a.size(), 0u);  // NOLINT(bugprone-use-after-move): what is left is empty
  EXPECT_EQ(b.to_host(), values);
  b.upload(std::vector<int>{9, 8});
  EXPECT_EQ(b.to_host(), (std::vector<int>{9, 8, 3, 4, 5}));
  b.fill(0);
  EXPECT_EQ(b.to_host(), std::vector<int>(5, 0));
  EXPECT_TRUE(
      test::contains(test::message_of<invalid_argument>([&] { b.upload(std::vector<int>(6)); }),
                     {"host.size() = 6", "at most 5"}));
  EXPECT_EQ(cuda::DeviceBuffer<int>(0).to_host(), std::vector<int>());
}

TEST_F(DeviceMemory, TooMuchIsACudaError) {
  const std::string message =
      test::message_of<cuda_error>([] { cuda::DeviceBuffer<std::byte> all(std::size_t{1} << 60); });
  EXPECT_TRUE(test::contains(message, {"cudaMalloc", "error 2", "cudaErrorMemoryAllocation"}));
}

/// n values of an array on the device.
template <class T>
std::vector<T> fetch(const T* device, std::int64_t n) {
  std::vector<T> host(static_cast<std::size_t>(n));
  cuda::detail::copy_out(host.data(), device, host.size() * sizeof(T), nullptr);
  cuda::synchronize(nullptr);
  return host;
}

/// A KvView whose arrays lie in host memory again, and the memory.
struct Returned {
  KvView view;
  std::vector<std::byte> pages;
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> indices, last_page_len, first_pos, slot_pos;
  std::vector<KeepMask> slot_mask;
  std::vector<float> k_center, v_center;
  std::vector<AnyCodec> k_codecs, v_codecs;
  std::vector<std::vector<RawRows>> lists;
  std::vector<std::vector<std::byte>> rows;
  std::vector<std::vector<std::int32_t>> pos;
  std::vector<std::vector<KeepMask>> masks;
};

const RawRows* bring_back(Returned& r, const KvView& d, const RawRows* device) {
  if (device == nullptr) return nullptr;
  auto list = fetch(device, d.n_seq * d.shape.n_kv_heads);
  for (RawRows& x : list) {
    const auto get = [&](const void* from, DType type) {
      const std::int64_t bytes =
          x.n_rows * d.shape.head_dim * static_cast<std::int64_t>(dtype_bytes(type));
      r.rows.push_back(fetch(static_cast<const std::byte*>(from), bytes));
      return r.rows.back().data();
    };
    x.k = get(x.k, d.k_raw_dtype);
    x.v = get(x.v, d.v_raw_dtype);
    if (x.pos != nullptr) {
      r.pos.push_back(fetch(x.pos, x.n_rows));
      x.pos = r.pos.back().data();
    }
    if (x.mask != nullptr) {
      r.masks.push_back(fetch(x.mask, x.n_rows));
      x.mask = r.masks.back().data();
    }
  }
  r.lists.push_back(std::move(list));
  return r.lists.back().data();
}

template <class T>
const T* bring_back(std::vector<T>& to, const T* device, std::int64_t n) {
  if (device == nullptr) return nullptr;
  to = fetch(device, n);
  return to.data();
}

void bring_back(Returned& r, const cuda::DeviceView& device) {
  const KvView& d = device.view();
  const std::int64_t n_streams = std::int64_t{d.n_seq} * d.n_streams_per_seq();
  const std::int64_t n_heads = std::int64_t{d.n_seq} * d.shape.n_kv_heads;
  const std::int64_t n_slots = std::int64_t{device.n_pages()} * d.format.page_size;
  r.view = d;
  r.view.pages = bring_back(r.pages, d.pages, device.n_pages() * d.page_stride);
  r.view.indptr = bring_back(r.indptr, d.indptr, n_streams + 1);
  r.view.indices = bring_back(r.indices, d.indices, r.indptr.back());
  r.view.last_page_len = bring_back(r.last_page_len, d.last_page_len, n_streams);
  r.view.first_pos = bring_back(r.first_pos, d.first_pos, n_streams);
  r.view.slot_pos = bring_back(r.slot_pos, d.slot_pos, n_slots);
  r.view.slot_mask = bring_back(r.slot_mask, d.slot_mask, n_slots);
  r.view.k_center = bring_back(r.k_center, d.k_center, n_heads * d.shape.head_dim);
  r.view.v_center = bring_back(r.v_center, d.v_center, n_heads * d.shape.head_dim);
  r.view.k_codecs = bring_back(r.k_codecs, d.k_codecs, n_heads);
  r.view.v_codecs = bring_back(r.v_codecs, d.v_codecs, n_heads);
  r.view.sinks = bring_back(r, d, d.sinks);
  r.view.kept = bring_back(r, d, d.kept);
  r.view.recent = bring_back(r, d, d.recent);
}

void expect_same_rows(const KvView& a, const KvView& b, const RawRows* x, const RawRows* y) {
  ASSERT_EQ(x == nullptr, y == nullptr);
  for (int i = 0; x != nullptr && i < a.n_seq * a.shape.n_kv_heads; ++i) {
    ASSERT_EQ(x[i].n_rows, y[i].n_rows);
    EXPECT_EQ(x[i].first_pos, y[i].first_pos);
    for (int row = 0; row < x[i].n_rows; ++row) {
      for (int c = 0; c < a.shape.head_dim; ++c) {
        const std::int64_t at = row * x[i].row_stride + c;
        const std::int64_t to = row * y[i].row_stride + c;
        ASSERT_EQ(load_value(a.k_raw_dtype, x[i].k, at), load_value(b.k_raw_dtype, y[i].k, to));
        ASSERT_EQ(load_value(a.v_raw_dtype, x[i].v, at), load_value(b.v_raw_dtype, y[i].v, to));
      }
      ASSERT_EQ(x[i].pos == nullptr, y[i].pos == nullptr);
      if (x[i].pos != nullptr) {
        EXPECT_EQ(x[i].pos[row], y[i].pos[row]);
      }
      ASSERT_EQ(x[i].mask == nullptr, y[i].mask == nullptr);
      if (x[i].mask != nullptr) {
        EXPECT_EQ(x[i].mask[row], y[i].mask[row]);
      }
    }
  }
}

void expect_same(const KvView& a, const KvView& b) {
  for (std::int64_t stream = 0; stream < a.n_seq * a.n_streams_per_seq(); ++stream) {
    ASSERT_EQ(a.encoded_rows(stream), b.encoded_rows(stream));
    ASSERT_EQ(a.first_pos == nullptr, b.first_pos == nullptr);
    if (a.first_pos != nullptr) {
      EXPECT_EQ(a.first_pos[stream], b.first_pos[stream]);
    }
    for (std::int64_t row = 0; row < a.encoded_rows(stream); ++row) {
      const std::int32_t p = a.page_of(stream, row);
      const std::int32_t q = b.page_of(stream, row);
      if (row % a.format.page_size == 0) {
        ASSERT_EQ(std::memcmp(a.page_data(p), b.page_data(q), a.format.page_bytes()), 0);
      }
      const std::int64_t slot = row % a.format.page_size;
      ASSERT_EQ(a.slot_pos == nullptr, b.slot_pos == nullptr);
      if (a.slot_pos != nullptr) {
        ASSERT_EQ(a.slot_pos[p * a.format.page_size + slot],
                  b.slot_pos[q * a.format.page_size + slot]);
      }
      ASSERT_EQ(a.slot_mask == nullptr, b.slot_mask == nullptr);
      if (a.slot_mask != nullptr) {
        ASSERT_EQ(a.slot_mask[p * a.format.page_size + slot],
                  b.slot_mask[q * a.format.page_size + slot]);
      }
    }
  }
  const auto n_values = static_cast<std::size_t>(a.n_seq * a.shape.n_kv_heads) *
                        static_cast<std::size_t>(a.shape.head_dim);
  ASSERT_EQ(a.k_center == nullptr, b.k_center == nullptr);
  if (a.k_center != nullptr) {
    EXPECT_EQ(std::memcmp(a.k_center, b.k_center, n_values * sizeof(float)), 0);
  }
  expect_same_rows(a, b, a.sinks, b.sinks);
  expect_same_rows(a, b, a.kept, b.kept);
  expect_same_rows(a, b, a.recent, b.recent);
}

/// Codebooks of the heads: the tables that values on the device point at hold the host's entries.
void expect_same_books(const KvView& a, const AnyCodec* x, const AnyCodec* y) {
  ASSERT_EQ(x == nullptr, y == nullptr);
  for (int i = 0; x != nullptr && i < a.n_seq * a.shape.n_kv_heads; ++i) {
    const Codebook* host = x[i].as<Codebook>();
    const Codebook* device = y[i].as<Codebook>();
    ASSERT_TRUE(host != nullptr && device != nullptr);
    ASSERT_EQ(host->n_entries, device->n_entries);
    const std::int64_t n = std::int64_t{host->n_entries} * a.shape.head_dim;
    const auto entries = fetch(device->entries, n);
    EXPECT_EQ(std::memcmp(entries.data(), host->entries, entries.size() * sizeof(f16)), 0);
    ASSERT_EQ(static_cast<bool>(host->rope), static_cast<bool>(device->rope));
    if (!host->rope) continue;
    const auto fine = fetch(device->rope.fine, 2 * host->rope.half);
    EXPECT_EQ(std::memcmp(fine.data(), host->rope.fine, fine.size() * sizeof(float)), 0);
  }
}

// Two sequences, the second a fork of the first with more tokens, so that they share pages.
class DeviceViews : public test::OnDevice<::testing::TestWithParam<std::string>> {};

TEST_P(DeviceViews, HoldWhatTheHostsViewHolds) {
  Cache cache(make_cache_config(GetParam(), {4, 2, 64}, 1, 2048, 4));
  const test::Tokens tokens(cache.config().shape, 400, 3);
  std::vector<SeqId> seqs = {cache.open()};
  ASSERT_EQ(test::append(cache, seqs[0], 0, tokens, 0, 300), Status::ok);
  seqs.push_back(cache.fork(seqs[0]));
  ASSERT_EQ(test::append(cache, seqs[1], 0, tokens, 300, 100), Status::ok);
  ViewBuffers buffers;
  const KvView host = cache.view(0, seqs, buffers);
  ASSERT_GT(host.encoded_rows(0), 0);

  const cuda::DeviceView device(host);
  const std::int64_t n_listed = host.indptr[host.n_seq * host.n_streams_per_seq()];
  EXPECT_LT(device.n_pages(), n_listed) << "shared pages once";
  EXPECT_GE(device.bytes(), static_cast<std::size_t>(device.n_pages()) * host.format.page_bytes());
  Returned returned;
  bring_back(returned, device);
  expect_same(host, returned.view);
  expect_same_books(host, host.k_codecs, returned.view.k_codecs);
  expect_same_books(host, host.v_codecs, returned.view.v_codecs);

  if (host.k_codecs == nullptr && host.v_codecs == nullptr) {
    const cuda::HostView fetched(device.view(), host.k_codec, host.v_codec);
    expect_same(host, fetched.view());
  } else {
    const std::string message = test::message_of<unsupported>(
        [&] { cuda::HostView fetched(device.view(), host.k_codec, host.v_codec); });
    EXPECT_TRUE(test::contains(message, {"HostView", "codecs per sequence"}));
  }

  // Pages come back to where they were, and nothing else is written.
  std::int32_t last = 0;
  for (std::int32_t i = 0; i < device.n_pages(); ++i) last = std::max(last, device.host_page(i));
  const auto stride = static_cast<std::size_t>(host.page_stride);
  std::vector<std::byte> pages(static_cast<std::size_t>(last + 1) * stride, std::byte{0x77});
  device.download_pages(pages.data(), host.page_stride);
  cuda::synchronize(nullptr);
  for (std::int32_t page = 0; page <= last; ++page) {
    bool used = false;
    for (std::int32_t i = 0; i < device.n_pages(); ++i) used |= device.host_page(i) == page;
    const std::byte* got = pages.data() + static_cast<std::size_t>(page) * stride;
    if (used) {
      EXPECT_EQ(std::memcmp(got, host.page_data(page), host.format.page_bytes()), 0);
    } else {
      EXPECT_EQ(*got, std::byte{0x77});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Plans, DeviceViews,
                         ::testing::Values("k=hadamard+nqkv:g64,v=int8,recent=32,sink=4,page=128",
                                           "k=mean:n100+nqkv,v=f16,recent=40",
                                           "kv=nqkv:g128,recent=1",
                                           "k=int8,v=nqsym,policy=lagkv:l64:r0.5,recent=8",
                                           "k=qjl:m96:o8,v=int8,recent=8",
                                           "k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=8",
                                           "k=codebook:t0.98:norope:head,v=nqsym,sink=4,recent=8"),
                         [](const auto& plan) {
                           return std::to_string(plan.index) + "_" + test::test_name(plan.param);
                         });

// Lists with room behind the last page: what stands there is looked at by nobody.
class DeviceMemoryLists : public test::OnDevice<> {};

TEST_F(DeviceMemoryLists, ReachFurtherThanTheRows) {
  Cache cache(make_cache_config("kv=nqsym,recent=8,sink=4", {4, 2, 64}, 1, 2048, 2));
  const test::Tokens tokens(cache.config().shape, 300, 3);
  std::vector<SeqId> seqs = {cache.open(), cache.open()};
  ASSERT_EQ(test::append(cache, seqs[0], 0, tokens, 0, 300), Status::ok);
  ASSERT_EQ(test::append(cache, seqs[1], 0, tokens, 0, 20), Status::ok);  // no page
  ViewBuffers buffers;
  const KvView host = cache.view(0, seqs, buffers);
  std::vector<std::int64_t> indptr = {0};
  std::vector<std::int32_t> indices;
  std::vector<std::int64_t> n_encoded;
  for (std::int64_t s = 0; s < 4; ++s) {
    n_encoded.push_back(host.encoded_rows(s));
    indices.insert(indices.end(), host.indices + host.indptr[s], host.indices + host.indptr[s + 1]);
    indices.push_back(-1);
    indices.push_back(1 << 30);
    indptr.push_back(static_cast<std::int64_t>(indices.size()));
  }
  KvView ahead = host;
  ahead.indptr = indptr.data();
  ahead.indices = indices.data();
  ahead.n_encoded = n_encoded.data();
  ahead.last_page_len = nullptr;
  expect_same(host, ahead);
  const cuda::DeviceView device(ahead);
  EXPECT_EQ(device.n_pages(), 2 * 4);
  const cuda::HostView fetched(device.view(), host.k_codec, host.v_codec);
  expect_same(host, fetched.view());
  const test::QueryBatch batch = test::make_queries(host.shape, {1, 1}, {299, 19}, 7);
  const AttendOptions options = test::default_options(64);
  const test::Result want = test::run_attend(host, batch, options);
  for (const KvView& view : {ahead, fetched.view()}) {
    EXPECT_EQ(test::bits_of(test::run_attend(view, batch, options).out), test::bits_of(want.out));
  }
}

}  // namespace
}  // namespace kvcodec
