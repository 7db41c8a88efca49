// The instruction sets that SIMD kernels are compiled for. To be included before foreach_target.h; who wants
// another AVX-512 than Highway's AVX3 defines KVCODEC_AVX512_TARGET first.
#pragma once

// AVX2 and AVX-512 (Highway's AVX3) serve every x86 machine worth a kernel; the scalar table serves
// the rest. Vectors without a fixed length cannot stand in arrays, which the kernels need.
// KVCODEC_NO_AVX512 leaves AVX-512 out (CMake: KVCODEC_SIMD_TO_RUN_HERE).
#if defined(KVCODEC_NO_AVX512)
#undef KVCODEC_AVX512_TARGET
#define KVCODEC_AVX512_TARGET 0
#elif !defined(KVCODEC_AVX512_TARGET)
#define KVCODEC_AVX512_TARGET HWY_AVX3
#endif

#undef HWY_DISABLED_TARGETS
#if defined(__x86_64__) || defined(_M_X64)
#define HWY_DISABLED_TARGETS (~(HWY_AVX2 | KVCODEC_AVX512_TARGET | HWY_EMU128 | HWY_SCALAR))
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
