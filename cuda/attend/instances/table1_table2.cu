#include "cuda/attend/launch.cuh"

template cudaError_t
kvcodec::cuda::launch_tiles<kvcodec::cuda::CodeKind::table1, kvcodec::cuda::CodeKind::table2>(
    const kvcodec::cuda::AttendParams&, bool, cudaStream_t);
