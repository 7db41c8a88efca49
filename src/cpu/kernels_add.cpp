// Kernels that sum V tiles by their TileFormat, once per target.
#include "kernels.hpp"

#if !defined(KVCODEC_NO_SIMD)

#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_add.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "add-inl.h"
#include "bits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

void fill_add_kernels(Kernels& table) noexcept {
  table.add_format[kF32] = add_format<F32Decoder>;
  table.add_format[kF16] = add_format<F16Decoder>;
  table.add_format[kBf16] = add_format<Bf16Decoder>;
  table.add_format[kInt8] = add_format<Int8Decoder>;
  table.add_format[kUint8] = add_format<Uint8Decoder>;
  table.add_format[kE4m3] = add_format<E4m3Decoder>;
  table.add_format[kTable1] = add_bits;
  table.add_format[kTable2] = add_format<TableDecoder<2>>;
  table.add_format[kTable3] = add_format<Table3Decoder>;
  table.add_format[kTable4] = add_format<TableDecoder<4>>;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD
