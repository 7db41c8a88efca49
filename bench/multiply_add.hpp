// f32 multiply-adds per second of one thread of this machine in this run: the ceiling of products.
#pragma once

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvcodec::bench {

#if defined(__x86_64__)
// n steps of 14 independent chains: they hide the latency of the operation and fit in 16 registers.
__attribute__((target("avx2,fma"))) inline float multiply_add_avx2(int n) {
  __m256 x[14];
  for (int i = 0; i < 14; ++i) x[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5f);
  for (int t = 0; t < n; ++t) {
#pragma GCC unroll 16
    for (int i = 0; i < 14; ++i) x[i] = _mm256_fmadd_ps(x[i], factor, factor);
  }
  __m256 sum = x[0];
  for (int i = 1; i < 14; ++i) sum = _mm256_add_ps(sum, x[i]);
  return _mm256_cvtss_f32(sum);
}

__attribute__((target("avx512f"))) inline float multiply_add_avx512(int n) {
  __m512 x[14];
  for (int i = 0; i < 14; ++i) x[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.5f);
  for (int t = 0; t < n; ++t) {
#pragma GCC unroll 16
    for (int i = 0; i < 14; ++i) x[i] = _mm512_fmadd_ps(x[i], factor, factor);
  }
  __m512 sum = x[0];
  for (int i = 1; i < 14; ++i) sum = _mm512_add_ps(sum, x[i]);
  return _mm512_cvtss_f32(sum);
}
#endif

/// Multiply-adds per second in registers, the best of many short runs; 0 where it is not measured.
/// `lanes` is 8 (AVX2) or 16 (AVX-512), which the machine must have.
inline double multiply_add_rate([[maybe_unused]] int lanes) {
  double highest = 0.0;
#if defined(__x86_64__)
  constexpr int kSteps = 20000;
  for (int i = 0; i < 200; ++i) {
    const auto start = std::chrono::steady_clock::now();
    volatile float keep = lanes == 16 ? multiply_add_avx512(kSteps) : multiply_add_avx2(kSteps);
    (void)keep;
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    highest = std::max(highest, 14.0 * kSteps * lanes / time.count());
  }
#endif
  return highest;
}

}  // namespace kvcodec::bench
