// Family "nf4": the published table, and codec "nqkv" with groups of 32 to 256 values.
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kvcodec/codec/nqkv.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

constexpr const LevelTable& kTable = Nf4Table::table;

void require_same_bits(const std::string& what, const Array& expected, const float* got) {
  const std::vector<float> values = expected.floats();
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(std::bit_cast<std::uint32_t>(values[i]) == std::bit_cast<std::uint32_t>(got[i]),
            what + "[" + std::to_string(i) + "]: not the same f32 bits");
  }
}

/// The groups of a case: n rows of `size` values and what becomes of them.
struct Groups {
  explicit Groups(const Case& c)
      : size(c.parameter<int>("block_size")),
        x(c.array("x").floats()),
        absmax(c.array("absmax").floats()),
        idx(c.array("idx").integers()),
        even_high(c.array("packed_even_high").integers()),
        even_low(c.array("packed_even_low").integers()),
        dequant(c.array("dequant").floats()),
        scale(c.array("scale_f16").floats()),
        idx_f16(c.array("idx_f16scale").integers()),
        dequant_f16(c.array("dequant_f16scale").floats()),
        undecided(c.array("undecided").integers()),
        n(absmax.size()) {
    const std::size_t values = n * static_cast<std::size_t>(size);
    require(x.size() == values && idx_f16.size() == values && scale.size() == n,
            "arrays and parameters disagree about the number of groups");
  }

  int size;
  std::vector<float> x, absmax;
  std::vector<std::int64_t> idx, even_high, even_low;
  std::vector<float> dequant, scale;
  std::vector<std::int64_t> idx_f16;
  std::vector<float> dequant_f16;
  std::vector<std::int64_t> undecided;
  std::size_t n;

  std::size_t at(std::size_t group, int i) const noexcept {
    return group * static_cast<std::size_t>(size) + static_cast<std::size_t>(i);
  }
  std::string where(std::size_t group, int i) const {
    return "group " + std::to_string(group) + " value " + std::to_string(i);
  }
};

/// Exact, or one level off where the case says that the exact value cannot be decided.
void require_code(const Groups& g, const char* what, std::size_t group, int i, int got,
                  std::int64_t expected) {
  const std::int64_t off = std::abs(got - expected);
  require(off <= (g.undecided[g.at(group, i)] != 0 ? 1 : 0),
          std::string(what) + " " + g.where(group, i) + ": code " + std::to_string(got) +
              ", expected " + std::to_string(expected));
}

/// "exact to one fp32 rounding (relative 1.2e-7)"
void require_product(const Groups& g, const char* what, std::size_t group, int i, float got,
                     float expected) {
  const double bound = std::max(1.2e-7 * std::abs(static_cast<double>(expected)),
                                static_cast<double>(std::numeric_limits<float>::denorm_min()));
  require(std::abs(static_cast<double>(got) - static_cast<double>(expected)) <= bound,
          std::string(what) + " " + g.where(group, i) + ": " +
              number_text(static_cast<double>(got)) + ", expected " +
              number_text(static_cast<double>(expected)));
}

/// The published variant with an f32 scale: only the table, the decision and the maximum are ours.
void check_f32_scale(const Groups& g) {
  for (std::size_t group = 0; group < g.n; ++group) {
    float largest = 0.0f;
    for (int i = 0; i < g.size; ++i) largest = std::max(largest, abs_of(g.x[g.at(group, i)]));
    require(largest == g.absmax[group], "absmax of group " + std::to_string(group));
    // The case says: outside the range of f16 only the variant with f16 scales applies.
    const bool in_range = largest == 0.0f || (largest <= kF16Max && to_f16(largest).bits != 0);
    for (int i = 0; i < g.size; ++i) {
      const std::size_t at = g.at(group, i);
      const auto code = static_cast<int>(g.idx[at]);
      require(code >= 0 && code < 16, "idx " + g.where(group, i) + " is no code");
      if (in_range) {
        const int own = largest > 0.0f ? Nqkv::code_of(g.x[at] / largest) : Nf4Table::zero_code;
        require_code(g, "idx", group, i, own, code);
      }
      require_product(g, "dequant", group, i, kTable.level[code] * largest, g.dequant[at]);
    }
  }
}

/// Both published nibble orders hold the same indices, and so do the bytes of our planes: code e of
/// a 32-bit word sits in byte e % 4, its low nibble for e < 4.
void check_packing(const Groups& g) {
  for (std::size_t i = 0; i < g.idx.size() / 2; ++i) {
    const std::int64_t even = g.idx[2 * i];
    const std::int64_t odd = g.idx[2 * i + 1];
    require(g.even_low[i] == even + 16 * odd, "packed_even_low[" + std::to_string(i) + "]");
    require(g.even_high[i] == odd + 16 * even, "packed_even_high[" + std::to_string(i) + "]");
  }
  const int head_dim = std::max(g.size, kMinHeadDim);
  const auto code = [&](int row, int channel) {
    const auto at = static_cast<std::size_t>(row * head_dim + channel) % g.idx.size();
    return static_cast<std::uint32_t>(g.even_low[at / 2] >> (at % 2 == 0 ? 0 : 4)) & 15u;
  };
  for (const Side side : {Side::key, Side::value}) {
    const TileLayout layout{side, 4, head_dim};
    std::vector<std::byte> plane(layout.plane_bytes());
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < head_dim; ++c) layout.put(plane.data(), row, c, code(row, c));
    }
    const int n_summed = side == Side::key ? head_dim : kTileRows;
    std::size_t byte = 0;
    for (int lanes = 0; byte < plane.size(); lanes += kLanes) {
      for (int summed = 0; summed < n_summed; summed += 8) {
        for (int lane = lanes; lane < lanes + kLanes; ++lane) {
          for (int e = 0; e < 4; ++e, ++byte) {
            const auto of = [&](int s) {
              return side == Side::key ? code(lane, s) : code(s, lane);
            };
            require(
                static_cast<std::uint32_t>(plane[byte]) == of(summed + e) + 16 * of(summed + e + 4),
                std::string("nibble order of the ") + kvcodec::to_string(side) + " plane, byte " +
                    std::to_string(byte));
          }
        }
      }
    }
  }
}

