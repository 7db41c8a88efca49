// A strip: 16 rows of a tile on their way to bytes, and how their codes are packed into lines.
//
// Rows lie as they came for V, whose lanes are channels, and turned for K and for whatever is said of a
// row as a whole, so that lanes are rows: sums and ends of a row are then formed in the order of its
// channels, as the codecs' own functions form them.

#if defined(KVCODEC_CPU_STRIP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_STRIP_INL_H_
#undef KVCODEC_CPU_STRIP_INL_H_
#else
#define KVCODEC_CPU_STRIP_INL_H_
#endif

#include "coders-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

inline constexpr int kStrips = kTileRows / kLanes;
inline constexpr int kMostUnits = kMaxTileWidth / kLanes;  ///< of 16 channels, in a row

/// Parameters of a strip: of group g and row r at [i][g * 16 + r]; with runs, of channel c at [i][c].
struct StripParams {
  alignas(64) float of[2][kMostUnits * kLanes];
};

/// 4 neighbouring values of each of rows 0, 4, .. of a vector's rows.
template <class D>
HWY_INLINE hn::Vec<D> load_quads(D d, const float* x, std::ptrdiff_t stride) {
  constexpr std::size_t kHalf = hn::MaxLanes(D()) / 2;
  if constexpr (kHalf == 2) {
    return hn::LoadU(d, x);
  } else {
    const hn::Half<D> half;
    constexpr auto kRows = static_cast<std::ptrdiff_t>(kHalf);
    return hn::Combine(d, load_quads(half, x + kRows * stride, stride),
                       load_quads(half, x, stride));
  }
}

/// turned [width, 16] = the transpose of rows x [16, width].
HWY_INLINE void turn_rows(const float* x, int width, float* turned) {
  const hn::Repartition<std::uint64_t, DF> d64;
  const auto wide = [&](VF v) { return hn::BitCast(d64, v); };
  for (int v = 0; v < kVectors; ++v) {
    const float* rows = x + static_cast<std::ptrdiff_t>(v * kN) * width;
    for (int c = 0; c < width; c += 4) {
      const VF a = load_quads(DF(), rows + c, width);
      const VF b = load_quads(DF(), rows + width + c, width);
      const VF e = load_quads(DF(), rows + 2 * width + c, width);
      const VF f = load_quads(DF(), rows + 3 * width + c, width);
      const auto ab_low = wide(hn::InterleaveLower(DF(), a, b));
      const auto ab_high = wide(hn::InterleaveUpper(DF(), a, b));
      const auto ef_low = wide(hn::InterleaveLower(DF(), e, f));
      const auto ef_high = wide(hn::InterleaveUpper(DF(), e, f));
      float* to = turned + c * kLanes + v * kN;
      const auto put = [&](int i, auto lanes) {
        hn::Store(hn::BitCast(DF(), lanes), DF(), to + i * kLanes);
      };
      put(0, hn::InterleaveLower(d64, ab_low, ef_low));
      put(1, hn::InterleaveUpper(d64, ab_low, ef_low));
      put(2, hn::InterleaveLower(d64, ab_high, ef_high));
      put(3, hn::InterleaveUpper(d64, ab_high, ef_high));
    }
  }
}

/// Bits of the largest magnitude of n values, a multiple of 64; NaN is larger than infinity.
HWY_INLINE std::uint32_t largest_bits(const float* x, int n) {
  const VU mask = hn::Set(DU(), 0x7fffffffu);
  VU top[4] = {hn::Zero(DU()), hn::Zero(DU()), hn::Zero(DU()), hn::Zero(DU())};
  for (int i = 0; i < n; i += 4 * kN) {
    KVCODEC_UNROLL
    for (int j = 0; j < 4; ++j) {
      const VU bits = hn::BitCast(DU(), hn::LoadU(DF(), x + i + j * kN));
      top[j] = hn::Max(top[j], hn::And(bits, mask));
    }
  }
  const VU all = hn::Max(hn::Max(top[0], top[1]), hn::Max(top[2], top[3]));
  return hn::GetLane(hn::MaxOfLanes(DU(), all));
}

/// y [n] = clamp_finite(x [n], limit).
HWY_INLINE void clamp_values(const float* x, int n, float limit, float* y) {
  const VF most = hn::Set(DF(), limit);
  for (int i = 0; i < n; i += kN) {
    const VF value = hn::LoadU(DF(), x + i);
    const VF number = hn::IfThenElseZero(hn::Eq(value, value), value);
    hn::StoreU(hn::Max(hn::Min(number, most), hn::Neg(most)), DF(), y + i);
  }
}

/// Where a unit's codes go: 16 lanes times 16 elements of the summed axis. Codes of 1 bit fill half a
/// word, the lower one first.
struct UnitLines {
  std::uint8_t* data;
  std::uint8_t* high;  ///< of 3-bit codes: the plane of high bits
  int half;            ///< of the words of a plane of 1 bit
};

