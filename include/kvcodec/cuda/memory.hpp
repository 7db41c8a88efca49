// Device memory that an owner frees, and copies of what a cache lets attention see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/cuda/device.hpp"
#include "kvcodec/page/kv_view.hpp"
#include "kvcodec/transform/chain.hpp"

namespace kvcodec::cuda {

namespace detail {

/// Null for 0 bytes. Throws cuda_error.
void* allocate(std::size_t bytes);
void release(void* p) noexcept;
void copy_in(void* device, const void* host, std::size_t bytes, Stream stream);
void copy_out(void* host, const void* device, std::size_t bytes, Stream stream);
void fill(void* device, int value, std::size_t bytes, Stream stream);

}  // namespace detail

/// Owns n values of T on the current device; move-only, never grows.
///
/// Copies are ordered on their stream. Host memory may be reused as soon as upload() returns, and holds
/// the values when download() returns, unless it is pinned: then after synchronize().
template <class T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "device memory is filled by copying bytes");

 public:
  DeviceBuffer() = default;
  /// Values are undefined. Throws cuda_error.
  explicit DeviceBuffer(std::size_t n)
      : data_(static_cast<T*>(detail::allocate(n * sizeof(T)))), size_(n) {}
  /// With the values of `host`. Throws cuda_error.
  explicit DeviceBuffer(std::span<const T> host, Stream stream = nullptr)
      : DeviceBuffer(host.size()) {
    upload(host, stream);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() { detail::release(data_); }

  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return size_ * sizeof(T); }

  /// Copies size() or fewer values to the front. Throws invalid_argument, cuda_error.
  void upload(std::span<const T> host, Stream stream = nullptr) {
    check_size(host.size());
    detail::copy_in(data_, host.data(), host.size_bytes(), stream);
  }
  /// Copies the first host.size() values out. Throws invalid_argument, cuda_error.
  void download(std::span<T> host, Stream stream = nullptr) const {
    check_size(host.size());
    detail::copy_out(host.data(), data_, host.size_bytes(), stream);
  }
  /// All values, once they are there: waits for the stream. Throws cuda_error.
  std::vector<T> to_host(Stream stream = nullptr) const {
    std::vector<T> host(size_);
    download(host, stream);
    synchronize(stream);
    return host;
  }
  /// Sets every byte. Throws cuda_error.
  void fill(int byte, Stream stream = nullptr) { detail::fill(data_, byte, bytes(), stream); }

 private:
  void check_size(std::size_t n) const {
    if (n <= size_) return;
    throw invalid_argument(
        bad_value("DeviceBuffer", "host.size()", n, "at most " + std::to_string(size_)));
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A codec whose tables lie on the device: QJL's projection, a codebook's entries. Sizes and names can
/// be asked of codec(); its host functions must not encode or decode.
class DeviceCodec {
 public:
  DeviceCodec() = default;
  /// Loads the tables for head_dim (AnyCodec::with_tables) and copies them; codecs without tables take
  /// no memory. Throws cuda_error, std::bad_alloc.
  DeviceCodec(const AnyCodec& codec, int head_dim, Stream stream = nullptr);

  const AnyCodec& codec() const noexcept { return codec_; }

 private:
  AnyCodec codec_;
  std::vector<DeviceBuffer<std::byte>> tables_;
};

/// Transforms whose factors lie on the device.
class DeviceTransform {
 public:
  DeviceTransform() = default;
  /// Throws cuda_error, std::bad_alloc.
  explicit DeviceTransform(const TransformChain& chain, Stream stream = nullptr);

  const TransformChain& chain() const noexcept { return chain_; }

 private:
  TransformChain chain_;
  std::vector<DeviceBuffer<std::byte>> tables_;
};

/// Copies of everything that a KvView points at.
class DeviceView {
 public:
  DeviceView() = default;
  /// Pages that several streams share are copied once and renumbered in the order of their first use.
  /// `host` must not change before the copies are done. Throws cuda_error, std::bad_alloc.
  explicit DeviceView(const KvView& host, Stream stream = nullptr);

  /// `host` with device pointers, valid as long as this object. On the host only its sizes mean
  /// anything. Codecs in k_codecs and v_codecs: their values, not their functions.
  const KvView& view() const noexcept { return view_; }
  /// The pages, for kernels that write to them; page i of view() at pages() + i * page_stride.
  std::byte* pages() noexcept { return pages_.data(); }
  std::int32_t n_pages() const noexcept { return static_cast<std::int32_t>(host_page_.size()); }
  /// Number that page i had in the host's view.
  std::int32_t host_page(std::int32_t i) const noexcept {
    return host_page_[static_cast<std::size_t>(i)];
  }
  /// Device memory held.
  std::size_t bytes() const noexcept;

  /// Copies every page back to where the host's view had it: page i to
  /// pages + host_page(i) * page_stride. Throws cuda_error.
  void download_pages(std::byte* pages, std::int64_t page_stride, Stream stream = nullptr) const;

 private:
  KvView view_;
  DeviceBuffer<std::byte> pages_;
  DeviceBuffer<std::byte> rest_;  ///< tables, rows that are not encoded, positions, masks, centers
  std::vector<DeviceBuffer<std::byte>> codec_tables_;
  std::vector<std::int32_t> host_page_;
};

/// Copies of what a view of device memory points at, back in host memory: for the CPU to attend over, to
/// compare, to save.
class HostView {
 public:
  HostView() = default;
  /// k_codec and v_codec: those of the view, with tables in host memory (AnyCodec::with_tables). Pages
  /// that rows lie in are copied, once each, and renumbered in the order of their first use. Waits for
  /// the stream. Throws unsupported for a view with codecs per sequence, cuda_error, std::bad_alloc.
  HostView(const KvView& device, const AnyCodec& k_codec, const AnyCodec& v_codec,
           Stream stream = nullptr);

  /// Valid as long as this object.
  const KvView& view() const noexcept { return view_; }

 private:
  KvView view_;
  std::vector<std::vector<std::byte>> arrays_;
};

}  // namespace kvcodec::cuda
