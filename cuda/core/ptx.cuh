// All inline PTX of the project. Each function is one instruction, with what it does in the emulator
// beside it. The device bodies run only where there is a GPU, so they stay this small; everything
// built from them is kernel code that the emulator runs as well.
//
// Fragments (PTX ISA, "matrix fragments for mma"). A warp's lane l has g = l / 4 and t = l % 4.
// Element pairs of a 32-bit register stand low half first.
//
//   m16n8k16, f16 and bf16        register r, element i = 0..1
//     A [16 x 16], 4 registers    row g + 8 * (r & 1)       column 2 * t + i + 8 * (r >> 1)
//     B [16 x 8],  2 registers    row 2 * t + i + 8 * r     column g
//   m16n8k8, tf32                 register r
//     A [16 x 8],  4 registers    row g + 8 * (r & 1)       column t + 4 * (r >> 1)
//     B [8 x 8],   2 registers    row t + 4 * r             column g
//   m16n8k32, s8                  register r, element i = 0..3 (byte i)
//     A [16 x 32], 4 registers    row g + 8 * (r & 1)       column 4 * t + i + 16 * (r >> 1)
//     B [32 x 8],  2 registers    row 4 * t + i + 16 * r    column g
//   all
//     D [16 x 8],  4 values       row g + 8 * (r >> 1)      column 2 * t + (r & 1)
//
// The contraction index (columns of A, rows of B) may be permuted freely if both sides are permuted
// alike.
#pragma once

#include <cmath>

#include "cuda/core/device.cuh"

namespace kvcodec::cuda {

/// Whether bulk copies and the waits of `mbarrier_try_wait` exist: sm_90 and newer, and the emulator.
/// Below sm_90 those functions trap. Ask with `if constexpr`, inside kernels only.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr bool kHasBulkCopy = false;
#define KVCODEC_PTX_SM90 0
#else
inline constexpr bool kHasBulkCopy = true;
#define KVCODEC_PTX_SM90 1
#endif

#if defined(__CUDACC__)
/// Address of a shared variable in the shared window, as PTX operands want it.
__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// ---- Tensor cores. All 32 lanes must call them together. ----

/// d [16 x 8] += a [16 x 16] * b [16 x 8]; f16 factors, f32 sums.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k16_f16(d, a, b);
#endif
}

/// d [16 x 8] += a [16 x 16] * b [16 x 8]; bf16 factors, f32 sums.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k16_bf16(d, a, b);
#endif
}

/// x rounded to tf32, 10 bits behind the point, nearest and ties away from zero.
__device__ __forceinline__ std::uint32_t tf32_of(float x) {
#if defined(__CUDACC__)
  std::uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
#else
  return simt::tf32_of(x);
#endif
}

/// d [16 x 8] += a [16 x 8] * b [8 x 8]; tf32 factors (tf32_of), f32 sums.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k8_tf32(d, a, b);
#endif
}

/// d [16 x 8] += a [16 x 32] * b [32 x 8]; s8 factors, s32 sums that wrap.
__device__ __forceinline__ void mma_m16n8k32_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::mma_m16n8k32_s8(d, a, b);
#endif
}

/// Four 8 x 8 matrices of 16-bit elements from shared memory.
///
/// `row` of lane 8 * m + i is row i of matrix m: 16 bytes on a 16-byte boundary. Lane l receives
/// elements 2 * t and 2 * t + 1 of row g of matrix m in r[m]: with matrices 0..3 at (rows 0-7,
/// columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15) that is fragment A of m16n8k16.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simt::ldmatrix_x4(r, row, false);
#endif
}

/// The same, each matrix transposed: lane l receives elements (2 * t, g) and (2 * t + 1, g) of
/// matrix m in r[m]. Row-major [16 x 8] at matrices 0 and 1 becomes fragment B of m16n8k16.
__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simt::ldmatrix_x4(r, row, true);
#endif
}

/// An 8 x 8 matrix of 16-bit elements, transposed between lanes: lane l gives elements (g, 2 * t) and
/// (g, 2 * t + 1) and receives (2 * t, g) and (2 * t + 1, g).
__device__ __forceinline__ std::uint32_t movmatrix_trans(std::uint32_t x) {
#if defined(__CUDACC__)
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
#else
  return simt::movmatrix_trans(x);
#endif
}

// ---- Asynchronous copies of one thread, sm_80 and newer. ----
// The destination is undefined from cp_async16 until cp_async_wait of the issuing thread; other
// threads may read it after a barrier that follows the wait.

/// Copies `bytes` (0..16) from global to shared memory and fills the rest of the 16 bytes with
/// zeros. Both addresses on 16-byte boundaries; with 0 bytes `global` is not read.
__device__ __forceinline__ void cp_async16(void* shared, const void* global,
                                           std::uint32_t bytes = 16) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes)
      : "memory");
#else
  simt::cp_async16(shared, global, bytes);
#endif
}

/// Closes the group of copies issued since the last commit.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::cp_async_commit();
#endif
}

/// Waits until at most `kPending` of this thread's newest groups are in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  static_assert(kPending >= 0);
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  simt::cp_async_wait(kPending);
#endif
}

// ---- mbarrier and the bulk copy engine, sm_90 and newer (see kHasBulkCopy). ----
// A phase of an mbarrier ends when `count` arrivals have come and the bytes announced have landed.
// Phases count from 0; waiting for phase n takes parity n & 1.

