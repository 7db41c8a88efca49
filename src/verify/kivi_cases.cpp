// Family "kivi": codec "kivi" against the authors' code, run on f16 and on f32 tensors.
//
// Ours divides by a scale that is rounded once to f16, theirs by one that was rounded after each
// operation (f16 run) or not at all (f32 run). So a scale must be what rounding the f32 run's scale
// gives, minima must be equal, codes must be equal wherever the case says that all three agree, and
// every code must be the nearest level.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kvcodec/codec/kivi.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// Codec and shape of a case: arrays of values are [heads, tokens, head_dim].
struct Params {
  explicit Params(const Case& c)
      : heads(c.parameter<int>("heads")),
        tokens(c.parameter<int>("tokens")),
        head_dim(c.parameter<int>("head_dim")) {
    codec.bits = c.parameter<std::int32_t>("bits");
    codec.group = c.parameter<std::int32_t>("group_size");
    require(codec.supports(head_dim) && head_dim % codec.group == 0, "parameters: not a kivi case");
    require(tokens <= kTileRows && tokens % codec.group == 0, "parameters: tokens of whole groups");
  }
  int levels() const noexcept { return (1 << codec.bits) - 1; }

  Kivi codec;
  int heads, tokens, head_dim;
};

/// Indices of (head, token, channel) into the arrays of one side of a case.
struct Spot {
  Spot(const Params& p, Side side, int head, int token_, int channel_) noexcept
      : token(token_), channel(channel_) {
    const auto row = static_cast<std::size_t>(head * p.tokens + token);
    const auto d = static_cast<std::size_t>(p.head_dim);
    const auto g = static_cast<std::size_t>(p.codec.group);
    const auto c = static_cast<std::size_t>(channel);
    value = row * d + c;
    group = side == Side::key ? row / g * d + c : row * (d / g) + c / g;
  }
  int token, channel;
  std::size_t value;  ///< in [heads, tokens, head_dim]
  std::size_t group;  ///< K [heads, tokens / g, head_dim], V [heads, tokens, head_dim / g]
  std::string text() const { return "[" + std::to_string(value) + "]"; }
};

template <class F>
void for_each_spot(const Params& p, Side side, int head, F&& fn) {
  for (int token = 0; token < p.tokens; ++token) {
    for (int c = 0; c < p.head_dim; ++c) fn(Spot(p, side, head, token, c));
  }
}

/// What the codec made of one head.
struct Encoded {
  Encoded(const Params& params, Side which, const std::vector<float>& x, int head)
      : p(params), side(which), tile(p.codec.tile_bytes(p.head_dim)), y(tile_values()) {
    std::vector<float> in(tile_values());
    for_each_spot(p, side, head, [&](const Spot& at) { in[place(at)] = x[at.value]; });
    require(backend().encode_tile(p.codec, side, p.head_dim, in.data(), tile.data()),
            "input was refused");
    backend().decode_tile(p.codec, side, p.head_dim, tile.data(), y.data());
  }
  /// Of given codes, scales and zeros.
  template <class Codes>
  Encoded(const Params& params, Side which, const Codes& codes, const std::vector<float>& scales,
          const std::vector<float>& zeros, int head)
      : p(params), side(which), tile(p.codec.tile_bytes(p.head_dim)), y(tile_values()) {
    for_each_spot(p, side, head, [&](const Spot& at) {
      layout().put(tile.data(), at.token, at.channel, static_cast<std::uint32_t>(codes[at.value]));
      const std::uint16_t scale = to_f16(scales[at.group]).bits;
      const std::uint16_t zero = to_f16(zeros[at.group]).bits;
      std::memcpy(tile.data() + scale_at(at), &scale, 2);
      std::memcpy(tile.data() + zero_at(at), &zero, 2);
    });
    backend().decode_tile(p.codec, side, p.head_dim, tile.data(), y.data());
  }

