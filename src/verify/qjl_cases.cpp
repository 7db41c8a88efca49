// Families "qjl-inputs" and "qjl": codec "qjl" with given projections against the authors' sign bits,
// outlier channels and norms, and scores of their formula in float64.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/codec/qjl.hpp"
#include "kvcodec/codec/raw.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

constexpr double kScoreBound = 2e-5;  ///< times |q| |k|: "computed from the given bits in fp32"
constexpr double kEmptyBound = 1e-3;  ///< times |q| |k|: the note about keys with k_in = 0
constexpr double kHalfUlp = 0x1p-11;  ///< relative error of a rounding to f16
constexpr double kUndecided = 1e-4;   ///< the rule of the masks, |s.k| < 1e-4 |k|
constexpr double kRoundedSum = 1e-6;  ///< relative error of their fp32 norms

double norm(const float* x, int n) {
  double square = 0.0;
  for (int c = 0; c < n; ++c) square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  return std::sqrt(square);
}

double dot(const float* a, const float* b, int n) {
  double sum = 0.0;
  for (int c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

/// Largest |s_i . s_j / d - (i == j)| over pairs of rows of one piece of head_dim rows.
double orthogonality_error(const float* rows, int n_rows, int d) {
  double worst = 0.0;
  for (int i = 0; i < n_rows; ++i) {
    for (int j = i / d * d; j <= i; ++j) {
      const double product = dot(rows + i * d, rows + j * d, d) / d;
      worst = std::max(worst, std::abs(product - (i == j ? 1.0 : 0.0)));
    }
  }
  return worst;
}

/// Sign bits of rows, least significant bit of the first byte first.
struct Bits {
  std::vector<std::int64_t> bytes;
  int per_row = 0;

  Bits() = default;
  Bits(const Case& c, const std::string& name)
      : bytes(c.array(name).integers()),
        per_row(8 * static_cast<int>(c.array(name).shape.back())) {}
  bool at(std::int64_t row, int i) const {
    return ((bytes[static_cast<std::size_t>((row * per_row + i) / 8)] >> (i % 8)) & 1) != 0;
  }
};

/// The keys and the codec of a case.
struct Sketch {
  explicit Sketch(const Case& c)
      : d(c.parameter<int>("d")),
        m(c.parameter<int>("m")),
        o(c.parameter<int>("outlier_channels")),
        mo(c.parameter<int>("m_outlier")),
        n_heads(c.parameter<int>("kv_heads")),
        keys(c.array("keys").floats()),
        n_tokens(c.array("keys").shape.at(1)),
        s(c.array("S").floats()),
        projection(
            QjlProjection::from_rows(s.data(), static_cast<int>(c.array("S").shape.at(0)), d)) {
    require(c.parameter<int>("group_tokens") == Qjl::kGroupTokens, "group_tokens is not 32");
    require((o == 0) == (mo == 0), "outlier channels without signs, or signs without channels");
    Qjl plain;
    plain.sketch_dim = static_cast<std::int16_t>(m);
    plain.outlier_channels = static_cast<std::int16_t>(o);
    plain.outlier_sketch_dim = static_cast<std::int16_t>(o > 0 ? mo : m);
    plain.kind =
        c.parameter<std::string>("projection") == "gauss" ? QjlKind::gauss : QjlKind::orthogonal;
    codec = plain.with_projection(projection);
  }

  const float* key(int head, std::int64_t token) const {
    return keys.data() + (head * n_tokens + token) * d;
  }
  const float* row(int i) const { return s.data() + static_cast<std::ptrdiff_t>(i) * d; }

  int d, m, o, mo, n_heads;
  std::vector<float> keys;
  std::int64_t n_tokens;
  std::vector<float> s;
  QjlProjection projection;
  Qjl codec;
};

/// One key as a tile stores it, or as a case lists it.
struct StoredKey {
  std::vector<bool> bits, outlier_bits;
  std::vector<int> channels;
  double in_norm = 0.0;
  double out_norm = 0.0;
};

StoredKey stored_key(const Sketch& sketch, const std::byte* tile, int row) {
  const Qjl& codec = sketch.codec;
  StoredKey k;
  for (int i = 0; i < sketch.m; ++i) k.bits.push_back(codec.signs().get(tile, row, i) != 0);
  for (int i = 0; i < sketch.mo; ++i) {
    k.outlier_bits.push_back(
        codec.outlier_signs().get(tile + codec.outlier_sign_offset(), row, i) != 0);
  }
  const std::byte* channels = codec.channels_of(tile, row / codec.set_rows());
  for (int j = 0; j < sketch.o; ++j) k.channels.push_back(static_cast<int>(channels[j]));
  const auto value = [&](std::size_t plane) {
    return static_cast<double>(to_f32(f16{get_scale(tile + plane, row)}));
  };
  k.in_norm = value(codec.norm_offset());
  if (sketch.o > 0) k.out_norm = value(codec.outlier_offset());
  return k;
}

struct Terms {
  double in = 0.0;
  double out = 0.0;
  double sum() const { return in + out; }
};

/// The published formula in float64.
Terms estimate(const Sketch& sketch, const StoredKey& k, const float* q) {
  const double constant = std::sqrt(std::acos(-1.0) / 2.0);
  Terms t;
  for (int i = 0; i < sketch.m; ++i) {
    const float* s = sketch.row(i);
    double out = 0.0;
    for (const int c : k.channels) out += static_cast<double>(s[c]) * static_cast<double>(q[c]);
    const double in = dot(s, q, sketch.d) - out;
    t.in += k.bits[static_cast<std::size_t>(i)] ? in : -in;
    if (i < sketch.mo) t.out += k.outlier_bits[static_cast<std::size_t>(i)] ? out : -out;
  }
  t.in *= constant / sketch.m * k.in_norm;
  t.out *= sketch.mo > 0 ? constant / sketch.mo * k.out_norm : 0.0;
  return t;
}

/// The encoded keys of all heads: tiles [head][64 tokens each].
std::vector<std::vector<std::byte>> encode_all(const Sketch& sketch, std::int64_t n_encoded) {
  require(n_encoded % kTileRows == 0, "encoded keys do not fill tiles");
  std::vector<std::vector<std::byte>> tiles;
  for (int head = 0; head < sketch.n_heads; ++head) {
    for (std::int64_t first = 0; first < n_encoded; first += kTileRows) {
      tiles.emplace_back(sketch.codec.tile_bytes(sketch.d));
      require(backend().encode_tile(sketch.codec, Side::key, sketch.d, sketch.key(head, first),
                                    tiles.back().data()),
              "finite keys were refused");
    }
  }
  return tiles;
}

/// What a case expects of its encoded keys.
struct Expected {
  Expected(const Case& c, const Sketch& sketch)
      : bits(c, "key_bits"),
        undecided(c, "undecided_fp32"),
        key_norm(c.array("key_norm").floats()),
        outlier_norm(c.array("outlier_norm").floats()),
        n(c.parameter<std::int64_t>("quantized_tokens")) {
    if (sketch.o == 0) return;
    outlier_bits = Bits(c, "outlier_bits");
    undecided_outlier = Bits(c, "undecided_outlier_fp32");
    channels = c.array("outlier_idx_sorted").integers();
    by_energy = c.array("outlier_idx").integers();
  }

  /// The key with the norms as f32; |k_in| is what is left of |k|.
  StoredKey key(const Sketch& sketch, std::int64_t row) const {
    StoredKey k;
    for (int i = 0; i < sketch.m; ++i) k.bits.push_back(bits.at(row, i));
    for (int i = 0; i < sketch.mo; ++i) k.outlier_bits.push_back(outlier_bits.at(row, i));
    for (int j = 0; j < sketch.o; ++j) {
      k.channels.push_back(
          static_cast<int>(channels[static_cast<std::size_t>(row / 32 * sketch.o + j)]));
    }
    const auto all = static_cast<double>(key_norm[static_cast<std::size_t>(row)]);
    k.out_norm = static_cast<double>(outlier_norm[static_cast<std::size_t>(row)]);
    k.in_norm = std::sqrt(std::max(0.0, all * all - k.out_norm * k.out_norm));
    return k;
  }

  Bits bits, undecided, outlier_bits, undecided_outlier;
  std::vector<float> key_norm, outlier_norm;
  std::vector<std::int64_t> channels, by_energy;
  std::int64_t n;
};

std::string where(int head, std::int64_t token) {
  return " of head " + std::to_string(head) + " token " + std::to_string(token);
}

void require_bits(const std::string& what, const std::vector<bool>& got, const Bits& expected,
                  const Bits& undecided, std::int64_t row, int* n_flips) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected.at(row, static_cast<int>(i))) continue;
    ++*n_flips;
    require(undecided.at(row, static_cast<int>(i)), what + ": sign " + std::to_string(i));
  }
}

/// Official order: descending energy, the same set as the ascending list and as ours.
void require_channels(const Sketch& sketch, const Expected& e, const StoredKey& got, int head,
                      std::int64_t token, std::int64_t row) {
  const auto first = static_cast<std::ptrdiff_t>(row / 32 * sketch.o);
  std::vector<std::int64_t> order(e.by_energy.begin() + first,
                                  e.by_energy.begin() + first + sketch.o);
  double last = INFINITY;
  for (const std::int64_t c : order) {
    require(c >= 0 && c < sketch.d, "outlier_idx is no channel");
    double energy = 0.0;
    for (std::int64_t t = token / 32 * 32; t < token / 32 * 32 + 32; ++t) {
      const auto x = static_cast<double>(sketch.key(head, t)[c]);
      energy += x * x;
    }
    require(energy <= last, "outlier_idx is not in the order of energies");
    last = energy;
  }
  std::sort(order.begin(), order.end());
  for (int j = 0; j < sketch.o; ++j) {
    const auto at = static_cast<std::size_t>(j);
    require(got.channels[at] == e.channels[static_cast<std::size_t>(first) + at] &&
                got.channels[at] == order[at],
            "outlier channels" + where(head, token));
  }
}

void require_norms(const Sketch& sketch, const Expected& e, const StoredKey& got, int head,
                   std::int64_t token, std::int64_t row) {
  const auto all = static_cast<double>(e.key_norm[static_cast<std::size_t>(row)]);
  const auto out = static_cast<double>(e.outlier_norm[static_cast<std::size_t>(row)]);
  const auto close = [](double a, double b) {
    return std::abs(a - b) <= (kHalfUlp + kRoundedSum) * b + 0x1p-25;
  };
  require(close(got.out_norm, out), "outlier_norm" + where(head, token));
  require(close(std::hypot(got.in_norm, got.out_norm), all), "key_norm" + where(head, token));
  std::vector<float> in(sketch.key(head, token), sketch.key(head, token) + sketch.d);
  for (const int c : got.channels) in[static_cast<std::size_t>(c)] = 0.0f;
  require(close(got.in_norm, norm(in.data(), sketch.d)), "|k_in|" + where(head, token));
}

