// Family "wkvquant": codec "wkv" on rows that were shifted and scaled per channel, scores with the
// scale folded into the query, and past-only attention over the codec's pages.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/codec/affine_token.hpp"
#include "kvcodec/codec/raw.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/dense_pages.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// Shape and parameters of a case. Arrays of rows are [n_tokens, n_kv_heads, head_dim].
struct Params {
  explicit Params(const Case& c)
      : shape{c.parameter<std::int32_t>("query_heads"), c.parameter<std::int32_t>("kv_heads"),
              c.parameter<std::int32_t>("head_dim")},
        n_prompt(c.parameter<std::int64_t>("prompt_tokens")),
        n_steps(c.parameter<std::int64_t>("decode_steps")),
        epsilon(c.parameter<double>("epsilon")),
        q(c.array("q").floats()),
        out_bound(c.absolute_tolerances("past_only_out").at(0)) {
    check(shape);
    codec.bits = c.parameter<std::int32_t>("bits");
    codec.group = c.parameter<std::int32_t>("group_channels_G");
    codec.clip = c.parameter<float>("clip_kappa");
    require(codec.supports(shape.head_dim) && codec.bits != 3, "parameters: not a case of wkv");
    require(n_tokens() <= kTileRows, "more tokens than one tile holds");
    const double floor = static_cast<double>(AffineToken::kSmallestScale) * levels();
    require(epsilon == floor, "epsilon is not the smallest step times the number of steps");
  }

  std::int64_t n_tokens() const noexcept { return n_prompt + n_steps; }
  double levels() const noexcept { return (1 << codec.bits) - 1; }
  double sm_scale() const { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }
  std::int64_t kv_width() const noexcept { return std::int64_t{shape.n_kv_heads} * shape.head_dim; }
  std::int64_t q_width() const noexcept { return std::int64_t{shape.n_q_heads} * shape.head_dim; }
  /// Query tokens are the last prompt tokens, then the decode steps.
  std::int64_t n_prefill() const {
    return static_cast<std::int64_t>(q.size()) / q_width() - n_steps;
  }

  AffineToken codec;
  HeadShape shape;
  std::int64_t n_prompt, n_steps;
  double epsilon;
  std::vector<float> q;
  double out_bound;
};

/// K or V of a case: the rows, what the static part makes of them, and the expected bytes.
struct Rows {
  Rows(const Case& c, const Params& p, Side which)
      : side(which),
        name(kvcodec::to_string(which)),
        x(c.array(name).floats()),
        delta(c.array("delta_" + name).floats()),
        s(c.array("s_" + name).floats()),
        codes(c.array(name + "_codes").integers()),
        h(c.array(name + "_h").floats()),
        lo(c.array(name + "_lo").floats()),
        dequant(c.array(name + "_dequant").floats()),
        undecided(c.array(name + "_undecided").integers()),
        n_constant(c.check<int>(name + "_constant_groups")),
        width(static_cast<std::size_t>(p.kv_width())) {
    const std::size_t n_groups = codes.size() / static_cast<std::size_t>(p.codec.group);
    require(x.size() == width * static_cast<std::size_t>(p.n_tokens()) &&
                codes.size() == x.size() && h.size() == n_groups && lo.size() == n_groups &&
                dequant.size() == x.size() && delta.size() == width && s.size() == width,
            name + ": arrays and parameters disagree about the number of rows");
    for (std::size_t i = 0; i < x.size(); ++i)
      y.push_back((x[i] - delta[i % width]) / s[i % width]);
  }

  Side side;
  std::string name;
  std::vector<float> x, delta, s;
  std::vector<std::int64_t> codes;
  std::vector<float> h, lo, dequant;
  std::vector<std::int64_t> undecided;
  int n_constant;
  std::size_t width;
  std::vector<float> y;  ///< (x - delta) / s
};

/// Where things of (token, head, channel) are: in the case's arrays and in the tile of the head.
struct Spot {
  Spot(const Params& p, std::int64_t token, int head, int channel_) noexcept
      : row(static_cast<int>(token)),
        channel(channel_),
        value(static_cast<std::size_t>((token * p.shape.n_kv_heads + head) * p.shape.head_dim +
                                       channel_)),
        group(value / static_cast<std::size_t>(p.codec.group)),
        scale(p.codec.scale_offset(p.shape.head_dim, channel_ / p.codec.group)),
        zero(p.codec.zero_offset(p.shape.head_dim, channel_ / p.codec.group)) {}

  int row, channel;
  std::size_t value, group;  ///< in [n_tokens, n_kv_heads, head_dim], [.., head_dim / G]
  std::size_t scale, zero;   ///< offsets of planes in a tile
  std::string text() const { return "[" + std::to_string(value) + "]"; }
};