  std::size_t tile_values() const { return static_cast<std::size_t>(kTileRows * p.head_dim); }
  std::size_t place(const Spot& at) const {
    return static_cast<std::size_t>(at.token * p.head_dim + at.channel);
  }
  TileLayout layout() const { return {side, p.codec.bits, p.head_dim}; }
  std::size_t scale_at(const Spot& at) const {
    return p.codec.scale_offset(side, p.head_dim, at.token, at.channel);
  }
  std::size_t zero_at(const Spot& at) const {
    return p.codec.zero_offset(side, p.head_dim, at.token, at.channel);
  }
  int code(const Spot& at) const {
    return static_cast<int>(layout().get(tile.data(), at.token, at.channel));
  }
  float scale(const Spot& at) const {
    return to_f32(f16{get_scale(tile.data() + scale_at(at), 0)});
  }
  float zero(const Spot& at) const { return to_f32(f16{get_scale(tile.data() + zero_at(at), 0)}); }
  float value(const Spot& at) const { return y[place(at)]; }

  const Params& p;
  Side side;
  std::vector<std::byte> tile;
  std::vector<float> y;
};

/// Whether `own` is what rounding a scale of the f32 run ("relative 2.4e-7") to f16 may give.
bool rounds_to(double scale_f32, float own) {
  const float low = to_f32(to_f16(static_cast<float>(scale_f32 * (1.0 - 2.4e-7))));
  const float high = to_f32(to_f16(static_cast<float>(scale_f32 * (1.0 + 2.4e-7))));
  return own == low || own == high;
}

/// The level nearest to x. The top level may fall short of the maximum by the rounding of the scale,
/// which is far less than half a step.
bool is_nearest(float x, float value, float scale) {
  return std::abs(static_cast<double>(x) - static_cast<double>(value)) <=
         0.5 * static_cast<double>(scale) + 1e-6 * std::abs(static_cast<double>(x));
}

/// Codes out of int32 words along one axis of [heads, rows, width]: code i of a run sits in word
/// i / per_word, lowest bits first. `along_rows`: runs are columns.
std::vector<std::int64_t> unpacked(const Array& words, const Params& p, bool along_rows) {
  const std::vector<std::int64_t> in = words.integers();
  const int per_word = 32 / p.codec.bits;
  const int d = p.head_dim;
  std::vector<std::int64_t> codes;
  for (int head = 0; head < p.heads; ++head) {
    for (int t = 0; t < p.tokens; ++t) {
      for (int c = 0; c < d; ++c) {
        const int i = along_rows ? t : c;
        const int word = along_rows ? (head * (p.tokens / per_word) + t / per_word) * d + c
                                    : (head * p.tokens + t) * (d / per_word) + c / per_word;
        const auto bits = static_cast<std::uint32_t>(in.at(static_cast<std::size_t>(word)));
        codes.push_back((bits >> (i % per_word * p.codec.bits)) &
                        static_cast<std::uint32_t>(p.levels()));
      }
    }
  }
  return codes;
}

/// k_packed_channel_major holds the words of k_packed with both axes exchanged.
void check_channel_major(const Case& c, const Params& p) {
  const std::vector<std::int64_t> rows = c.array("k_packed").integers();
  const std::vector<std::int64_t> columns = c.array("k_packed_channel_major").integers();
  const std::size_t n = rows.size() / static_cast<std::size_t>(p.heads * p.head_dim);
  const auto d = static_cast<std::size_t>(p.head_dim);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t head = i / (n * d);
    const std::size_t word = i / d % n;
    require(columns.at((head * d + i % d) * n + word) == rows[i],
            "k_packed_channel_major: word " + std::to_string(i) + " of k_packed is elsewhere");
  }
}

struct Counts {
  int values = 0, undecided = 0, one_off = 0;
  int scales = 0, scales_one_ulp = 0;
};