/// Largest errors of scores, relative to |q| |k|.
struct ScoreErrors {
  double ours = 0.0;     ///< the codec, with f16 norms of both parts
  double release = 0.0;  ///< the fp16 release, which subtracts squares of f16 norms
};

/// Scores of one KV head: codec, float64 formula and decoded rows.
class ScoreCheck {
 public:
  ScoreCheck(const Case& c, const Sketch& sketch)
      : sketch_(sketch),
        queries_(c.array("queries").floats()),
        score_(c.array("score").floats()),
        score_f16_(c.array("score_f16norms").floats()),
        n_(c.parameter<std::int64_t>("quantized_tokens")),
        n_q_(c.parameter<int>("gqa_ratio") * static_cast<int>(c.array("queries").shape.at(1))) {}

  void tile(int head, std::int64_t first, const std::byte* tile, const Expected& e) {
    const Qjl& codec = sketch_.codec;
    const int d = sketch_.d;
    const int width = codec.query_width(d);
    const float* q = queries_.data() + static_cast<std::ptrdiff_t>(head) * n_q_ * d;
    std::vector<float> prepared(static_cast<std::size_t>(n_q_ * width));
    for (int i = 0; i < n_q_; ++i) codec.prepare_query(d, q + i * d, prepared.data() + i * width);
    std::vector<float> scores(static_cast<std::size_t>(n_q_ * kTileRows));
    codec.score_tile(d, tile, 0, prepared.data(), n_q_, scores.data());
    std::vector<float> decoded(static_cast<std::size_t>(kTileRows * d));
    backend().decode_tile(codec, Side::key, d, tile, decoded.data());
    for (int row = 0; row < kTileRows; ++row) {
      const StoredKey own = stored_key(sketch_, tile, row);
      const StoredKey theirs = e.key(sketch_, head * n_ + first + row);
      const double k_norm = norm(sketch_.key(head, first + row), d);
      for (int i = 0; i < n_q_; ++i) {
        const float* query = q + i * d;
        const auto at = static_cast<std::size_t>((head * n_q_ + i) * n_ + first + row);
        one(own, theirs, query, norm(query, d) * k_norm, where(head, first + row),
            static_cast<double>(scores[static_cast<std::size_t>(i * kTileRows + row)]),
            dot(query, decoded.data() + row * d, d), static_cast<double>(score_[at]),
            static_cast<double>(score_f16_[at]));
      }
    }
  }
  const ScoreErrors& errors() const { return errors_; }

