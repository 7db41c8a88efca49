// Kernels of slice 1 of the codecs (launch.cuh).
#include "cuda/attend/general/launch.cuh"

namespace kvcodec::cuda {

template cudaError_t launch_scores_slice<1>(const GeneralParams&, cudaStream_t);
template cudaError_t launch_sums_slice<1>(const GeneralParams&, cudaStream_t);

}  // namespace kvcodec::cuda
