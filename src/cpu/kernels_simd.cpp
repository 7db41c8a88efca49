// The SIMD kernel tables. Highway compiles this file once per target: see foreach_target.h. Kernels
// for formats stand in kernels_score.cpp and kernels_add.cpp.
// KVCODEC_NO_SIMD: there are none, and Highway is not needed.
#include "kernels.hpp"

#if defined(KVCODEC_NO_SIMD)

const kvcodec::cpu::Kernels* kvcodec::cpu::simd_kernels(std::int64_t) noexcept { return nullptr; }

#else

#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_simd.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "codebook-inl.h"
#include "rows-inl.h"
#include "sketch-inl.h"
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

// In kernels_score.cpp, kernels_add.cpp, kernels_encode.cpp and kernels_append.cpp.
void fill_score_kernels(Kernels& table) noexcept;
void fill_add_kernels(Kernels& table) noexcept;
void fill_encode_kernels(Kernels& table) noexcept;
void fill_append_kernels(Kernels& table) noexcept;

const Kernels* target_kernels() noexcept {
  static const Kernels table = [] {
    Kernels t = {};
    t.isa = target_name();
    fill_score_kernels(t);
    fill_add_kernels(t);
    fill_encode_kernels(t);
    fill_append_kernels(t);
    t.score_sketch = score_sketch;
    t.project_queries = project_queries;
    t.score_codebook = score_codebook;
    t.add_codebook = add_codebook;
    t.score_rows[static_cast<int>(DType::f32)] = score_rows<DType::f32>;
    t.score_rows[static_cast<int>(DType::f16)] = score_rows<DType::f16>;
    t.score_rows[static_cast<int>(DType::bf16)] = score_rows<DType::bf16>;
    t.add_rows[static_cast<int>(DType::f32)] = add_rows<DType::f32>;
    t.add_rows[static_cast<int>(DType::f16)] = add_rows<DType::f16>;
    t.add_rows[static_cast<int>(DType::bf16)] = add_rows<DType::bf16>;
    t.softmax_tile = softmax_tile;
    t.normalise_row = normalise_row;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
    fill_integer_kernels(t, HWY_TARGET == HWY_AVX3);
#endif
    return t;
  }();
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
