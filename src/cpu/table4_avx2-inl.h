// Codes of four bits as f32 with AVX2 (decoders-inl.h, which includes this).

// For one target only, so an ordinary guard.
#ifndef KVCODEC_CPU_TABLE4_AVX2_INL_H_
#define KVCODEC_CPU_TABLE4_AVX2_INL_H_

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Four bits: each byte of the levels has a table of 16 entries of its own; bytes are looked up for 32 codes
/// at a time, of 8 lanes, and joined. Lookups of 32-bit words know 8 entries and cost twice as much (Zen 3).
template <>
struct TableDecoder<4> : WordDecoder<4> {
  static constexpr int kWanted = 4;
  static constexpr bool kFours = true;

  HWY_INLINE explicit TableDecoder(const TileFormat& f) {
    const float center = level_center(f);
    HWY_ALIGN std::uint8_t bytes[4][16];
    for (int i = 0; i < 16; ++i) {
      const float level = f.table[i] - center;
      std::uint8_t of_level[4];
      std::memcpy(of_level, &level, sizeof(level));
      for (int b = 0; b < 4; ++b) bytes[b][i] = of_level[b];
    }
    for (int b = 0; b < 4; ++b) {
      table[b] =
          _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes[b])));
    }
  }

  /// Bytes b of four lanes side by side, so that joining bytes gives lanes in their order.
  HWY_INLINE VU load(const std::uint8_t* line, int slot) const {
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0,
                                           4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return VU{_mm256_shuffle_epi8(load_words(line, slot).raw, order)};
  }

  template <int kStep>
  HWY_INLINE void four_values(VU word, VF (&values)[4]) const {
    const __m256i code = _mm256_and_si256(kStep == 0 ? word.raw : _mm256_srli_epi16(word.raw, 4),
                                          _mm256_set1_epi8(15));
    __m256i byte[4];
    KVCODEC_UNROLL
    for (int b = 0; b < 4; ++b) byte[b] = _mm256_shuffle_epi8(table[b], code);
    const __m256i halves[4] = {
        _mm256_unpacklo_epi8(byte[0], byte[1]), _mm256_unpacklo_epi8(byte[2], byte[3]),
        _mm256_unpackhi_epi8(byte[0], byte[1]), _mm256_unpackhi_epi8(byte[2], byte[3])};
    KVCODEC_UNROLL
    for (int k = 0; k < 4; k += 2) {
      values[k] = VF{_mm256_castsi256_ps(_mm256_unpacklo_epi16(halves[k], halves[k + 1]))};
      values[k + 1] = VF{_mm256_castsi256_ps(_mm256_unpackhi_epi16(halves[k], halves[k + 1]))};
    }
  }

  __m256i table[4];
};

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KVCODEC_CPU_TABLE4_AVX2_INL_H_
