// Kernels of slice 3 of the codecs (launch.cuh).
#include "cuda/attend/general/launch.cuh"

namespace kvcodec::cuda {

template cudaError_t launch_scores_slice<3>(const GeneralParams&, cudaStream_t);
template cudaError_t launch_sums_slice<3>(const GeneralParams&, cudaStream_t);

}  // namespace kvcodec::cuda
