// Kernels that appended rows pass on their way into a cache, those that sketch keys, and those that judge
// rows, once per target.
#include "kernels.hpp"

#if !defined(KVCODEC_NO_SIMD)

#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_append.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "lag-inl.h"
#include "signs-inl.h"
#include "turn-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

void fill_append_kernels(Kernels& table) noexcept {
  table.load_row[static_cast<int>(DType::f32)] = load_whole_row<DType::f32>;
  table.load_row[static_cast<int>(DType::f16)] = load_whole_row<DType::f16>;
  table.load_row[static_cast<int>(DType::bf16)] = load_whole_row<DType::bf16>;
  table.load_clamped[static_cast<int>(DType::f32)] = load_clamped<DType::f32>;
  table.load_clamped[static_cast<int>(DType::f16)] = load_clamped<DType::f16>;
  table.load_clamped[static_cast<int>(DType::bf16)] = load_clamped<DType::bf16>;
  table.store_clamped[static_cast<int>(DType::f32)] = store_clamped<DType::f32>;
  table.store_clamped[static_cast<int>(DType::f16)] = store_clamped<DType::f16>;
  table.store_clamped[static_cast<int>(DType::bf16)] = store_clamped<DType::bf16>;
  table.hadamard_row = hadamard_row;
  table.put_signs = put_signs;
  table.channel_ends = channel_ends;
  table.lag_deviations = lag_deviations;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD
