// Compiles every wrapper of ptx.cuh and every word of device.cuh for the device. Nothing runs it: it
// is here so that an instruction the assembler refuses fails the build, on every architecture.
#include "cuda/core/device.cuh"
#include "cuda/core/ptx.cuh"

namespace kvcodec::cuda {
namespace {

__global__ void __launch_bounds__(128) tensor_cores(const uint4* in, float* out) {
  KVCODEC_SHARED(rows, uint4[64]);
  const std::uint32_t lane = threadIdx.x & 31;
  cp_async16(&rows[lane], in + lane);
  cp_async16(&rows[lane + 32], in, 0);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  std::uint32_t a[4];
  std::uint32_t b[4];
  ldmatrix_x4(a, &rows[lane]);
  ldmatrix_x4_trans(b, &rows[lane]);
  b[0] = movmatrix_trans(b[0]);
  const std::uint32_t column[2] = {b[0], b[1]};
  float d[4] = {};
  std::int32_t sums[4] = {};
  mma_m16n8k16_f16(d, a, column);
  mma_m16n8k16_bf16(d, a, column);
  mma_m16n8k32_s8(sums, a, column);
  const std::uint32_t rounded[4] = {tf32_of(d[0]), tf32_of(d[1]), tf32_of(d[2]), tf32_of(d[3])};
  mma_m16n8k8_tf32(d, rounded, column);
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + static_cast<float>(sums[0] + sums[3]);
}

__global__ void bulk_copies(const uint4* in, uint4* out) {
  KVCODEC_SHARED(full, std::uint64_t);
  uint4* rows = dynamic_shared<uint4>();
  if constexpr (kHasBulkCopy) {
    if (threadIdx.x == 0) {
      mbarrier_init(&full, 2);
      fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      fence_async_shared();
      mbarrier_arrive_expect_tx(&full, 512);
      cp_async_bulk(rows, in, 512, &full);
      mbarrier_arrive(&full);
    }
    mbarrier_wait(&full, 0);
    out[threadIdx.x] = rows[threadIdx.x];
  }
}

__global__ void scalars(const uint4* in, float* out, std::uint32_t* bits) {
  prefetch_l2(in + 1024);
  const uint4 v = load_streaming(in + threadIdx.x);
  const float2 f = __half22float2(half2_of(v.x));
  const float2 g = __bfloat1622float2(bf162_of(v.y));
  if (threadIdx.x < 64) named_barrier_arrive(1, 128);
  else named_barrier_sync(1, 128);
  out[threadIdx.x] = exp2_approx(f.x) + log2_approx(f.y) + rcp_approx(g.x) + tanh_approx(g.y) +
                     __half2float(half_of(static_cast<std::uint16_t>(v.z))) +
                     __bfloat162float(bf16_of(static_cast<std::uint16_t>(v.w)));
  bits[threadIdx.x] = lop3<0xea>(v.x, v.y, v.z) + bits_of(__floats2half2_rn(f.x, f.y)) +
                      bits_of(__floats2bfloat162_rn(f.x, f.y)) + bits_of(__float2half_rn(f.x)) +
                      bits_of(__float2bfloat16_rn(f.y));
}

}  // namespace

/// Launches the kernels above, so that `launch` is compiled too.
cudaError_t check_ptx(const uint4* in, uint4* out, float* sums, std::uint32_t* bits) {
  cudaError_t status = launch(tensor_cores, {2, 128}, in, sums);
  if (status == cudaSuccess) status = launch(bulk_copies, {2, 32, 64 * 1024}, in, out);
  if (status == cudaSuccess) status = launch(scalars, {2, 128}, in, sums, bits);
  return status;
}

}  // namespace kvcodec::cuda
