// Kernels of slice 1 of the built-in codecs (launch.cuh).
#include "cuda/codec/launch.cuh"

namespace kvcodec::cuda {

template cudaError_t launch_encode_slice<1>(const AnyEncodeJob&);
template cudaError_t launch_decode_slice<1>(const AnyDecodeJob&);

}  // namespace kvcodec::cuda