template <class F>
void for_each_spot(const Params& p, int head, F&& fn) {
  for (std::int64_t token = 0; token < p.n_tokens(); ++token) {
    for (int c = 0; c < p.shape.head_dim; ++c) fn(Spot(p, token, head, c));
  }
}

/// y of one head as a tile of f32, unused rows zero.
std::vector<float> tile_input(const Params& p, const Rows& rows, int head) {
  std::vector<float> x(static_cast<std::size_t>(kTileRows * p.shape.head_dim), 0.0f);
  for_each_spot(p, head, [&](const Spot& at) {
    x[static_cast<std::size_t>(at.row * p.shape.head_dim + at.channel)] = rows.y[at.value];
  });
  return x;
}

/// The codec's own tile against codes, h and lo. Returns how many h and lo were one ulp off.
int check_encoded(const Params& p, const Rows& rows, int head) {
  const int d = p.shape.head_dim;
  const TileLayout layout{rows.side, p.codec.bits, d};
  std::vector<std::byte> tile(p.codec.tile_bytes(d));
  std::vector<float> decoded(static_cast<std::size_t>(kTileRows * d));
  require(
      backend().encode_tile(p.codec, rows.side, d, tile_input(p, rows, head).data(), tile.data()),
      "finite input was refused");
  backend().decode_tile(p.codec, rows.side, d, tile.data(), decoded.data());
  int n_off = 0;
  for_each_spot(p, head, [&](const Spot& at) {
    const float h = to_f32(f16{get_scale(tile.data() + at.scale, at.row)});
    const float lo = to_f32(f16{get_scale(tile.data() + at.zero, at.row)});
    const float want_h = rows.h[at.group];
    const float want_lo = rows.lo[at.group];
    require(f16_ulps_apart(h, want_h) <= 1, rows.name + "_h of " + at.text());
    require(f16_ulps_apart(lo, want_lo) <= 1, rows.name + "_lo of " + at.text());
    const bool same = h == want_h && lo == want_lo;
    if (at.channel % p.codec.group == 0 && !same) ++n_off;

    const float y = rows.y[at.value];
    const float got = decoded[static_cast<std::size_t>(at.row * d + at.channel)];
    const auto error = std::abs(static_cast<double>(got) - static_cast<double>(y));
    if (want_h == AffineToken::kSmallestScale) {  // a constant group: its codes are not checked
      require(error <= f16_ulp(want_lo) + p.epsilon,
              rows.name + " constant group, value " + at.text());
      return;
    }
    const std::uint32_t own = layout.get(tile.data(), at.row, at.channel);
    const std::uint32_t code =
        same ? own
             : affine_code(y, want_h, want_lo, static_cast<float>(p.levels()));  // as the case says
    const std::int64_t off = std::abs(static_cast<std::int64_t>(code) - rows.codes[at.value]);
    require(off <= (rows.undecided[at.value] != 0 ? 1 : 0),
            rows.name + "_codes" + at.text() + " = " + std::to_string(code) + ", expected " +
                std::to_string(rows.codes[at.value]));
    // The level nearest to y, unless y lies beyond the ends that the clip left.
    const auto top = static_cast<std::uint32_t>(p.levels());
    const bool inside = own != 0 && own != top;
    require(!inside || error <= 0.5001 * static_cast<double>(h),
            rows.name + at.text() + " is not the nearest level");
  });
  return n_off;
}

/// The case's own codes, h and lo, written into a tile, decoded and taken out of scaled units.
double check_decoded(const Params& p, const Rows& rows, int head) {
  const int d = p.shape.head_dim;
  const TileLayout layout{rows.side, p.codec.bits, d};
  std::vector<std::byte> tile(p.codec.tile_bytes(d));
  for_each_spot(p, head, [&](const Spot& at) {
    const std::int64_t code = rows.codes[at.value];
    require(code >= 0 && static_cast<double>(code) <= p.levels(),
            rows.name + "_codes" + at.text() + " is no code");
    layout.put(tile.data(), at.row, at.channel, static_cast<std::uint32_t>(code));
    put_scale(tile.data() + at.scale, at.row, to_f16(rows.h[at.group]).bits);
    put_scale(tile.data() + at.zero, at.row, to_f16(rows.lo[at.group]).bits);
  });
  std::vector<float> decoded(static_cast<std::size_t>(kTileRows * d));
  backend().decode_tile(p.codec, rows.side, d, tile.data(), decoded.data());
  double worst = 0.0;
  for_each_spot(p, head, [&](const Spot& at) {
    const float y = decoded[static_cast<std::size_t>(at.row * d + at.channel)];
    const float s = rows.s[at.value % rows.width];
    const float delta = rows.delta[at.value % rows.width];
    const auto got = static_cast<double>(s * y + delta);
    const double scale = static_cast<double>(std::abs(delta) + s * std::abs(y));
    const double error = std::abs(got - static_cast<double>(rows.dequant[at.value]));
    require(error <= 2e-6 * scale, rows.name + "_dequant" + at.text() + " = " + number_text(got));
    worst = std::max(worst, error / scale);
  });
  return worst;
}

