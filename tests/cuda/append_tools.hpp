// A cache of the host and a window on the device that take the same tokens.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kvcodec/cuda/append.hpp"
#include "kvcodec/cuda/attend.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec::test {

/// Rows of one call on the device: those of all sequences one after the other, with `gap` values between
/// heads and tokens.
template <class T>
class RaggedRows {
 public:
  RaggedRows(const HeadShape& shape, std::int64_t n_tokens, std::int64_t gap)
      : shape_(shape),
        head_stride_(shape.head_dim + gap),
        token_stride_(shape.n_kv_heads * head_stride_ + 2 * gap),
        host_(static_cast<std::size_t>(n_tokens * token_stride_ + 1)) {}

  /// x [n, n_kv_heads, head_dim] become the rows from `first` on.
  void put(std::int64_t first, std::int64_t n, const float* x) {
    for (std::int64_t i = 0; i < n * shape_.n_kv_heads * shape_.head_dim; ++i) {
      const std::int64_t c = i % shape_.head_dim;
      const std::int64_t h = i / shape_.head_dim % shape_.n_kv_heads;
      const std::int64_t t = first + i / shape_.head_dim / shape_.n_kv_heads;
      host_[static_cast<std::size_t>(t * token_stride_ + h * head_stride_ + c)] = from_f32<T>(x[i]);
    }
  }
  void upload() { device_ = on_device(host_); }
  AnyRows on_host(std::int64_t first, std::int64_t n) const {
    return Rows<T>{host_.data() + first * token_stride_, n, token_stride_, head_stride_};
  }
  AnyRows on_device_rows(std::int64_t n) const {
    return Rows<T>{device_.data(), n, token_stride_, head_stride_};
  }

 private:
  HeadShape shape_;
  std::int64_t head_stride_, token_stride_;
  std::vector<T> host_;
  cuda::DeviceBuffer<T> device_;
};

/// attend() over a view of device memory.
inline Result attend_over(const KvView& view, const QueryBatch& batch,
                          const cuda::AttendLimits& limits) {
  const auto q = on_device(batch.q);
  const auto indptr = on_device(batch.indptr);
  const auto pos = on_device(batch.pos);
  const auto n_rows = static_cast<std::size_t>(batch.n_tokens() * view.shape.n_q_heads);
  GuardedBuffer<float> out(n_rows * static_cast<std::size_t>(view.shape.head_dim));
  GuardedBuffer<float> lse(n_rows);
  cuda::DeviceBuffer<std::byte> workspace(cuda::attend_workspace_bytes(view, limits));
  cuda::attend(view, {q.data(), DType::f32, indptr.data(), pos.data()},
               {out.data(), DType::f32, lse.data()}, default_options(view.shape.head_dim), limits,
               workspace.data(), workspace.bytes());
  return {out.to_host(), lse.to_host()};
}

/// Layer 0 of a configuration on both sides; sequence s of the cache is slot s of the window.
class Twins {
 public:
  explicit Twins(const CacheConfig& config, std::int64_t n_tokens = 1024)
      : cache_(config),
        window_(config, 0),
        n_tokens_(n_tokens),
        pages_(
            window_.window(), std::max<std::int64_t>(1, n_tokens / config.page_size),
            n_tokens / config.page_size * config.max_sequences * window_.window().shape.n_kv_heads),
        host_k_(config.layers[0].k.codec.with_tables(config.shape.head_dim)),
        host_v_(config.layers[0].v.codec.with_tables(config.shape.head_dim)) {
    for (std::int32_t s = 0; s < config.max_sequences; ++s) {
      seqs_.push_back(cache_.open());
      tokens_.emplace_back(config.shape, n_tokens, 100 + 2 * static_cast<std::uint64_t>(s),
                           Input::outlier);
    }
  }

  Cache& cache() { return cache_; }
  cuda::DeviceWindow& window() { return window_; }
  cuda::DevicePages& pages() { return pages_; }
  std::vector<Tokens>& tokens() { return tokens_; }
  SeqId seq(std::size_t s) const { return seqs_[s]; }
  std::size_t n_seq() const { return seqs_.size(); }
  std::int64_t length(std::size_t s) const { return cache_.n_tokens(seqs_[s]); }
  KvView device_view() { return window_.view(pages_.table()); }
  KvView host_view(ViewBuffers& buffers) const { return cache_.view(0, seqs_, buffers); }

  /// Pages for counts[s] more tokens.
  void reserve(const std::vector<std::int64_t>& counts) {
    for (std::size_t s = 0; s < counts.size(); ++s) {
      pages_.reserve(static_cast<std::int32_t>(s),
                     window_.window().pages_needed(length(s) + counts[s]));
    }
  }

