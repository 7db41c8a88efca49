// A KvView's arrays, gathered in one piece of host memory with device addresses already in place, so
// that one copy brings all of them over.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "cuda/core/check.hpp"
#include "cuda/core/device.cuh"
#include "cuda/core/page_numbers.hpp"
#include "kvcodec/cuda/memory.hpp"

namespace kvcodec::cuda {
namespace {

/// Arrays to be uploaded. Used twice: once to learn the size, once with the device address.
class Arena {
 public:
  Arena(std::byte* device, std::size_t bytes) : device_(device), host_(bytes) {}

  /// Room for n values; `to`: where they are built, null while sizes are counted. The result is their
  /// address on the device.
  template <class T>
  const T* add(std::size_t n, T** to) {
    const std::size_t at = (used_ + 15) / 16 * 16;
    used_ = at + n * sizeof(T);
    *to = host_.empty() ? nullptr : reinterpret_cast<T*>(host_.data() + at);
    return device_ == nullptr ? nullptr : reinterpret_cast<const T*>(device_ + at);
  }
  template <class T>
  const T* copy(const T* from, std::int64_t n) {
    if (from == nullptr) return nullptr;
    T* to = nullptr;
    const T* device = add(static_cast<std::size_t>(n), &to);
    if (to != nullptr) std::copy_n(from, n, to);
    return device;
  }
  std::size_t used() const noexcept { return used_; }
  std::span<const std::byte> host() const noexcept { return host_; }

 private:
  std::byte* device_;
  std::vector<std::byte> host_;
  std::size_t used_ = 0;
};

/// [n_rows, head_dim] dense from rows `stride` elements apart.
const void* copy_raw(Arena& arena, const void* from, DType type, const RawRows& rows,
                     std::int32_t head_dim) {
  const std::size_t row_bytes = dtype_bytes(type) * static_cast<std::size_t>(head_dim);
  std::byte* to = nullptr;
  const std::byte* device = arena.add(row_bytes * static_cast<std::size_t>(rows.n_rows), &to);
  if (to == nullptr) return device;
  const std::size_t stride = dtype_bytes(type) * static_cast<std::size_t>(rows.row_stride);
  for (std::int32_t r = 0; r < rows.n_rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    std::memcpy(to + i * row_bytes, static_cast<const std::byte*>(from) + i * stride, row_bytes);
  }
  return device;
}

/// [n] rows that are not encoded, of n (sequence, head) pairs.
const RawRows* copy_raw_rows(Arena& arena, const KvView& host, const RawRows* from,
                             std::int64_t n) {
  if (from == nullptr) return nullptr;
  RawRows* to = nullptr;
  const RawRows* device = arena.add(static_cast<std::size_t>(n), &to);
  for (std::int64_t i = 0; i < n; ++i) {
    RawRows rows = from[i];
    if (rows.n_rows > 0) {
      rows.k = copy_raw(arena, from[i].k, host.k_raw_dtype, from[i], host.shape.head_dim);
      rows.v = copy_raw(arena, from[i].v, host.v_raw_dtype, from[i], host.shape.head_dim);
    } else {
      rows.k = nullptr;
      rows.v = nullptr;
    }
    rows.row_stride = host.shape.head_dim;
    rows.pos = arena.copy(from[i].pos, rows.n_rows);
    rows.mask = arena.copy(from[i].mask, rows.n_rows);
    if (to != nullptr) to[i] = rows;
  }
  return device;
}

/// [n_pages, page_size] values of the pages that are used.
template <class T>
const T* copy_slots(Arena& arena, const T* from, const PageNumbers& numbers,
                    std::int32_t page_size) {
  if (from == nullptr) return nullptr;
  T* to = nullptr;
  const T* device = arena.add(numbers.old_page.size() * static_cast<std::size_t>(page_size), &to);
  if (to == nullptr) return device;
  for (const std::int32_t page : numbers.old_page) {
    to = std::copy_n(from + static_cast<std::int64_t>(page) * page_size, page_size, to);
  }
  return device;
}

/// Uploads the arrays of codecs; arrays that several codecs share once.
class CodecTables {
 public:
  CodecTables(std::vector<DeviceBuffer<std::byte>>& owner, int head_dim, Stream stream)
      : owner_(owner), head_dim_(head_dim), stream_(stream) {}

  AnyCodec moved(AnyCodec codec) {
    if (!codec) return codec;
    codec.move_tables(head_dim_, [&](const void* host, std::size_t bytes) -> const void* {
      if (host == nullptr || bytes == 0) return nullptr;
      const auto [at, is_new] = known_.emplace(host, nullptr);
      if (is_new) {
        owner_.emplace_back(std::span(static_cast<const std::byte*>(host), bytes), stream_);
        at->second = owner_.back().data();
      }
      return at->second;
    });
    return codec;
  }

