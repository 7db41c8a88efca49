// The SIMD kernel tables. Highway compiles this file once per target: see foreach_target.h.
// KVCODEC_NO_SIMD: there are none, and Highway is not needed.
#include "kernels.hpp"

#if defined(KVCODEC_NO_SIMD)

const kvcodec::cpu::Kernels* kvcodec::cpu::simd_kernels(std::int64_t) noexcept { return nullptr; }

#else

// AVX2 and AVX-512 (Highway's AVX3) serve every x86 machine worth a kernel; the scalar table serves
// the rest. Vectors without a fixed length cannot stand in arrays, which the kernels need.
#undef HWY_DISABLED_TARGETS
#if defined(__x86_64__) || defined(_M_X64)
#define HWY_DISABLED_TARGETS (~(HWY_AVX2 | HWY_AVX3 | HWY_EMU128 | HWY_SCALAR))
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_simd.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "add-inl.h"
#include "codec_kernels-inl.h"
#include "rows-inl.h"
#include "score-inl.h"
#include "softmax-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
const Kernels* target_kernels() noexcept { return nullptr; }
#else

const char* target_name() noexcept {
#if HWY_TARGET == HWY_AVX2
  return "avx2";
#elif HWY_TARGET == HWY_AVX3
  return "avx512";
#else
  return hwy::TargetName(HWY_TARGET);
#endif
}

const Kernels* target_kernels() noexcept {
  static const CodecKernels codecs[kFastCodecs] = {
      {fast_codec_functions[kRawF32], score_raw<F32Decoder>, add_raw<F32Decoder>},
      {fast_codec_functions[kRawF16], score_raw<F16Decoder>, add_raw<F16Decoder>},
      {fast_codec_functions[kRawBf16], score_raw<Bf16Decoder>, add_raw<Bf16Decoder>},
      {fast_codec_functions[kInt8Token], score_int8, add_int8},
      {fast_codec_functions[kNqkv], score_nqkv<Nqkv>, add_nqkv<Nqkv>},
      {fast_codec_functions[kNqkvSymmetric], score_nqkv<NqkvSymmetric>, add_nqkv<NqkvSymmetric>},
      {fast_codec_functions[kNqkvFitted], score_nqkv<NqkvFitted>, add_nqkv<NqkvFitted>}};
  static const Kernels table = {
      target_name(),
      codecs,
      kFastCodecs,
      {score_rows<DType::f32>, score_rows<DType::f16>, score_rows<DType::bf16>},
      {add_rows<DType::f32>, add_rows<DType::f16>, add_rows<DType::bf16>},
      softmax_tile};
  return &table;
}

#endif

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvcodec::cpu {

const Kernels* simd_kernels(std::int64_t targets) noexcept {
  const std::int64_t usable = targets & hwy::SupportedTargets();
#if HWY_ARCH_X86
  struct Target {
    std::int64_t bit;
    const Kernels* (*table)() noexcept;
  };
  static constexpr Target best_first[] = {{HWY_AVX3, HWY_CHOOSE_AVX3(target_kernels)},
                                          {HWY_AVX2, HWY_CHOOSE_AVX2(target_kernels)}};
  for (const Target& target : best_first) {
    if ((usable & target.bit) != 0 && target.table != nullptr) return target.table();
  }
  return nullptr;
#else
  return (usable & HWY_STATIC_TARGET) != 0 ? HWY_STATIC_DISPATCH(target_kernels)() : nullptr;
#endif
}

}  // namespace kvcodec::cpu
#endif  // HWY_ONCE

#endif  // KVCODEC_NO_SIMD