struct BytesCheck {
  int n_off = 0;
  double worst = 0.0;
};

void check_bytes(const Params& p, const Rows& rows, BytesCheck& result) {
  int n_constant = 0;
  for (const float h : rows.h) n_constant += h == AffineToken::kSmallestScale ? 1 : 0;
  require(n_constant == rows.n_constant, rows.name + ": another number of constant groups");
  for (int head = 0; head < p.shape.n_kv_heads; ++head) {
    result.n_off += check_encoded(p, rows, head);
    result.worst = std::max(result.worst, check_decoded(p, rows, head));
  }
}

/// Everything attention needs, in scaled units: K and V rows and the queries times s_k.
struct Scaled {
  Scaled(const Params& params, const Rows& k_rows, const Rows& v_rows)
      : p(params), k(k_rows), v(v_rows), q(params.q) {
    const auto d = static_cast<std::size_t>(p.shape.head_dim);
    for (std::size_t i = 0; i < q.size(); ++i) {
      const std::size_t q_head = i / d % static_cast<std::size_t>(p.shape.n_q_heads);
      q[i] *= k.s[q_head / static_cast<std::size_t>(p.shape.gqa_group()) * d + i % d];
    }
  }

  /// Attention of query tokens first .. first + n - 1, the first of them at position `pos`, over
  /// `n_rows` stored tokens, `raw` of which are not encoded. `fresh`: the query tokens' own K and V
  /// are handed over beside the stored ones. out [n, n_q_heads, head_dim], in the case's units.
  std::vector<float> attend_rows(const AnyCodec& codec, std::int64_t n_rows, RawPart raw,
                                 std::int64_t first, std::int64_t n, std::int64_t pos,
                                 bool fresh) const {
    const DensePages pages({p.shape, k.y.data(), v.y.data(), {0, n_rows}}, codec, codec, raw);
    const std::int64_t indptr[] = {0, n};
    std::vector<std::int32_t> positions;
    for (std::int64_t i = 0; i < n; ++i) positions.push_back(static_cast<std::int32_t>(pos + i));
    Queries queries;
    queries.q = q.data() + first * p.q_width();
    queries.indptr = indptr;
    queries.pos = positions.data();
    if (fresh) {
      queries.k_new = k.y.data() + pos * p.kv_width();
      queries.v_new = v.y.data() + pos * p.kv_width();
    }
    AttendOptions options;
    options.sm_scale = static_cast<float>(p.sm_scale());
    std::vector<float> out(static_cast<std::size_t>(n * p.q_width()), NAN);
    const Status status = backend().attend(pages.view(), queries, out.data(), nullptr, options);
    require(status == Status::ok, std::string("attend: ") + kvcodec::to_string(status));
    const auto d = static_cast<std::size_t>(p.shape.head_dim);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t q_head = i / d % static_cast<std::size_t>(p.shape.n_q_heads);
      const std::size_t at = q_head / static_cast<std::size_t>(p.shape.gqa_group()) * d + i % d;
      out[i] = v.s[at] * out[i] + v.delta[at];  // the weights add up to 1
    }
    return out;
  }

  const Params& p;
  const Rows& k;
  const Rows& v;
  std::vector<float> q;
};

