// Kernels that score K tiles by their TileFormat, once per target.
#include "kernels.hpp"

#if !defined(KVCODEC_NO_SIMD)

#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_score.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "bits-inl.h"
#include "score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

void fill_score_kernels(Kernels& table) noexcept {
  table.score_format[kF32] = score_format<F32Decoder>;
  table.score_format[kF16] = score_format<F16Decoder>;
  table.score_format[kBf16] = score_format<Bf16Decoder>;
  table.score_format[kInt8] = score_format<Int8Decoder>;
  table.score_format[kUint8] = score_format<Uint8Decoder>;
  table.score_format[kE4m3] = score_format<E4m3Decoder>;
  table.score_format[kTable1] = score_bits;
  table.score_format[kTable2] = score_format<TableDecoder<2>>;
  table.score_format[kTable3] = score_format<Table3Decoder>;
  table.score_format[kTable4] = score_format<TableDecoder<4>>;
  table.score_runs[kTable2] = score_runs<TableDecoder<2>>;
  table.score_runs[kTable4] = score_runs<TableDecoder<4>>;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD
