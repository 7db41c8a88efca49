// Kernels that encode tiles, once per target.
#include "kernels.hpp"

#if !defined(KVCODEC_NO_SIMD)

#include <type_traits>

#include "simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/kernels_encode.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

void fill_encode_kernels(Kernels& table) noexcept { table.encode_tile = encode_tile; }

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // KVCODEC_NO_SIMD
