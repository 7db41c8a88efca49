#include "cuda/attend/launch.cuh"

template cudaError_t
kvcodec::cuda::launch_tiles<kvcodec::cuda::CodeKind::f16, kvcodec::cuda::CodeKind::f16>(
    const kvcodec::cuda::AttendParams&, bool, cudaStream_t);
