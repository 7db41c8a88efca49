// Choice of the kernel that encodes a codec's tiles.
#include "tile_encoder.hpp"

#include "kernels.hpp"
#include "kvcodec/codec/builtin.hpp"
#include "kvcodec/codec/encode_tile.hpp"
#include "sketch_encoder.hpp"

namespace kvcodec {
namespace cpu {
namespace {

/// Codecs that encode by their own function: all that are not named below.
template <class C>
bool describe(const C& /*codec*/, Side /*side*/, int /*head_dim*/,
              TileEncoding& /*encoding*/) noexcept {
  return false;
}

template <class Table>
bool describe(const NormalQuantile<Table>& codec, Side, int, TileEncoding& e) noexcept {
  e.rule = Table::signed_scale ? ParamRule::normal_signed : ParamRule::normal;
  e.limit = kF16Max;
  for (int i = 0; i < 15; ++i) e.thresholds[i] = Table::table.threshold[i];
  // The code of groups without a scale is that of a quotient between its thresholds: 0 for some tables.
  constexpr int kEmpty = Table::zero_code;
  constexpr bool kIsZero =
      Table::table.threshold[kEmpty - 1] < 0.0f && Table::table.threshold[kEmpty] >= 0.0f;
  e.coding = kIsZero ? Coding::table : Coding::floor_table;
  e.floor_of_empty = Table::table.threshold[kEmpty];
  e.multiplier = codec.multiplier;
  e.searches = codec.rule == ScaleRule::search;
  return true;
}

template <class T>
bool describe(const RawCodec<T>&, Side, int, TileEncoding& e) noexcept {
  constexpr DType kType = dtype_of<T>;
  e.coding = kType == DType::f32 ? Coding::f32 : kType == DType::f16 ? Coding::f16 : Coding::bf16;
  e.limit = dtype_max(kType);
  return true;
}

bool describe(const Int8Token&, Side, int, TileEncoding& e) noexcept {
  e.rule = ParamRule::largest_code;
  e.coding = Coding::int8;
  e.limit = Int8Token::kLimit;
  e.largest = 127.0f;
  return true;
}

bool describe(const Fp8& codec, Side, int, TileEncoding& e) noexcept {
  e.rule = codec.per_row ? ParamRule::largest_code : ParamRule::none;
  e.coding = Coding::e4m3;
  e.limit = codec.per_row ? Fp8::kRowLimit : kF32Max;
  e.largest = kE4m3Max;
  return true;
}

template <class Scales>
bool describe(const Fp4<Scales>& codec, Side, int, TileEncoding& e) noexcept {
  e.rule = std::is_same_v<Scales, NvFp4Scales> ? ParamRule::nvfp4 : ParamRule::mxfp4;
  e.coding = Coding::e2m1;
  e.limit = kF32Max;
  e.multiplier = codec.scales.unit_factor();
  return true;
}

bool describe(const AffineToken& codec, Side, int head_dim, TileEncoding& e) noexcept {
  e.rule = ParamRule::affine;
  e.coding = Coding::affine;
  e.limit = kF16Max;
  e.largest = static_cast<float>((1 << codec.bits) - 1);
  const int rest = head_dim % e.format.group;
  e.clip = codec.clip_of(e.format.group);
  e.last_clip = rest == 0 ? e.clip : codec.clip_of(rest);
  e.smallest_scale = AffineToken::kSmallestScale;
  return true;
}

bool describe(const Kivi& codec, Side side, int head_dim, TileEncoding& e) noexcept {
  e.rule = side == Side::key ? ParamRule::affine_runs : ParamRule::affine;
  e.coding = Coding::affine;
  e.limit = kF16Max;
  e.largest = static_cast<float>((1 << codec.bits) - 1);
  if (side == Side::value) return true;
  e.total_bytes = static_cast<std::uint32_t>(codec.tile_bytes(head_dim));
  e.used_bytes = static_cast<std::uint32_t>(
      codec.zero_offset(side, head_dim, kTileRows - 1, head_dim - 1) + 2);
  return true;
}

bool describe(const LloydMax& codec, Side, int head_dim, TileEncoding& e) noexcept {
  e.rule = ParamRule::lloyd_max;
  e.coding = Coding::kept;
  e.limit = kF16Max;
  const LloydMaxTable table = lloyd_max_table(codec.bits, head_dim);
  for (int i = 0; i + 1 < table.n_levels; ++i) e.thresholds[i] = table.threshold[i];
  e.variant = static_cast<std::int32_t>(codec.rule);
  return true;
}

bool describe(const RaBitQ& codec, Side, int, TileEncoding& e) noexcept {
  e.rule = ParamRule::rabitq;
  e.coding = Coding::kept;
  e.limit = kF16Max;
  e.multiplier = codec.kappa();
  return codec.rule == RaBitQ::Rule::fast || codec.bits == 1;
}

}  // namespace

bool tile_encoding(const AnyCodec& codec, Side side, int head_dim,
                   TileEncoding& encoding) noexcept {
  bool known = false;
  BuiltinCodecs::for_each([&]<class C>() {
    const C* own = codec.as<C>();
    if (own == nullptr) return;
    encoding = {};
    known = codec.tile_format(side, head_dim, encoding.format) &&
            describe(*own, side, head_dim, encoding);
  });
  return known;
}

}  // namespace cpu

bool encode_tile(const AnyCodec& codec, Side side, int head_dim, const std::byte* first_tile,
                 const float* x, std::byte* out) noexcept {
  const cpu::Kernels& table = cpu::kernels();
  const Qjl* sketch = codec.as<Qjl>();
  if (sketch != nullptr && table.put_signs != nullptr) {
    return cpu::encode_sketch(table, *sketch, head_dim, first_tile, x, out);
  }
  const cpu::EncodeTile encode = table.encode_tile;
  cpu::TileEncoding encoding;
  if (encode == nullptr || !cpu::tile_encoding(codec, side, head_dim, encoding)) {
    return codec.encode_tile_after(side, head_dim, first_tile, x, out);
  }
  return encode(encoding, side, codec.head_span(head_dim), x, out);
}

}  // namespace kvcodec