 private:
  void one(const StoredKey& own, const StoredKey& theirs, const float* q, double size,
           const std::string& text, double got, double decoded, double score, double score_f16) {
    const Terms expected = estimate(sketch_, theirs, q);
    const Terms with_own = estimate(sketch_, own, q);
    StoredKey own_bits = own;
    own_bits.in_norm = theirs.in_norm;
    own_bits.out_norm = theirs.out_norm;
    const double flipped = std::abs(estimate(sketch_, own_bits, q).sum() - expected.sum());
    const bool empty = theirs.in_norm < 1e-3 * theirs.out_norm;
    const double bound = (empty ? kEmptyBound : kScoreBound) * size + 1e-30;
    require(std::abs(score - expected.sum()) <= bound, "score" + text + " is not the formula's");
    require(std::abs(got - with_own.sum()) <= kScoreBound * size + 1e-30,
            "score" + text + " is not the formula of what the tile stores");
    require(std::abs(got - decoded) <= kScoreBound * size + 1e-30,
            "score" + text + " is not the product with the decoded key");
    const double rounded = kHalfUlp * (std::abs(expected.in) + std::abs(expected.out));
    require(std::abs(got - score) <= bound + 1.01 * rounded + flipped,
            "score" + text + ": " + number_text(got) + ", expected " + number_text(score));
    // What the fp16 release computes, for comparison; NaN where its difference is negative.
    StoredKey release = theirs;
    const auto f16_of = [](double x) {
      return static_cast<double>(to_f32(to_f16(static_cast<float>(x))));
    };
    const double all = f16_of(std::hypot(theirs.in_norm, theirs.out_norm));
    release.out_norm = f16_of(theirs.out_norm);
    release.in_norm = std::sqrt(all * all - release.out_norm * release.out_norm);
    const double release_score = estimate(sketch_, release, q).sum();
    require(empty || std::abs(release_score - score_f16) <= kScoreBound * size + 1e-30 ||
                (std::isnan(release_score) && std::isnan(score_f16)),
            "score_f16norms" + text);
    if (size == 0.0 || empty) return;
    errors_.ours = std::max(errors_.ours, std::abs(got - score) / size);
    errors_.release = std::max(errors_.release, std::abs(score_f16 - score) / size);
  }

  const Sketch& sketch_;
  std::vector<float> queries_, score_, score_f16_;
  std::int64_t n_;
  int n_q_;
  ScoreErrors errors_;
};