/// A unit's place in the planes of one head. Offsets are computed as in params-inl.h.
HWY_INLINE UnitLines unit_lines(const TileFormat& f, Side side, std::byte* tile, int strip,
                                int unit) {
  const int units = f.width / kLanes;
  const int head = unit / units;
  const int in_head = unit - head * units;
  const int lane_unit = side == Side::key ? strip : in_head;
  const int element_unit = side == Side::key ? in_head : strip;
  const int summed = side == Side::key ? f.width : kTileRows;
  const auto at = [&](int bits) {  // line of a plane of `bits` bits, in bytes
    const int words = (summed * bits + 31) / 32;
    return static_cast<std::size_t>(lane_unit * words + element_unit * kLanes * bits / 32) *
           kLineBytes;
  };
  const auto plane = [&](int bits) {
    return static_cast<std::size_t>((f.width * bits + 31) / 32 * 4 * kTileRows);
  };
  const bool split = f.bits == 3;
  const int low_bits = split ? 2 : f.bits;
  auto* data = reinterpret_cast<std::uint8_t*>(tile) +
               static_cast<std::size_t>(head) * (plane(low_bits) + (split ? plane(1) : 0));
  return {data + at(low_bits), split ? data + plane(2) + at(1) : nullptr, element_unit % 2};
}

/// Collects codes of kBits bits, element by element, and writes every word that is full.
template <int kBits>
struct WordWriter {
  static constexpr int kPerWord = 32 / kBits;
  VU word;

  template <int kElement>
  HWY_INLINE void put(VU code, std::uint8_t* lines, int half) {
    constexpr int e = kElement % kPerWord;
    constexpr int kShift = kBits >= 16 ? e * kBits % 32 : e % 4 * 8 + e / 4 * kBits;
    const VU shifted = hn::ShiftLeft<kShift>(code);
    word = e == 0 ? shifted : hn::Or(word, shifted);
    if constexpr (kBits == 1 && kElement == kLanes - 1) {
      auto* to = reinterpret_cast<std::uint32_t*>(lines);
      if (half == 1) word = hn::Or(hn::LoadU(DU(), to), hn::ShiftLeft<4>(word));
      hn::StoreU(word, DU(), to);
    } else if constexpr (e == kPerWord - 1) {
      hn::StoreU(word, DU(),
                 reinterpret_cast<std::uint32_t*>(lines + kElement / kPerWord * kLineBytes));
    }
  }
};

/// Values of a unit: element e of lane i at data[e * stride + i]; its parameters, 16 each, belong to lanes
/// or to elements.
struct UnitValues {
  const float* data;
  std::ptrdiff_t stride;
  const float* params[2];
};

template <class Coder, bool kOfElements, int kElement>
HWY_INLINE void encode_elements(const Coder& coder, const UnitValues& from, const VF* of_lanes,
                                const UnitLines& to,
                                WordWriter<Coder::kBits == 3 ? 2 : Coder::kBits>& low,
                                WordWriter<1>& high) {
  VF p[2] = {of_lanes[0], of_lanes[1]};
  if constexpr (kOfElements) {
    KVCODEC_UNROLL
    for (int i = 0; i < Coder::kParams; ++i) p[i] = hn::Set(DF(), from.params[i][kElement]);
  }
  const VF x = hn::LoadU(DF(), from.data + kElement * from.stride);
  const VU code = coder.code(x, p);
  if constexpr (Coder::kBits == 3) {
    low.template put<kElement>(hn::And(code, hn::Set(DU(), 3)), to.data, 0);
    high.template put<kElement>(hn::ShiftRight<2>(code), to.high, to.half);
  } else {
    low.template put<kElement>(code, to.data, to.half);
  }
  if constexpr (kElement + 1 < kLanes) {
    encode_elements<Coder, kOfElements, kElement + 1>(coder, from, of_lanes, to, low, high);
  }
}

template <class Coder, bool kOfElements>
HWY_INLINE void encode_unit(const Coder& coder, UnitValues from, UnitLines to) {
  for (int v = 0; v < kVectors; ++v) {
    VF p[2] = {hn::Zero(DF()), hn::Zero(DF())};
    if constexpr (!kOfElements) {
      KVCODEC_UNROLL
      for (int i = 0; i < Coder::kParams; ++i) p[i] = hn::Load(DF(), from.params[i] + v * kN);
    }
    WordWriter<Coder::kBits == 3 ? 2 : Coder::kBits> low;
    WordWriter<1> high;
    encode_elements<Coder, kOfElements, 0>(coder, from, p, to, low, high);
    from.data += kN;
    to.data += 4 * kN;
    if (to.high != nullptr) to.high += 4 * kN;
  }
}

/// Values of a strip's units: unit u at data + u * step, its elements `stride` floats apart.
struct StripValues {
  const float* data;
  int step;
  int stride;
};

template <class Coder>
HWY_NOINLINE void encode_units(const TileEncoding& e, Side side, int width, int strip,
                               const StripValues& values, const StripParams& params,
                               std::byte* tile) {
  const Coder coder(e);
  const TileFormat& f = e.format;
  for (int unit = 0; unit < width / kLanes; ++unit) {
    const int group = f.run > 0 ? unit : f.group == 0 ? 0 : unit * kLanes / f.group;
    const UnitValues from = {values.data + unit * values.step,
                             values.stride,
                             {params.of[0] + group * kLanes, params.of[1] + group * kLanes}};
    const UnitLines to = unit_lines(f, side, tile, strip, unit);
    if constexpr (Coder::kParams == 0) {
      encode_unit<Coder, false>(coder, from, to);
    } else if (side == Side::key && f.run == 0) {
      encode_unit<Coder, false>(coder, from, to);
    } else {
      encode_unit<Coder, true>(coder, from, to);
    }
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