/// Encodes the groups, repeated until tiles are full, and compares scales, codes and values.
void check_tiles(const Groups& g, Side side, int head_dim) {
  Nqkv codec;
  codec.group = g.size;
  const int span = codec.head_span(head_dim);
  const int width = span * head_dim;
  const int per_row = width / g.size;
  const TileLayout layout{side, 4, head_dim};
  std::vector<float> x(static_cast<std::size_t>(kTileRows * width));
  std::vector<float> y(x.size());
  std::vector<std::byte> tile(codec.tile_bytes(head_dim));
  const std::size_t slots = static_cast<std::size_t>(kTileRows * per_row);
  for (std::size_t first = 0; first < g.n; first += slots) {
    const auto group_at = [&](int row, int channel) {
      return (first + static_cast<std::size_t>(row * per_row + channel / g.size)) % g.n;
    };
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < width; ++c) {
        x[static_cast<std::size_t>(row * width + c)] = g.x[g.at(group_at(row, c), c % g.size)];
      }
    }
    require(backend().encode_tile(codec, side, head_dim, x.data(), tile.data()),
            "finite input was refused");
    backend().decode_tile(codec, side, head_dim, tile.data(), y.data());
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < width; ++c) {
        const std::size_t group = group_at(row, c);
        const int i = c % g.size;
        const std::byte* scales = tile.data() + codec.scale_offset(head_dim) +
                                  kScalePlaneBytes * static_cast<std::size_t>(c / g.size);
        require(to_f32(f16{get_scale(scales, row)}) == g.scale[group],
                "scale_f16 of group " + std::to_string(group));
        const std::byte* plane =
            tile.data() + layout.plane_bytes() * static_cast<std::size_t>(c / head_dim);
        const auto code = static_cast<int>(layout.get(plane, row, c % head_dim));
        const std::int64_t expected = g.idx_f16[g.at(group, i)];
        require_code(g, "idx_f16scale", group, i, code, expected);
        const float value =
            code == expected ? g.dequant_f16[g.at(group, i)] : kTable.level[code] * g.scale[group];
        require_product(g, "dequant_f16scale", group, i,
                        y[static_cast<std::size_t>(row * width + c)], value);
      }
    }
  }
}

}  // namespace

std::string run_nf4_table(const Case& c) {
  require(c.parameter<int>("levels") == 16, "levels is not 16");
  require_same_bits("levels", c.array("levels"), kTable.level);
  require_same_bits("thresholds", c.array("thresholds"), kTable.threshold);
  // The other official set differs where a midpoint lies half-way between two floats. Ours are the
  // literals as a C++ compiler reads them; each of the others must be a direct neighbour.
  const std::vector<float> other = c.array("thresholds_torch").floats();
  std::vector<int> differing;
  for (int i = 0; i < 15; ++i) {
    const float own = kTable.threshold[i];
    const float theirs = other.at(static_cast<std::size_t>(i));
    if (theirs == own) continue;
    differing.push_back(i);
    require(std::nextafterf(own, theirs) == theirs,
            "thresholds_torch[" + std::to_string(i) + "] is not a neighbour of ours");
  }
  require(
      differing == c.check<std::vector<int>>("indices_where_the_two_official_thresholds_differ"),
      "thresholds and thresholds_torch differ elsewhere than the case says");
  for (int code = 0; code < 15; ++code) {
    const float t = kTable.threshold[code];
    require(Nqkv::code_of(t) == code && Nqkv::code_of(std::nextafterf(t, 2.0f)) == code + 1,
            "a value equal to threshold " + std::to_string(code) + " must go down");
  }
  return "16 levels and 15 thresholds, bit for bit";
}

std::string run_nf4_groups(const Case& c) {
  const Groups g(c);
  check_f32_scale(g);
  check_packing(g);
  Nqkv codec;
  codec.group = g.size;
  int n_shapes = 0;
  for (int head_dim = kMinHeadDim; head_dim <= kMaxHeadDim; head_dim += kLanes) {
    // A head size that leaves a short last group stores other groups than the case has.
    if (!codec.supports(head_dim) || codec.head_span(head_dim) * head_dim % g.size != 0) continue;
    ++n_shapes;
    for (const Side side : {Side::key, Side::value}) check_tiles(g, side, head_dim);
  }
  require(n_shapes > 0, codec.name() + " supports no head size");
  return codec.name() + ", " + std::to_string(g.n) + " groups, " + std::to_string(n_shapes) +
         " head sizes, K and V tiles";
}

}  // namespace kvcodec::golden