/// Prepares an mbarrier in shared memory, before anybody uses it: one thread calls this, then
/// fence_mbarrier_init, then all threads meet at a barrier.
__device__ __forceinline__ void mbarrier_init(std::uint64_t* mbarrier, std::uint32_t count) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(mbarrier)), "r"(count)
               : "memory");
#else
  simt::mbarrier_init(mbarrier, count);
#endif
}

/// Makes initialised mbarriers visible to the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
#if defined(__CUDACC__) && KVCODEC_PTX_SM90
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

/// One arrival.
__device__ __forceinline__ void mbarrier_arrive(std::uint64_t* mbarrier) {
#if defined(__CUDACC__)
  [[maybe_unused]] std::uint64_t state;
  asm volatile("mbarrier.arrive.shared.b64 %0, [%1];"
               : "=l"(state)
               : "r"(shared_address(mbarrier))
               : "memory");
#else
  simt::mbarrier_arrive(mbarrier, 0);
#endif
}

/// One arrival that announces `bytes` of bulk copies for the phase. Call it before those copies.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(std::uint64_t* mbarrier,
                                                          std::uint32_t bytes) {
#if defined(__CUDACC__) && KVCODEC_PTX_SM90
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)),
      "r"(bytes)
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  simt::mbarrier_arrive(mbarrier, bytes);
#endif
}

/// True once the phase of this parity has ended; may sleep for a while and return false.
__device__ __forceinline__ bool mbarrier_try_wait(std::uint64_t* mbarrier, std::uint32_t parity) {
#if defined(__CUDACC__) && KVCODEC_PTX_SM90
  std::uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(shared_address(mbarrier)), "r"(parity)
      : "memory");
  return done != 0;
#elif defined(__CUDACC__)
  __trap();
  return false;
#else
  return simt::mbarrier_try_wait(mbarrier, parity);
#endif
}

/// Waits for the end of the phase of this parity.
__device__ __forceinline__ void mbarrier_wait(std::uint64_t* mbarrier, std::uint32_t parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}

/// Copies `bytes` from global to shared memory in the background; one thread calls it. The bytes
/// count towards the phase of `mbarrier`. Addresses on 16-byte boundaries, a multiple of 16 bytes.
/// The destination is undefined until that phase has ended.
__device__ __forceinline__ void cp_async_bulk(void* shared, const void* global, std::uint32_t bytes,
                                              std::uint64_t* mbarrier) {
#if defined(__CUDACC__) && KVCODEC_PTX_SM90
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(mbarrier))
      : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  simt::cp_async_bulk(shared, global, bytes, mbarrier);
#endif
}

/// Orders this thread's ordinary accesses to shared memory before later bulk copies into it.
__device__ __forceinline__ void fence_async_shared() {
#if defined(__CUDACC__) && KVCODEC_PTX_SM90
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

// ---- Barriers of a part of the CTA. `id` 1..15 (0 is __syncthreads), `threads` a multiple of 32. ----

/// Waits until `threads` threads have come to barrier `id`, those of named_barrier_arrive included.
__device__ __forceinline__ void named_barrier_sync(std::uint32_t id, std::uint32_t threads) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  simt::named_barrier(id, threads, true);
#endif
}

/// Comes to barrier `id` and goes on.
__device__ __forceinline__ void named_barrier_arrive(std::uint32_t id, std::uint32_t threads) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  simt::named_barrier(id, threads, false);
#endif
}

// ---- Approximate functions of one f32. Results that would be subnormal are 0. ----
// Relative error of the device, from the PTX ISA: 2^exp 2^-22, 1/x 1 ulp, tanh 2^-11, log2 2^-22
// absolute near 1. The emulator is exact to rounding.

__device__ __forceinline__ float exp2_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return simt::flush_subnormal(std::exp2(simt::flush_subnormal(x)));
#endif
}

__device__ __forceinline__ float log2_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return simt::flush_subnormal(std::log2(simt::flush_subnormal(x)));
#endif
}

__device__ __forceinline__ float rcp_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return simt::flush_subnormal(1.0f / simt::flush_subnormal(x));
#endif
}

__device__ __forceinline__ float tanh_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::tanh(x);
#endif
}

// ---- Bits. ----

/// Any function of three bits, for each bit: `kTable` is that function of 0xf0, 0xcc and 0xaa, such
/// as (0xf0 & 0xcc) | 0xaa = 0xea for (a & b) | c.
template <int kTable>
__device__ __forceinline__ std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  static_assert(kTable >= 0 && kTable <= 0xff);
#if defined(__CUDACC__)
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return d;
#else
  return simt::lop3(kTable, a, b, c);
#endif
}

// ---- Global memory. ----

/// Reads 16 bytes that nobody writes while the kernel runs and that are used once: kept out of L1.
/// `p` on a 16-byte boundary.
__device__ __forceinline__ uint4 load_streaming(const uint4* p) {
#if defined(__CUDACC__)
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#else
  return load_vector(p);
#endif
}

/// Asks for the line of `p` to be brought into L2. Any address in global memory.
__device__ __forceinline__ void prefetch_l2(const void* p) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  static_cast<void>(p);
#endif
}

}  // namespace kvcodec::cuda
