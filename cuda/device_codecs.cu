// Compiles the encoder and the decoder of every built-in codec for the device. Nothing runs it: it
// is here so that a host-only call in a codec header fails the build.
#include <cstddef>

#include "kvcodec/codec/builtin.hpp"
#include "kvcodec/codec/codec.hpp"

namespace kvcodec {
namespace {

template <Codec C>
__global__ void round_trip(C codec, Side side, int head_dim, const float* x, std::byte* tile,
                           float* y) {
  codec.encode_tile(side, head_dim, x, tile);
  if constexpr (ContinuingCodec<C>) {
    codec.encode_tile_after(side, head_dim, tile, x, tile + codec.tile_bytes(head_dim));
  }
  codec.decode_tile(side, head_dim, tile, y);
}

}  // namespace

/// Number of codecs; taking a kernel's address instantiates it.
std::size_t count_device_codecs() {
  std::size_t n = 0;
  BuiltinCodecs::for_each([&]<class C>() { n += &round_trip<C> != nullptr ? 1 : 0; });
  return n;
}

}  // namespace kvcodec