  /// counts[s] more tokens to sequence s, as T, on the device; and on the host unless that is not wanted.
  /// other_table: in place of the lists that reserve() extends.
  template <class T>
  void append(const std::vector<std::int64_t>& counts, std::int64_t gap = 0, bool host_too = true,
              const cuda::PageTable* other_table = nullptr) {
    std::vector<std::int64_t> indptr = {0};
    for (const std::int64_t n : counts) indptr.push_back(indptr.back() + n);
    const std::int64_t n = indptr.back();
    const HeadShape& shape = cache_.config().shape;
    RaggedRows<T> k(shape, n, gap);
    RaggedRows<T> v(shape, n, gap);
    for (std::size_t s = 0; s < counts.size(); ++s) {
      const std::int64_t at = length(s) * tokens_[s].width();
      k.put(indptr[s], counts[s], tokens_[s].k.data() + at);
      v.put(indptr[s], counts[s], tokens_[s].v.data() + at);
    }
    k.upload();
    v.upload();
    const auto device_indptr = on_device(indptr);
    GuardedBuffer<std::int32_t> pos(static_cast<std::size_t>(n));
    cuda::AppendRows rows;
    rows.k = k.on_device_rows(n);
    rows.v = v.on_device_rows(n);
    rows.indptr = device_indptr.data();
    rows.max_tokens_per_seq =
        std::max<std::int64_t>(1, *std::max_element(counts.begin(), counts.end()));
    rows.pos = pos.data();
    cuda::append_rows(window_.window(), other_table == nullptr ? pages_.table() : *other_table,
                      rows);
    const std::vector<std::int32_t> got = pos.to_host();
    for (std::size_t s = 0; s < counts.size(); ++s) {
      for (std::int64_t i = 0; i < counts[s]; ++i) {
        ASSERT_EQ(got[static_cast<std::size_t>(indptr[s] + i)], length(s) + i) << "position";
      }
      if (!host_too) continue;
      ASSERT_EQ(cache_.try_append(seqs_[s], 0, k.on_host(indptr[s], counts[s]),
                                  v.on_host(indptr[s], counts[s])),
                Status::ok);
    }
  }

  void truncate(const std::vector<std::int64_t>& n_tokens) {
    const auto device = on_device(n_tokens);
    cuda::truncate_rows(window_.window(), device.data());
    cuda::synchronize(nullptr);
  }

  /// Attention over the window is that over a copy of the cache, bit for bit.
  void expect_equal_attention(const std::string& what) {
    std::vector<std::int64_t> last_pos;
    cuda::AttendLimits limits;
    limits.split_rows = 256;
    limits.max_raw_rows = window_.window().max_raw_rows();
    const std::vector<cuda::WindowCounts> counts = window_.counts();
    for (std::size_t s = 0; s < seqs_.size(); ++s) {
      last_pos.push_back(length(s) - 1);
      // After a cut more rows may be encoded than append_rows would have.
      limits.max_encoded_rows = std::max(limits.max_encoded_rows, counts[s].n_encoded);
    }
    const QueryBatch batch = make_queries(cache_.config().shape,
                                          std::vector<std::int64_t>(seqs_.size(), 1), last_pos, 11);
    ViewBuffers buffers;
    const cuda::DeviceView copy(host_view(buffers));
    const Result want = attend_over(copy.view(), batch, limits);
    const Result got = attend_over(device_view(), batch, limits);
    ASSERT_EQ(bits_of(got.out), bits_of(want.out)) << what;
    ASSERT_EQ(bits_of(got.lse), bits_of(want.lse)) << what;
  }

  /// All pages of the pool.
  std::vector<std::byte> page_bytes() {
    const cuda::PageTable table = pages_.table();
    return download(table.pages, static_cast<std::size_t>(table.n_pages * table.page_stride));
  }
  cuda::HostView fetched() { return cuda::HostView(device_view(), host_k_, host_v_); }

  /// Counts, rows, bytes of tiles, flags.
  void expect_equal(const std::string& what) {
    const cuda::HostView fetched_view = fetched();
    const std::vector<cuda::WindowCounts> counts = window_.counts();
    const std::vector<std::uint32_t> status = window_.status();
    const std::vector<std::uint32_t> clamped = window_.clamped();
    for (std::size_t s = 0; s < seqs_.size(); ++s) {
      const std::string sequence = what + ", sequence " + std::to_string(s);
      ASSERT_EQ(status[s], cuda::kWindowOk) << sequence;
      ASSERT_EQ(counts[s].n_tokens(), length(s)) << sequence;
      ASSERT_EQ(contents(fetched_view.view(), static_cast<std::int64_t>(s)),
                contents(cache_, seqs_[s], 0))
          << sequence;
      ASSERT_EQ(clamped[s] != 0, cache_.has_clamped(seqs_[s])) << sequence;
    }
  }

 private:
  Cache cache_;
  cuda::DeviceWindow window_;
  std::int64_t n_tokens_;
  cuda::DevicePages pages_;
  AnyCodec host_k_, host_v_;
  std::vector<SeqId> seqs_;
  std::vector<Tokens> tokens_;
};

}  // namespace kvcodec::test
