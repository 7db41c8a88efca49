// A view of device memory, copied to the host: first the arrays that say how much there is, then the rest.
#include <algorithm>

#include "cuda/core/check.hpp"
#include "cuda/core/page_numbers.hpp"
#include "kvcodec/cuda/memory.hpp"

namespace kvcodec::cuda {
namespace {

/// Host memory that a view points at, and the copies into it.
class Fetched {
 public:
  Fetched(std::vector<std::vector<std::byte>>& arrays, Stream stream)
      : arrays_(arrays), stream_(stream) {}

  template <class T>
  T* make(std::int64_t n) {
    arrays_.emplace_back(static_cast<std::size_t>(n) * sizeof(T));
    return reinterpret_cast<T*>(arrays_.back().data());
  }
  template <class T>
  T* copy(const T* device, std::int64_t n) {
    if (device == nullptr) return nullptr;
    T* host = make<T>(n);
    detail::copy_out(host, device, static_cast<std::size_t>(n) * sizeof(T), stream_);
    return host;
  }
  /// [n_rows, width] dense from rows `pitch` bytes apart.
  void* copy_rows(const void* device, std::int64_t n_rows, std::size_t width, std::size_t pitch) {
    auto* host = make<std::byte>(n_rows * static_cast<std::int64_t>(width));
    if (n_rows == 0) return host;
    check(cudaMemcpy2DAsync(host, width, device, pitch, width, static_cast<std::size_t>(n_rows),
                            cudaMemcpyDeviceToHost, stream_),
          "cudaMemcpy2DAsync");
    return host;
  }
  Stream stream() const noexcept { return stream_; }

 private:
  std::vector<std::vector<std::byte>>& arrays_;
  Stream stream_;
};

/// The rows that `rows` [n], on the host already, point at.
void fetch_raw(Fetched& to, const KvView& view, RawRows* rows, std::int64_t n) {
  if (rows == nullptr) return;
  const auto head_dim = static_cast<std::size_t>(view.shape.head_dim);
  for (std::int64_t i = 0; i < n; ++i) {
    RawRows& r = rows[i];
    const auto stride = static_cast<std::size_t>(r.row_stride);
    const std::size_t k_bytes = dtype_bytes(view.k_raw_dtype);
    const std::size_t v_bytes = dtype_bytes(view.v_raw_dtype);
    r.k = to.copy_rows(r.k, r.n_rows, head_dim * k_bytes, stride * k_bytes);
    r.v = to.copy_rows(r.v, r.n_rows, head_dim * v_bytes, stride * v_bytes);
    r.row_stride = view.shape.head_dim;
    r.pos = to.copy(r.pos, r.n_rows);
    r.mask = to.copy(r.mask, r.n_rows);
  }
}

template <class T>
const T* fetch_slots(Fetched& to, const T* device, const std::vector<std::int32_t>& pages,
                     std::int32_t page_size) {
  if (device == nullptr) return nullptr;
  const auto size = static_cast<std::size_t>(page_size);
  T* host = to.make<T>(static_cast<std::int64_t>(pages.size() * size));
  for (std::size_t i = 0; i < pages.size(); ++i) {
    detail::copy_out(host + i * size, device + std::int64_t{pages[i]} * page_size, size * sizeof(T),
                     to.stream());
  }
  return host;
}

}  // namespace

HostView::HostView(const KvView& device, const AnyCodec& k_codec, const AnyCodec& v_codec,
                   Stream stream)
    : view_(device) {
  if (device.k_codecs != nullptr || device.v_codecs != nullptr) {
    throw unsupported(
        "HostView: the view has codecs per sequence, whose tables stay on the device");
  }
  view_.k_codec = k_codec;
  view_.v_codec = v_codec;
  if (device.n_seq == 0) return;
  Fetched to(arrays_, stream);
  const std::int64_t n_streams = std::int64_t{device.n_seq} * device.n_streams_per_seq();
  const std::int64_t n_heads = std::int64_t{device.n_seq} * device.shape.n_kv_heads;
  view_.indptr = to.copy(device.indptr, n_streams + 1);
  view_.last_page_len = to.copy(device.last_page_len, n_streams);
  view_.n_encoded = to.copy(device.n_encoded, n_streams);
  view_.first_pos = to.copy(device.first_pos, n_streams);
  view_.k_center = to.copy(device.k_center, n_heads * device.shape.head_dim);
  view_.v_center = to.copy(device.v_center, n_heads * device.shape.head_dim);
  RawRows* raw[3] = {to.copy(device.sinks, n_heads), to.copy(device.kept, n_heads),
                     to.copy(device.recent, n_heads)};
  synchronize(stream);  // the rest is as long as these say
  view_.indices = to.copy(device.indices, view_.indptr[n_streams]);
  for (RawRows* rows : raw) fetch_raw(to, device, rows, n_heads);
  view_.sinks = raw[0];
  view_.kept = raw[1];
  view_.recent = raw[2];
  synchronize(stream);
  const PageNumbers numbers = renumber(view_, n_streams);
  const std::vector<std::int32_t>& pages = numbers.old_page;
  auto* indices = to.make<std::int32_t>(view_.indptr[n_streams]);
  std::copy(numbers.indices.begin(), numbers.indices.end(), indices);
  view_.indices = indices;
  const std::size_t page_bytes = device.format.page_bytes();
  auto* bytes = to.make<std::byte>(static_cast<std::int64_t>(pages.size() * page_bytes));
  for (std::size_t i = 0; i < pages.size(); ++i) {
    detail::copy_out(bytes + i * page_bytes, device.page_data(pages[i]), page_bytes, stream);
  }
  view_.pages = bytes;
  view_.page_stride = static_cast<std::int64_t>(page_bytes);
  view_.slot_pos = fetch_slots(to, device.slot_pos, pages, device.format.page_size);
  view_.slot_mask = fetch_slots(to, device.slot_mask, pages, device.format.page_size);
  synchronize(stream);
}

}  // namespace kvcodec::cuda
