// Kernels of slice 3 of the built-in codecs (launch.cuh).
#include "cuda/codec/launch.cuh"

namespace kvcodec::cuda {

template cudaError_t launch_encode_slice<3>(const AnyEncodeJob&);
template cudaError_t launch_decode_slice<3>(const AnyDecodeJob&);

}  // namespace kvcodec::cuda
