// Kernels of slice 0 of the built-in codecs (launch.cuh).
#include "cuda/codec/launch.cuh"

namespace kvcodec::cuda {

template cudaError_t launch_encode_slice<0>(const AnyEncodeJob&);
template cudaError_t launch_decode_slice<0>(const AnyDecodeJob&);

}  // namespace kvcodec::cuda
