// Words of codes and multipliers for products in integers, the same for every instruction set.

#if defined(KVCODEC_CPU_INTEGER_WORDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_WORDS_INL_H_
#undef KVCODEC_CPU_INTEGER_WORDS_INL_H_
#else
#define KVCODEC_CPU_INTEGER_WORDS_INL_H_
#endif

#include <cstring>

#include "decoders-inl.h"
#include "integer.hpp"
#include "reduce-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

using VI = hn::Vec<DI>;

/// Word w of vector j, VU or Word3: the lanes of a line are kVectors vectors.
template <class Bytes>
HWY_INLINE typename Bytes::Loaded load_word(const Lines& lines, int w, int j) {
  const auto line = static_cast<std::size_t>(j / kVectors);
  const std::uint8_t* at =
      lines.data + line * lines.stride + static_cast<std::size_t>(w) * kLineBytes;
  if constexpr (Bytes::kHighPlane) {
    const int half = lines.first_word + w;
    const std::uint8_t* high = lines.high + line * lines.high_stride + half / 2 * kLineBytes;
    return {load_words(at, j % kVectors),
            hn::ShiftRightSame(load_words(high, j % kVectors), 4 * (half % 2))};
  } else {
    return load_words(at, j % kVectors);
  }
}

/// Codes of three bits of step kStep in the low bits of every byte; the others may be anything.
template <int kStep>
HWY_INLINE VU codes_of_three_bits(const Word3& word) {
  VU low = word.low;
  VU high = word.high;
  if constexpr (kStep > 0) low = hn::ShiftRight<2 * kStep>(low);
  if constexpr (kStep < 2) high = hn::ShiftLeft<2 - kStep>(high);
  if constexpr (kStep > 2) high = hn::ShiftRight<kStep - 2>(high);
  return select_bits(hn::Set(DU(), 0x03030303u), low, high);
}

/// Four bytes of codes in every lane.
HWY_INLINE VU four_codes(const std::int8_t* codes) {
  std::uint32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return hn::Set(DU(), four);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