/// Appends the keys to a cache as the case does and returns the tiles [head][tile] that result.
std::vector<std::vector<std::byte>> append_all(const Case& c, const Sketch& sketch) {
  const std::vector<std::int64_t> lengths = c.array("lengths").integers();
  const auto buffer = c.parameter<std::int64_t>("buffer");
  CacheConfig config;
  config.shape = {sketch.n_heads, sketch.n_heads, sketch.d};
  config.layers.resize(1);
  config.layers[0].k.codec = sketch.codec;
  config.layers[0].v.codec = RawF16{};
  config.layers[0].n_recent = 1;
  config.max_tokens = c.parameter<std::int64_t>("final_tokens");
  Cache cache(config);
  const SeqId seq = cache.open();
  ViewBuffers buffers;
  KvView view;
  std::int64_t done = 0;
  for (std::size_t step = 0; 3 * step < lengths.size(); ++step) {
    const std::int64_t tokens = lengths[3 * step];
    require(tokens == (step == 0 ? c.parameter<std::int64_t>("prefill_tokens_T0") : done + 1),
            "lengths: tokens of step " + std::to_string(step));
    // The release encodes whole buffers, ours whole tiles as soon as one newer token exists.
    require(lengths[3 * step + 1] == tokens / buffer * buffer &&
                lengths[3 * step + 2] == tokens % buffer,
            "lengths: parts of step " + std::to_string(step));
    const Rows<float> rows{sketch.keys.data() + done * sketch.d, tokens - done, sketch.d,
                           sketch.n_tokens * sketch.d};
    cache.append(seq, 0, rows, rows);
    done = tokens;
    view = cache.view(0, {&seq, 1}, buffers);
    const std::int64_t encoded = view.encoded_rows(0);
    require(encoded == (tokens - 1) / kTileRows * kTileRows &&
                encoded + view.recent[0].n_rows == tokens,
            "rows of the cache after " + std::to_string(tokens) + " tokens");
  }
  require(view.encoded_rows(0) == lengths[lengths.size() - 2], "encoded keys at the end");
  std::vector<std::vector<std::byte>> tiles;
  for (int head = 0; head < sketch.n_heads; ++head) {
    for (std::int64_t row = 0; row < view.encoded_rows(head); row += kTileRows) {
      const std::byte* tile =
          view.format.k_tile(view.page_data(view.page_of(head, row)), 0, 0).tile;
      tiles.emplace_back(tile, tile + sketch.codec.tile_bytes(sketch.d));
    }
  }
  return tiles;
}

}  // namespace

std::string run_qjl_inputs(const Case& c) {
  std::string text;
  for (const int d : {64, 128}) {
    const std::string size = "_d" + std::to_string(d);
    const std::vector<float> orth = c.array("S_orth" + size).floats();
    const std::vector<float> gauss = c.array("S_gauss" + size).floats();
    const auto n = static_cast<int>(c.array("S_orth" + size).shape.at(0));
    const double given = orthogonality_error(orth.data(), n, d);
    const double stated = c.check<double>("orthogonality_error" + size);
    require(given < 2.0 * stated, "S_orth" + size + " is less orthogonal than stated");
    double square = 0.0;
    for (const float x : gauss) square += static_cast<double>(x) * static_cast<double>(x);
    const double mean = square / static_cast<double>(gauss.size());
    require(std::abs(mean - 1.0) < 0.05, "S_gauss" + size + ": mean square " + number_text(mean));
    // Ours is at least as orthogonal as the authors', which goes through f32.
    const QjlProjection& own = QjlProjection::shared(1, n, d, QjlKind::orthogonal);
    const double ours = orthogonality_error(own.tables().rows, n, d);
    require(ours <= given, "our projection is less orthogonal: " + number_text(ours));
    // The planted keys: a zero key has no positive projection, its norm and scores are zero.
    const std::vector<float> keys = c.array("keys" + size).floats();
    const Qjl codec = Qjl{}.with_projection(QjlProjection::shared(1, 256, d, QjlKind::orthogonal));
    std::vector<std::byte> tile(codec.tile_bytes(d));
    require(backend().encode_tile(codec, Side::key, d, keys.data(), tile.data()),
            "finite keys were refused");
    for (int i = 0; i < codec.sketch_dim; ++i) {
      require(codec.signs().get(tile.data(), 5, i) == 0, "a zero projection must be a zero bit");
    }
    require(get_scale(tile.data() + codec.norm_offset(), 5) == 0, "norm of the zero key");
    text += (text.empty() ? "" : ", ") + std::string("d ") + std::to_string(d) +
            ": off orthogonal by " + number_text(given) + ", our S by " + number_text(ours);
  }
  return text;
}

