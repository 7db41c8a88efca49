#include "cuda/attend/launch.cuh"

template cudaError_t
kvcodec::cuda::launch_tiles<kvcodec::cuda::CodeKind::e4m3, kvcodec::cuda::CodeKind::e4m3>(
    const kvcodec::cuda::AttendParams&, bool, cudaStream_t);
