#include "kvcodec/cuda/memory.hpp"

#include "kvcodec/transform/channel_affine.hpp"

#include "cuda/core/check.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::cuda {
namespace detail {

void* allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  check(status, ("cudaMalloc(" + std::to_string(bytes) + ")").c_str());
  return p;
}

void release(void* p) noexcept {
  if (p != nullptr) static_cast<void>(cudaFree(p));
}

void copy_in(void* device, const void* host, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

void copy_out(void* host, const void* device, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
}

void fill(void* device, int value, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(device, value, bytes, stream), "cudaMemsetAsync");
}

}  // namespace detail

namespace {

/// A copy of host memory, owned by `tables`.
const void* upload_table(std::vector<DeviceBuffer<std::byte>>& tables, const void* host,
                         std::size_t bytes, Stream stream) {
  if (host == nullptr || bytes == 0) return nullptr;
  tables.emplace_back(std::span(static_cast<const std::byte*>(host), bytes), stream);
  return tables.back().data();
}

}  // namespace

DeviceCodec::DeviceCodec(const AnyCodec& codec, int head_dim, Stream stream)
    : codec_(codec.with_tables(head_dim)) {
  codec_.move_tables(head_dim, [&](const void* host, std::size_t bytes) {
    return upload_table(tables_, host, bytes, stream);
  });
}

DeviceTransform::DeviceTransform(const TransformChain& chain, Stream stream) : chain_(chain) {
  chain_.for_each([&](AnyTransform& t) {
    if (const ChannelAffine* affine = t.as<ChannelAffine>()) {
      ChannelAffine moved = *affine;
      const auto n = static_cast<std::size_t>(moved.scales.n_kv_heads) *
                     static_cast<std::size_t>(moved.scales.head_dim);
      moved.scales.scale = static_cast<const float*>(
          upload_table(tables_, affine->scales.scale, n * sizeof(float), stream));
      t = moved;
    }
  });
}

}  // namespace kvcodec::cuda
