#include "cuda/codec/arguments.hpp"
#include "cuda/codec/launch.cuh"
#include "cuda/core/check.hpp"
#include "kvcodec/cuda/codec.hpp"

namespace kvcodec::cuda {
namespace {

cudaError_t launch_decode(const AnyDecodeJob& job) {
  cudaError_t status = launch_decode_slice<0>(job);
  if (status == cudaErrorNotSupported) status = launch_decode_slice<1>(job);
  if (status == cudaErrorNotSupported) status = launch_decode_slice<2>(job);
  if (status == cudaErrorNotSupported) status = launch_decode_slice<3>(job);
  return status;
}

}  // namespace

bool can_decode(const AnyCodec& codec, int head_dim) noexcept {
  bool listed = false;
  CacheCodecs::for_each([&]<class C>() { listed = listed || codec.as<C>() != nullptr; });
  return listed && codec.supports(head_dim);
}

void decode_tiles(const AnyCodec& codec, Side side, int head_dim, std::int64_t n_tiles,
                  const std::byte* tiles, TileValues x, Stream stream) {
  constexpr const char* kCall = "decode_tiles";
  if (!codec) throw invalid_argument(std::string(kCall) + ": codec is not set");
  if (!can_decode(codec, head_dim)) {
    throw unsupported(std::string(kCall) + ": codec " + codec.name() +
                      " is not decoded on the device for head_dim = " + std::to_string(head_dim));
  }
  require_side(kCall, codec, side);
  require_tables(kCall, codec, head_dim);
  require_ctas(kCall, "n_tiles", n_tiles);
  if (n_tiles == 0) return;
  require_aligned(kCall, "tiles", tiles);
  require_pointer(kCall, "x", x.data);
  check(launch_decode({codec, side, head_dim, n_tiles, tiles, x.data, x.dtype, stream}), kCall);
}

}  // namespace kvcodec::cuda
