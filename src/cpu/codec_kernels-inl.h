// The tiles of each codec, taken apart for the kernels: where planes and scales stand.
//
// Offsets are computed here rather than by the codecs' members: those are shared inline functions,
// which a file compiled for several instruction sets must not emit.

#if defined(KVCODEC_CPU_CODEC_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_CODEC_KERNELS_INL_H_
#undef KVCODEC_CPU_CODEC_KERNELS_INL_H_
#else
#define KVCODEC_CPU_CODEC_KERNELS_INL_H_
#endif

#include "add-inl.h"
#include "kvcodec/codec/nqkv.hpp"
#include "score-inl.h"
#include "simd_codecs.hpp"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Where one head of a tile stands.
struct HeadPlanes {
  const std::uint8_t* codes;
  Scales scales;
};

HWY_INLINE HeadPlanes raw_planes(int head_dim, const std::byte* tile) {
  return {reinterpret_cast<const std::uint8_t*>(tile), {nullptr, 1, head_dim}};
}

HWY_INLINE HeadPlanes int8_planes(int head_dim, const std::byte* tile) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(tile);
  return {codes, {codes + kTileRows * head_dim, 1, head_dim}};
}

/// A group inside a head gives several segments, of which the last may be short; one that spans
/// heads gives one.
HWY_INLINE HeadPlanes nqkv_planes(int group, int head_dim, const std::byte* tile, int head) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(tile);
  const int plane_bytes = kTileRows * head_dim / 2;
  const int span = group > head_dim ? group / head_dim : 1;
  const int length = group > head_dim ? head_dim : group;
  const int first = head * head_dim / group;
  const std::uint8_t* scales =
      codes + span * plane_bytes + static_cast<std::size_t>(first) * kScalePlaneBytes;
  return {codes + head * plane_bytes, {scales, (head_dim + length - 1) / length, length}};
}

template <class Decoder>
void score_raw(const void*, int head_dim, const std::byte* tile, int, const float* q, int n_q,
               float* scores) {
  const HeadPlanes at = raw_planes(head_dim, tile);
  score_queries(Decoder(), at.scales, at.codes, head_dim, q, n_q, scores);
}

template <class Decoder>
void add_raw(const void*, int head_dim, const std::byte* tile, int, const float* w, int n_q,
             float* acc) {
  const HeadPlanes at = raw_planes(head_dim, tile);
  add_queries(Decoder(), at.scales, at.codes, head_dim, w, n_q, acc);
}

inline void score_int8(const void*, int head_dim, const std::byte* tile, int, const float* q,
                       int n_q, float* scores) {
  const HeadPlanes at = int8_planes(head_dim, tile);
  score_queries(Int8Decoder(), at.scales, at.codes, head_dim, q, n_q, scores);
}

inline void add_int8(const void*, int head_dim, const std::byte* tile, int, const float* w, int n_q,
                     float* acc) {
  const HeadPlanes at = int8_planes(head_dim, tile);
  add_queries(Int8Decoder(), at.scales, at.codes, head_dim, w, n_q, acc);
}

/// The 16 levels of a codec NormalQuantile<Table>.
template <class Codec>
struct LevelsOf;
template <class Table>
struct LevelsOf<NormalQuantile<Table>> {
  static constexpr const float* levels = Table::table.level;
};

template <class Codec>
void score_nqkv(const void* codec, int head_dim, const std::byte* tile, int head, const float* q,
                int n_q, float* scores) {
  const HeadPlanes at = nqkv_planes(static_cast<const Codec*>(codec)->group, head_dim, tile, head);
  const TableDecoder decoder(LevelsOf<Codec>::levels);
  score_queries(decoder, at.scales, at.codes, head_dim, q, n_q, scores);
}

template <class Codec>
void add_nqkv(const void* codec, int head_dim, const std::byte* tile, int head, const float* w,
              int n_q, float* acc) {
  const HeadPlanes at = nqkv_planes(static_cast<const Codec*>(codec)->group, head_dim, tile, head);
  const TableDecoder decoder(LevelsOf<Codec>::levels);
  add_queries(decoder, at.scales, at.codes, head_dim, w, n_q, acc);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