double check_outputs(const Case& c, const Scaled& x) {
  const Params& p = x.p;
  const auto close = [&](const std::string& name, const std::vector<float>& got) {
    const std::vector<float> want = c.array(name).floats();
    const double bound = p.out_bound + backend().out_error() * root_mean_square(want);
    return compare(name, got.size(), got, want, [&](std::size_t) { return bound; });
  };
  const auto steps = [&](const auto& step) {
    std::vector<float> all;
    for (std::int64_t j = 0; j < p.n_steps; ++j) {
      const std::vector<float> one = step(p.n_prefill() + j, p.n_prompt + j);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  };
  const RawPart window{0, kTileRows};  // nothing has left it yet
  const std::int64_t n = p.n_prefill();
  // The prompt attends to itself while it is still raw.
  const double worst[] = {
      close("prefill_out", x.attend_rows(p.codec, p.n_prompt, window, 0, n, p.n_prompt - n, false)),
      close("full_precision_out", steps([&](std::int64_t first, std::int64_t pos) {
              return x.attend_rows(RawF32{}, pos, {}, first, 1, pos, true);
            })),
      close("past_only_out", steps([&](std::int64_t first, std::int64_t pos) {
              return x.attend_rows(p.codec, pos, {}, first, 1, pos, true);
            })),
      close("append_then_read_out", steps([&](std::int64_t first, std::int64_t pos) {
              return x.attend_rows(p.codec, pos + 1, {}, first, 1, pos, false);
            }))};
  return *std::max_element(std::begin(worst), std::end(worst));
}

/// Scores of one tile of K rows with the queries of the decode steps that read this head.
std::vector<float> scores_of(const Scaled& x, const AnyCodec& codec, int head, const float* q,
                             int n_q) {
  const int d = x.p.shape.head_dim;
  std::vector<std::byte> tile(codec.tile_bytes(d));
  backend().encode_tile(codec, Side::key, d, tile_input(x.p, x.k, head).data(), tile.data());
  std::vector<float> scores(static_cast<std::size_t>(n_q * kTileRows));
  codec.functions().score_tile(codec.value(), d, tile.data(), 0, q, n_q, scores.data());
  return scores;
}

/// folded_logits by the codec's scores; with dropped_constant they are the logits of dequantized
/// keys and unscaled queries.
double check_logits(const Case& c, const Scaled& x) {
  const Params& p = x.p;
  const std::vector<float> folded = c.array("folded_logits").floats();
  const std::vector<float> dropped = c.array("dropped_constant").floats();
  const int group = p.shape.gqa_group();
  double worst = 0.0;
  std::size_t at = 0;
  for (std::int64_t j = 0; j < p.n_steps; ++j) {
    for (int q_head = 0; q_head < p.shape.n_q_heads; ++q_head) {
      const auto d = static_cast<std::size_t>(p.shape.head_dim);
      const std::size_t kv = static_cast<std::size_t>(q_head / group) * d;
      const auto q_at = static_cast<std::size_t>((p.n_prefill() + j) * p.q_width()) +
                        static_cast<std::size_t>(q_head) * d;
      const std::vector<float> past = scores_of(x, p.codec, q_head / group, x.q.data() + q_at, 1);
      const std::vector<float> now = scores_of(x, RawF32{}, q_head / group, x.q.data() + q_at, 1);
      double constant = 0.0;
      for (std::size_t i = 0; i < d; ++i) {
        constant += static_cast<double>(p.q[q_at + i]) * static_cast<double>(x.k.delta[kv + i]);
      }
      constant *= p.sm_scale();
      const std::size_t step =
          static_cast<std::size_t>(j) * static_cast<std::size_t>(p.shape.n_q_heads) +
          static_cast<std::size_t>(q_head);
      const auto expected_constant = static_cast<double>(dropped.at(step));
      require(std::abs(constant - expected_constant) <= p.out_bound,
              "dropped_constant[" + std::to_string(step) + "] = " + number_text(constant));
      for (std::int64_t token = 0; token < p.n_tokens(); ++token, ++at) {
        const std::int64_t current = p.n_prompt + j;
        const auto row = static_cast<std::size_t>(token);
        const double logit =
            token > current
                ? 0.0
                : static_cast<double>(token == current ? now[row] : past[row]) * p.sm_scale();
        const auto expected = static_cast<double>(folded.at(at));
        require(std::abs(logit - expected) <= (token > current ? 0.0 : p.out_bound),
                "folded_logits[" + std::to_string(at) + "] = " + number_text(logit) +
                    ", expected " + number_text(expected));
        worst = std::max(worst, std::abs(logit - expected));
        if (token >= current) continue;
        double plain = 0.0;
        for (std::size_t i = 0; i < d; ++i) {
          plain += static_cast<double>(p.q[q_at + i]) *
                   static_cast<double>(x.k.dequant[row * x.k.width + kv + i]);
        }
        require(std::abs(plain * p.sm_scale() - expected - expected_constant) <= 2 * p.out_bound,
                "folded_logits + dropped_constant of " + std::to_string(at) +
                    " are not the logits of dequantized keys");
      }
    }
  }
  require(at == folded.size(), "folded_logits: another number of entries");
  return worst;
}

}  // namespace

std::string run_wkvquant(const Case& c) {
  const Params p(c);
  const Rows k(c, p, Side::key);
  const Rows v(c, p, Side::value);
  BytesCheck bytes;
  check_bytes(p, k, bytes);
  check_bytes(p, v, bytes);
  const Scaled scaled(p, k, v);
  const double logits = check_logits(c, scaled);
  const double outputs = check_outputs(c, scaled);
  return p.codec.name() + ": codes, " + std::to_string(k.h.size() + v.h.size()) + " groups with " +
         std::to_string(bytes.n_off) + " one ulp off, values within " + number_text(bytes.worst) +
         ", logits " + number_text(logits) + ", outputs " + number_text(outputs);
}

}  // namespace kvcodec::golden