 private:
  std::vector<DeviceBuffer<std::byte>>& owner_;
  std::unordered_map<const void*, const void*> known_;
  int head_dim_;
  Stream stream_;
};

/// `host` with the addresses that its arrays get.
KvView fill_arena(Arena& arena, const KvView& host, const PageNumbers& numbers,
                  const std::vector<AnyCodec>& k_codecs, const std::vector<AnyCodec>& v_codecs) {
  const std::int64_t n_streams =
      host.format.span == 0 ? 0 : std::int64_t{host.n_seq} * host.n_streams_per_seq();
  const std::int64_t n_heads = std::int64_t{host.n_seq} * host.shape.n_kv_heads;
  KvView view = host;
  view.indptr = arena.copy(host.indptr, n_streams + 1);
  view.indices =
      arena.copy(numbers.indices.data(), static_cast<std::int64_t>(numbers.indices.size()));
  view.last_page_len = arena.copy(host.last_page_len, n_streams);
  view.n_encoded = arena.copy(host.n_encoded, n_streams);
  view.first_pos = arena.copy(host.first_pos, n_streams);
  view.slot_pos = copy_slots(arena, host.slot_pos, numbers, host.format.page_size);
  view.slot_mask = copy_slots(arena, host.slot_mask, numbers, host.format.page_size);
  view.k_center = arena.copy(host.k_center, n_heads * host.shape.head_dim);
  view.v_center = arena.copy(host.v_center, n_heads * host.shape.head_dim);
  view.k_codecs = k_codecs.empty() ? nullptr : arena.copy(k_codecs.data(), n_heads);
  view.v_codecs = v_codecs.empty() ? nullptr : arena.copy(v_codecs.data(), n_heads);
  view.sinks = copy_raw_rows(arena, host, host.sinks, n_heads);
  view.kept = copy_raw_rows(arena, host, host.kept, n_heads);
  view.recent = copy_raw_rows(arena, host, host.recent, n_heads);
  return view;
}

/// fn(first, n) for runs of pages that follow each other in host and device memory.
template <class F>
void for_each_run(const std::vector<std::int32_t>& host_page, const F& fn) {
  std::size_t first = 0;
  for (std::size_t i = 1; i <= host_page.size(); ++i) {
    if (i < host_page.size() && host_page[i] == host_page[i - 1] + 1) continue;
    fn(first, i - first);
    first = i;
  }
}

}  // namespace

DeviceView::DeviceView(const KvView& host, Stream stream) {
  const std::int64_t n_streams =
      host.format.span == 0 ? 0 : std::int64_t{host.n_seq} * host.n_streams_per_seq();
  const std::int64_t n_heads = std::int64_t{host.n_seq} * host.shape.n_kv_heads;
  PageNumbers numbers = renumber(host, n_streams);

  CodecTables tables(codec_tables_, host.shape.head_dim, stream);
  const AnyCodec k_codec = tables.moved(host.k_codec);
  const AnyCodec v_codec = tables.moved(host.v_codec);
  std::vector<AnyCodec> k_codecs;
  std::vector<AnyCodec> v_codecs;
  for (std::int64_t i = 0; i < n_heads; ++i) {
    if (host.k_codecs != nullptr) k_codecs.push_back(tables.moved(host.k_codecs[i]));
    if (host.v_codecs != nullptr) v_codecs.push_back(tables.moved(host.v_codecs[i]));
  }

  Arena sizes(nullptr, 0);
  fill_arena(sizes, host, numbers, k_codecs, v_codecs);
  rest_ = DeviceBuffer<std::byte>(sizes.used());
  Arena arena(rest_.data(), sizes.used());
  view_ = fill_arena(arena, host, numbers, k_codecs, v_codecs);
  view_.k_codec = k_codec;
  view_.v_codec = v_codec;
  rest_.upload(arena.host(), stream);

  host_page_ = std::move(numbers.old_page);
  const std::size_t page_bytes = host.format.page_bytes();
  pages_ = DeviceBuffer<std::byte>(host_page_.size() * page_bytes);
  view_.pages = pages_.data();
  view_.page_stride = static_cast<std::int64_t>(page_bytes);
  const auto stride = static_cast<std::size_t>(host.page_stride);
  for_each_run(host_page_, [&](std::size_t first, std::size_t n) {
    check(cudaMemcpy2DAsync(pages_.data() + first * page_bytes, page_bytes,
                            host.page_data(host_page_[first]), stride, page_bytes, n,
                            cudaMemcpyHostToDevice, stream),
          "cudaMemcpy2DAsync");
  });
}

std::size_t DeviceView::bytes() const noexcept {
  std::size_t n = pages_.bytes() + rest_.bytes();
  for (const auto& table : codec_tables_) n += table.bytes();
  return n;
}

void DeviceView::download_pages(std::byte* pages, std::int64_t page_stride, Stream stream) const {
  const auto page_bytes = static_cast<std::size_t>(view_.page_stride);
  if (page_stride < view_.page_stride) {
    throw invalid_argument(bad_value("download_pages", "page_stride", page_stride,
                                     std::to_string(page_bytes) + " or more"));
  }
  for_each_run(host_page_, [&](std::size_t first, std::size_t n) {
    check(
        cudaMemcpy2DAsync(pages + host_page_[first] * page_stride,
                          static_cast<std::size_t>(page_stride), pages_.data() + first * page_bytes,
                          page_bytes, page_bytes, n, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpy2DAsync");
  });
}

}  // namespace kvcodec::cuda