void check_side(const Case& c, const Params& p, Side side, Counts& n) {
  const std::string name = kvcodec::to_string(side);
  const auto floats = [&](const char* what) { return c.array(name + what).floats(); };
  const std::vector<float> x = floats("");
  const std::vector<float> scale = floats("_scale");
  const std::vector<float> scale_f32 = floats("_scale_f32");
  const std::vector<float> min = floats("_min");
  const std::vector<float> dequant = floats("_dequant");
  const std::vector<std::int64_t> codes = c.array(name + "_codes").integers();
  const std::vector<std::int64_t> undecided = c.array(name + "_undecided").integers();
  const auto words = [&](const char* what) {
    return unpacked(c.array(name + what), p, side == Side::key);
  };
  const std::vector<std::int64_t> packed = words("_packed");
  const std::vector<std::int64_t> packed_f32 = words("_packed_f32");
  require(packed == codes, name + "_packed does not hold " + name + "_codes");
  n.scales += static_cast<int>(scale.size());

  for (int head = 0; head < p.heads; ++head) {
    const Encoded own(p, side, x, head);
    // Their codes, scales and minima in a tile of ours: decoding apart from encoding.
    const Encoded theirs(p, side, codes, scale, min, head);
    for_each_spot(p, side, head, [&](const Spot& at) {
      const std::string where = name + at.text();
      const float s = own.scale(at);
      require(own.zero(at) == min[at.group], where + ": another minimum");
      require(f16_ulps_apart(s, scale[at.group]) <= 1, where + ": scale off the f16 run's");
      require(rounds_to(static_cast<double>(scale_f32[at.group]), s),
              where + ": scale is not the f32 run's, rounded");
      const bool first = (side == Side::key ? at.token : at.channel) % p.codec.group == 0;
      if (first && s != scale[at.group]) ++n.scales_one_ulp;

      const int code = own.code(at);
      const auto allowed = undecided[at.value] != 0 ? 1 : 0;
      ++n.values;
      n.undecided += allowed;
      n.one_off += code != codes[at.value] ? 1 : 0;
      for (const auto* run : {&codes, &packed_f32}) {
        require(std::abs(code - (*run)[at.value]) <= allowed,
                where + ": code " + std::to_string(code) + ", expected " +
                    std::to_string((*run)[at.value]));
      }
      require(is_nearest(x[at.value], own.value(at), s), where + ": not the nearest level");

      // Ours decodes to the exact value, rounded once to f32. The case allows one f16 ulp of the
      // larger summand, which correct sums exceed where they enter the next binade; rounding to f16
      // after each operation, as the f16 run did, must give its result bit for bit instead.
      const float product = static_cast<float>(codes[at.value]) * scale[at.group];  // exact
      const float zero = min[at.group];
      require(theirs.value(at) == product + zero, where + ": not code * scale + minimum");
      const float twice = to_f32(to_f16(to_f32(to_f16(product)) + zero));
      require(twice == dequant[at.value],
              name + "_dequant" + at.text() + " = " + number_text(static_cast<double>(twice)));
    });
  }
}

/// A group of the edge case: the indices of its values.
struct Group {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  double range() const { return static_cast<double>(high) - static_cast<double>(low); }
};

/// The published code's results, to be matched on healthy groups only.
struct Official {
  Official(const Case& c, const std::string& name)
      : dequant_f16(c.array("official_" + name + "_dequant_f16").floats()),
        dequant_f32(c.array("official_" + name + "_dequant_f32").floats()),
        scale_f16(c.array("official_" + name + "_scale_f16").floats()),
        scale_f32(c.array("official_" + name + "_scale_f32").floats()) {
    const auto n_nan = [](const std::vector<float>& x) {
      return std::count_if(x.begin(), x.end(), [](float value) { return std::isnan(value); });
    };
    require(n_nan(dequant_f16) == c.check<int>("official_nan_" + name + "_f16") &&
                n_nan(dequant_f32) == c.check<int>("official_nan_" + name + "_f32"),
            "official_" + name + ": another number of NaN than the case says");
  }
  std::vector<float> dequant_f16, dequant_f32, scale_f16, scale_f32;
};

