#include "cuda/attend/launch.cuh"

template cudaError_t
kvcodec::cuda::launch_tiles<kvcodec::cuda::CodeKind::byte, kvcodec::cuda::CodeKind::table4>(
    const kvcodec::cuda::AttendParams&, bool, cudaStream_t);