std::string run_qjl_scores(const Case& c) {
  const Sketch sketch(c);
  const Expected expected(c, sketch);
  const auto tiles = encode_all(sketch, expected.n);
  ScoreCheck scores(c, sketch);
  int n_flips = 0;
  std::size_t next = 0;
  for (int head = 0; head < sketch.n_heads; ++head) {
    for (std::int64_t first = 0; first < expected.n; first += kTileRows) {
      const std::byte* tile = tiles[next++].data();
      for (int i = 0; i < kTileRows; ++i) {
        const std::int64_t token = first + i;
        const std::int64_t row = head * expected.n + token;
        const StoredKey got = stored_key(sketch, tile, i);
        require_bits("key_bits" + where(head, token), got.bits, expected.bits, expected.undecided,
                     row, &n_flips);
        if (sketch.o > 0) {
          require_bits("outlier_bits" + where(head, token), got.outlier_bits, expected.outlier_bits,
                       expected.undecided_outlier, row, &n_flips);
          require_channels(sketch, expected, got, head, token, row);
        }
        require_norms(sketch, expected, got, head, token, row);
      }
      scores.tile(head, first, tile, expected);
    }
  }
  return sketch.codec.name() + ", " + std::to_string(n_flips) +
         " signs differ; largest score error / |q||k| " + number_text(scores.errors().ours) +
         ", fp16 release " + number_text(scores.errors().release);
}

std::string run_qjl_append(const Case& c) {
  const Sketch sketch(c);
  const auto tiles = append_all(c, sketch);
  const Bits bits(c, "key_bits");
  const std::vector<std::int64_t> channels = c.array("outlier_idx_sorted").integers();
  const auto n = static_cast<std::int64_t>(c.array("key_bits").shape.at(1));
  require(tiles == encode_all(sketch, n), "appended tiles differ from tiles encoded at once");
  int n_flips = 0;
  for (std::int64_t row = 0; row < sketch.n_heads * n; ++row) {
    const auto head = static_cast<int>(row / n);
    const StoredKey got =
        stored_key(sketch, tiles[static_cast<std::size_t>(row / kTileRows)].data(),
                   static_cast<int>(row % kTileRows));
    for (int j = 0; j < sketch.o; ++j) {
      require(got.channels[static_cast<std::size_t>(j)] ==
                  channels[static_cast<std::size_t>(row / 32 * sketch.o + j)],
              "outlier channels" + where(head, row % n));
    }
    std::vector<float> in(sketch.key(head, row % n), sketch.key(head, row % n) + sketch.d);
    for (const int channel : got.channels) in[static_cast<std::size_t>(channel)] = 0.0f;
    for (int i = 0; i < sketch.m; ++i) {
      if (got.bits[static_cast<std::size_t>(i)] == bits.at(row, i)) continue;
      ++n_flips;
      require(std::abs(dot(sketch.row(i), in.data(), sketch.d)) <
                  kUndecided * norm(in.data(), sketch.d),
              "key_bits" + where(head, row % n) + ": sign " + std::to_string(i));
    }
  }
  return sketch.codec.name() + ", " + std::to_string(n) + " of " +
         std::to_string(c.parameter<int>("final_tokens")) + " keys encoded, " +
         std::to_string(n_flips) + " signs differ";
}

}  // namespace kvcodec::golden