/// Ours on a healthy value: where its code is decided, within the rounding of the official result.
void check_healthy(const Params& p, const Official& official, const Encoded& own, const Spot& at,
                   float x, const Group& group, const std::string& where) {
  const auto s = static_cast<double>(own.scale(at));
  const auto zero = static_cast<double>(own.zero(at));
  const auto s16 = static_cast<double>(official.scale_f16[at.group]);
  const auto s32 = static_cast<double>(official.scale_f32[at.group]);
  require(f16_ulps_apart(own.scale(at), official.scale_f16[at.group]) <= 1 &&
              rounds_to(s32, own.scale(at)),
          where + ": another scale");
  // The regular cases' rule for codes that rounding may move by one.
  const double y =
      (static_cast<double>(x) - static_cast<double>(group.low)) * p.levels() / group.range();
  const double to_tie = std::abs(y - std::floor(y) - 0.5);
  const double code_slack = to_tie <= y * 0x1p-9 + 1e-5 ? 1.0 : 0.0;
  const int code = own.code(at);
  const auto got = static_cast<double>(own.value(at));
  // Theirs is rounded to f16 twice: the product, then the sum.
  const double rounding =
      0.5 * (f16_ulp(static_cast<float>(code * s16)) + f16_ulp(official.dequant_f16[at.value]));
  const auto theirs16 = static_cast<double>(official.dequant_f16[at.value]);
  const auto theirs32 = static_cast<double>(official.dequant_f32[at.value]);
  require(std::abs(got - theirs16) <= rounding + code * std::abs(s - s16) + code_slack * s,
          where + ": " + number_text(got) + ", the f16 run has " + number_text(theirs16));
  require(std::abs(got - theirs32) <=
              1e-6 * (code * s + std::abs(zero)) + code * std::abs(s - s32) + code_slack * s,
          where + ": " + number_text(got) + ", the f32 run has " + number_text(theirs32));
}

/// Returns the number of degenerate groups.
int check_edge_side(const Case& c, const Params& p, Side side) {
  const std::string name = kvcodec::to_string(side);
  const std::vector<float> x = c.array(name).floats();
  const Official official(c, name);
  std::vector<Group> groups(official.scale_f16.size());
  for (int head = 0; head < p.heads; ++head) {
    for_each_spot(p, side, head, [&](const Spot& at) {
      Group& group = groups[at.group];
      group.low = std::min(group.low, x[at.value]);
      group.high = std::max(group.high, x[at.value]);
    });
  }
  const auto is_degenerate = [&](const Group& group) {
    const auto step = static_cast<float>(group.range() / p.levels());
    return group.range() > static_cast<double>(kF16Max) || to_f16(step).bits == 0;
  };
  for (int head = 0; head < p.heads; ++head) {
    const Encoded own(p, side, x, head);
    for_each_spot(p, side, head, [&](const Spot& at) {
      const std::string where = name + at.text();
      const Group& group = groups[at.group];
      const float got = own.value(at);
      const auto error = std::abs(static_cast<double>(got) - static_cast<double>(x[at.value]));
      require(std::isfinite(got), where + " is not finite");
      require(group.range() != 0.0 || error == 0.0, where + ": a constant is not reproduced");
      const double step = group.range() / p.levels();
      require(error <= 0.5 * step + f16_ulp(x[at.value]), where + ": off by more than half a step");
      // Stricter than the case asks: the lower end is exact, the upper one up to its scale's rounding.
      require(x[at.value] != group.low || error == 0.0, where + ": the minimum is not exact");
      const double top = 0.5 * p.levels() * f16_ulp(own.scale(at));
      require(x[at.value] != group.high || error <= top, where + ": the maximum is off");
      if (!is_degenerate(group)) check_healthy(p, official, own, at, x[at.value], group, where);
    });
  }
  return static_cast<int>(std::count_if(groups.begin(), groups.end(), is_degenerate));
}

}  // namespace

std::string run_kivi(const Case& c) {
  const Params p(c);
  Counts n;
  check_side(c, p, Side::key, n);
  check_side(c, p, Side::value, n);
  check_channel_major(c, p);
  const auto text = [](int x) { return std::to_string(x); };
  return p.codec.name() + ": " + text(n.values) + " codes against both runs, " + text(n.one_off) +
         " of " + text(n.undecided) + " undecided ones differ; " + text(n.scales) +
         " scales equal the f32 run's rounded once, " + text(n.scales_one_ulp) +
         " one ulp off the f16 run's; minima exact; decoded values exact, after the f16 run's "
         "roundings "
         "its bits";
}

std::string run_kivi_edge(const Case& c) {
  const Params p(c);
  const int n_k = check_edge_side(c, p, Side::key);
  const int n_v = check_edge_side(c, p, Side::value);
  require(n_k > 0 && n_v > 0, "the case plants no degenerate group");
  return p.codec.name() + ": " + std::to_string(n_k) + " K and " + std::to_string(n_v) +
         " V degenerate groups finite and within half a step, the others as published";
}

}  // namespace kvcodec::golden
