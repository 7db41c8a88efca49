// Family "spindle": budgets, window scores, selections, the greedy cover, tiles and decode look-ups.
#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/policy/observe.hpp"
#include "kvcodec/policy/spindle.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

using Floats = std::vector<float>;
using Integers = std::vector<std::int64_t>;

void require_same(const std::string& what, const Integers& got, const Integers& expected) {
  require(got.size() == expected.size(), what + ": " + std::to_string(got.size()) +
                                             " values, expected " +
                                             std::to_string(expected.size()));
  for (std::size_t i = 0; i < got.size(); ++i) {
    require(got[i] == expected[i], what + "[" + std::to_string(i) +
                                       "] = " + std::to_string(got[i]) + ", expected " +
                                       std::to_string(expected[i]));
  }
}

template <class T>
Integers integers_of(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

double norm_of(const float* x, std::int64_t n) {
  double square = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return std::sqrt(square);
}

/// The prompt of a case, and what its parameters say.
struct Prompt {
  explicit Prompt(const Case& c)
      : l(c.parameter<int>("prompt_tokens_l")),
        window(c.parameter<int>("window_lw")),
        context(c.parameter<int>("context_lc")),
        n_kv_heads(c.parameter<int>("kv_heads")),
        n_q_heads(c.parameter<int>("query_heads")),
        head_dim(c.parameter<int>("head_dim")),
        layer(c.parameter<int>("layer_lambda")),
        n_layers(c.parameter<int>("layers_m")),
        k_pre(c.array("k_pre").floats()),
        k_rot(c.array("k_rot").floats()),
        v(c.array("v").floats()),
        q(c.array("q_window").floats()) {
    policy = SpindlePyramid::parse("r" + c.parameter<std::string>("keep_ratio_r") + ":w" +
                                   std::to_string(window));
    policy.beta = c.parameter<double>("beta");
    require(context == l - window && n_q_heads % n_kv_heads == 0,
            "the parameters of the prompt contradict each other");
  }

  int group() const { return n_q_heads / n_kv_heads; }
  /// Row `token` of KV head `head` in k_pre, k_rot or v.
  const float* row(const Floats& x, std::int64_t head, std::int64_t token) const {
    return x.data() + (head * l + token) * head_dim;
  }

  int l, window, context, n_kv_heads, n_q_heads, head_dim, layer, n_layers;
  Floats k_pre, k_rot, v, q;
  SpindlePyramid policy;
};

/// Attention of the window's queries on the keys they see: compares it, returns its sums over the
/// window, [n_q_heads, context].
Floats observe(const Case& c, const Prompt& p) {
  const Floats lse = c.array("window_lse").floats();
  const Floats head0 = c.array("attention_head0").floats();
  Floats sums(static_cast<std::size_t>(p.n_q_heads * p.context));
  Floats all(static_cast<std::size_t>(p.l));
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.head_dim));
  for (int h = 0; h < p.n_q_heads; ++h) {
    const float* k = p.row(p.k_rot, h / p.group(), 0);
    const float* q = p.q.data() + h * p.window * p.head_dim;
    std::fill(all.begin(), all.end(), 0.0f);
    observe_attention(p.head_dim, p.window, q, p.l, k, scale, all.data());
    std::copy_n(all.begin(), p.context, sums.begin() + h * p.context);
    // One query at a time: its weights, and the LSE that they imply at the heaviest key.
    for (int i = 0; i < p.window; ++i, q += p.head_dim) {
      Floats weights(static_cast<std::size_t>(p.l));
      observe_attention(p.head_dim, 1, q, p.context + i + 1, k, scale, weights.data());
      const auto heaviest = std::max_element(weights.begin(), weights.end());
      double dot = 0.0;
      for (int d = 0; d < p.head_dim; ++d) {
        dot += static_cast<double>(q[d]) *
               static_cast<double>(k[(heaviest - weights.begin()) * p.head_dim + d]);
      }
      const double got =
          static_cast<double>(scale) * dot - std::log(static_cast<double>(*heaviest));
      compare("window_lse of head " + std::to_string(h), 1, &got, lse.data() + h * p.window + i,
              [&](std::size_t) { return 2e-5 * std::abs(got); });
      if (h > 0) continue;
      const float* expected = head0.data() + i * p.l;
      compare("attention_head0 row " + std::to_string(i), weights.size(), weights, expected,
              [&](std::size_t a) { return 2e-5 * static_cast<double>(expected[a]); });
    }
  }
  return sums;
}

/// Rows that every query head keeps, ascending: [n_q_heads] lists one after the other.
Integers kept_rows(const Prompt& p, SpindlePyramid policy, const Floats& observed,
                   std::vector<KeepMask>* masks) {
  std::vector<KeepMask> keep(static_cast<std::size_t>(p.n_kv_heads * p.context));
  for (int head = 0; head < p.n_kv_heads; ++head) {
    PolicyRows rows;
    rows.head_dim = p.head_dim;
    rows.gqa_group = p.group();
    rows.layer = p.layer;
    rows.n_layers = p.n_layers;
    rows.n_rows = p.context;
    rows.n_ahead = p.window;
    rows.k = p.row(p.k_rot, head, 0);
    rows.v = p.row(p.v, head, 0);
    rows.observed = observed.data() + head * p.group() * p.context;
    policy.select(rows, std::span(keep).subspan(static_cast<std::size_t>(head * p.context),
                                                static_cast<std::size_t>(p.context)));
  }
  Integers kept;
  for (int h = 0; h < p.n_q_heads; ++h) {
    for (int a = 0; a < p.context; ++a) {
      const auto at = static_cast<std::size_t>(h / p.group() * p.context + a);
      if ((keep[at] >> (h % p.group()) & 1) != 0) kept.push_back(a);
    }
  }
  if (masks != nullptr) *masks = keep;
  return kept;
}

/// Window scores in both forms and the selections that follow; returns the masks of the default.
std::vector<KeepMask> check_policy(const Case& c, const Prompt& p) {
  const Floats sums = observe(c, p);
  const auto close = [&](const char* what, const auto& got) {
    const Floats expected = c.array(what).floats();
    compare(what, got.size(), got, expected,
            [&](std::size_t i) { return 2e-5 * static_cast<double>(expected[i]); });
  };
  close("score_sum", sums);
  std::vector<double> scores(sums.size());
  for (const SpindleScore form : {SpindleScore::pooled, SpindleScore::paper}) {
    for (int h = 0; h < p.n_q_heads; ++h) {
      spindle_scores(form, p.context, p.window, sums.data() + h * p.context,
                     scores.data() + h * p.context);
    }
    close(form == SpindleScore::paper ? "score_paper" : "score_sk", scores);
  }
  require_same("layer_budgets", pyramid_counts(p.policy, p.l, p.n_layers),
               c.array("layer_budgets").integers());
  SpindlePyramid paper = p.policy;
  paper.score = SpindleScore::paper;
  require_same("kept_paper", kept_rows(p, paper, sums, nullptr), c.array("kept_paper").integers());
  std::vector<KeepMask> masks;
  require_same("kept_sk", kept_rows(p, p.policy, sums, &masks), c.array("kept_sk").integers());
  return masks;
}

/// The rows a layer keeps, once each: what the codebooks are made of.
struct Items {
  std::vector<std::int64_t> head, token;
  std::vector<std::int32_t> weight;

  std::int64_t n() const { return std::ssize(token); }
};

Items check_items(const Case& c, const Prompt& p, const std::vector<KeepMask>& masks) {
  Items items;
  Integers pairs;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    if (masks[i] == 0) continue;
    items.head.push_back(static_cast<std::int64_t>(i) / p.context);
    items.token.push_back(static_cast<std::int64_t>(i) % p.context);
    items.weight.push_back(std::popcount(masks[i]));
    pairs.insert(pairs.end(), {items.head.back(), items.token.back()});
  }
  require_same("items", pairs, c.array("items").integers());
  require_same("item_weight", integers_of(items.weight), c.array("item_weight").integers());
  return items;
}

/// One side: K or V.
struct SideCase {
  std::string prefix;  ///< "k_" or "v_"
  Side side;
  Codebook codec;
  const Floats* x;        ///< what the table sees: [n_kv_heads, l, head_dim]
  const RopeTable* rope;  ///< null for V
  std::string recon;
};

/// The rows of all items, or of those of one head.
Floats gather(const Prompt& p, const Items& items, const Floats& x, std::int64_t only_head = -1) {
  Floats rows;
  for (std::int64_t i = 0; i < items.n(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (only_head >= 0 && items.head[at] != only_head) continue;
    const float* from = p.row(x, items.head[at], items.token[at]);
    rows.insert(rows.end(), from, from + p.head_dim);
  }
  return rows;
}

/// Graph, degrees and greedy rounds.
void check_graph(const Case& c, const Prompt& p, const SideCase& s, const Floats& rows,
                 const std::vector<std::int32_t>& weight) {
  const auto n = static_cast<std::int64_t>(weight.size());
  Floats unit(rows.size());
  for (std::int64_t i = 0; i < n; ++i) {
    normalise_row(p.head_dim, rows.data() + i * p.head_dim, unit.data() + i * p.head_dim);
  }
  const CosineGraph graph(n, p.head_dim, unit.data(), s.codec.theta);
  Integers bytes;
  for (std::int64_t a = 0; a < n; ++a) {
    for (std::int64_t first = 0; first < n; first += 8) {
      std::int64_t byte = 0;
      for (std::int64_t b = first; b < std::min(first + 8, n); ++b) {
        byte |= static_cast<std::int64_t>(graph.linked(a, b)) << (b - first);
      }
      bytes.push_back(byte);
    }
  }
  require_same(s.prefix + "adjacency", bytes, c.array(s.prefix + "adjacency").integers());
  require_same(s.prefix + "degree0", graph.degrees(weight.data()),
               c.array(s.prefix + "degree0").integers());
  const GreedyCover cover = cover_greedily(graph, weight.data());
  require_same(s.prefix + "codebook_items", integers_of(cover.chosen),
               c.array(s.prefix + "codebook_items").integers());
  require_same(s.prefix + "round_degree", cover.degree,
               c.array(s.prefix + "round_degree").integers());
}

/// Every row through a tile of the codec: decoded rows against `expected`, scores and sums against
/// decoded rows. Entries and magnitudes are f16 in a table and its tiles, so the bound is theirs.
double check_tiles(const Prompt& p, const SideCase& s, const CodebookTable& table,
                   const Items& items, const std::vector<std::uint32_t>& index,
                   const Floats& magnitude, const Floats& expected) {
  const Codebook codec = s.codec.bind(table, s.rope);
  const auto d = static_cast<std::size_t>(p.head_dim);
  std::vector<std::byte> tile(codec.tile_bytes(p.head_dim));
  Floats x(kTileRows * d);
  double worst = 0.0;
  for (std::int64_t first = 0; first < items.n(); first += kTileRows) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kTileRows, items.n() - first));
    const auto at = static_cast<std::size_t>(first);
    const std::vector<std::int32_t> position(items.token.begin() + first,
                                             items.token.begin() + first + n);
    codec.clear_tile(tile.data());
    codec.put_rows(0, n, index.data() + at, magnitude.data() + at, position.data(), tile.data());
    backend().decode_tile(codec, s.side, p.head_dim, tile.data(), x.data());
    for (std::size_t row = 0; row < static_cast<std::size_t>(n); ++row) {
      const float* want = expected.data() + (at + row) * d;
      const double norm = static_cast<double>(magnitude[at + row]);
      const double error = compare(s.recon + " as a tile, row " + std::to_string(at + row), d,
                                   Floats(x.begin() + static_cast<std::ptrdiff_t>(row * d),
                                          x.begin() + static_cast<std::ptrdiff_t>((row + 1) * d)),
                                   want, [&](std::size_t) { return 0x1p-10 * norm; });
      worst = std::max(worst, error / norm);
    }
    Floats got(s.side == Side::key ? kTileRows : d);
    Floats want(got.size());
    if (s.side == Side::key) {
      codec.score_tile(p.head_dim, tile.data(), 0, p.q.data(), 1, got.data());
      for (std::size_t i = 0; i < kTileRows * d; ++i) want[i / d] += p.q[i % d] * x[i];
    } else {
      const Floats ones(kTileRows, 1.0f);
      codec.add_tile(p.head_dim, tile.data(), 0, ones.data(), 1, got.data());
      for (std::size_t i = 0; i < kTileRows * d; ++i) want[i % d] += x[i];
    }
    const double size = norm_of(x.data(), std::ssize(x)) * (1.0 + norm_of(p.q.data(), p.head_dim));
    compare("a tile's product", got.size(), got, want, [&](std::size_t) { return 1e-6 * size; });
  }
  return worst;
}

/// Window tokens looked up one by one in the order (token, KV head).
void check_decode(const Case& c, const Prompt& p, const SideCase& s, CodebookTable table) {
  const Integers expected = c.array(s.prefix + "decode_code").integers();
  Integers codes, grown;
  for (std::int64_t i = 0; i < std::ssize(expected); ++i) {
    const float* x = p.row(*s.x, i % p.n_kv_heads, p.context + i / p.n_kv_heads);
    const std::uint32_t before = table.n_entries();
    std::uint32_t index = 0;
    float magnitude = 0.0f;
    table.cover(1, x, nullptr, &index, &magnitude);
    codes.push_back(index);
    grown.push_back(table.n_entries() - before);
  }
  require_same(s.prefix + "decode_code", codes, expected);
  require_same(s.prefix + "decode_new", grown, c.array(s.prefix + "decode_new").integers());
  require(table.n_entries() == c.check<std::uint32_t>(s.prefix + "entries_after_decode"),
          s.prefix + "entries_after_decode");
}

/// Tables per KV head: entry numbers restart in each.
void check_per_head(const Case& c, const Prompt& p, const SideCase& s, const Items& items) {
  std::vector<std::uint32_t> all;
  for (int head = 0; head < p.n_kv_heads; ++head) {
    const Floats rows = gather(p, items, *s.x, head);
    std::vector<std::int32_t> weight;
    for (std::size_t i = 0; i < items.weight.size(); ++i) {
      if (items.head[i] == head) weight.push_back(items.weight[i]);
    }
    std::vector<std::uint32_t> index(weight.size());
    Floats magnitude(weight.size());
    CodebookTable table = s.codec.make_table(p.head_dim);
    table.cover(std::ssize(weight), rows.data(), weight.data(), index.data(), magnitude.data());
    all.insert(all.end(), index.begin(), index.end());
  }
  require_same(s.prefix + "code_per_head", integers_of(all),
               c.array(s.prefix + "code_per_head").integers());
}

std::string check_side(const Case& c, const Prompt& p, const SideCase& s, const Items& items) {
  const Floats rows = gather(p, items, *s.x);
  check_graph(c, p, s, rows, items.weight);

  CodebookTable table = s.codec.make_table(p.head_dim);
  std::vector<std::uint32_t> index(items.weight.size());
  Floats magnitude(index.size());
  table.cover(items.n(), rows.data(), items.weight.data(), index.data(), magnitude.data());
  require_same(s.prefix + "code", integers_of(index), c.array(s.prefix + "code").integers());
  const Floats norms = c.array(s.prefix + "magnitude").floats();
  compare(s.prefix + "magnitude", norms.size(), magnitude, norms,
          [&](std::size_t i) { return 1e-6 * static_cast<double>(norms[i]); });

  // The case's values are those of an f32 codebook: entry = the chosen row, normalised.
  const Integers chosen = c.array(s.prefix + "codebook_items").integers();
  const Floats expected = c.array(s.recon).floats();
  Floats unit(static_cast<std::size_t>(p.head_dim));
  for (std::size_t i = 0; i < index.size(); ++i) {
    const std::int64_t entry = chosen.at(index[i]);
    normalise_row(p.head_dim, rows.data() + entry * p.head_dim, unit.data());
    if (s.rope != nullptr) {
      s.rope->rotate(static_cast<std::int32_t>(items.token[i]), unit.data());
    }
    for (float& value : unit) value *= magnitude[i];
    const double bound = (s.rope != nullptr ? 2e-5 : 1e-6) * static_cast<double>(norms[i]);
    compare(s.recon + " row " + std::to_string(i), unit.size(), unit,
            expected.data() + i * unit.size(), [&](std::size_t) { return bound; });
  }
  const double worst = check_tiles(p, s, table, items, index, magnitude, expected);
  check_per_head(c, p, s, items);
  check_decode(c, p, s, table);
  return s.prefix + "entries " + std::to_string(table.n_entries()) + ", f16 tiles within " +
         number_text(worst);
}

}  // namespace

std::string run_spindle_budgets(const Case& c) {
  const auto padded = [](Integers& all, Integers row) {
    row.resize(64, -1);
    all.insert(all.end(), row.begin(), row.end());
  };
  const double beta = c.parameter<double>("beta");
  Integers counts;
  for (const auto& row : c.parameter<nlohmann::json>("paper_rows")) {
    SpindlePyramid p = SpindlePyramid::parse("r" + row.at("r").get<std::string>());
    p.beta = beta;
    p.window = row.at("lw").get<std::int32_t>();
    padded(counts, pyramid_counts(p, row.at("l").get<std::int64_t>(),
                                  row.at("layers").get<std::int32_t>()));
  }
  const Integers sensitive = c.array("paper_float_sensitive").integers();
  const Integers expected = c.array("paper_counts").integers();
  require(counts.size() == expected.size(), "paper_counts has another number of rows");
  for (std::size_t i = 0; i < counts.size(); ++i) {
    require(std::abs(counts[i] - expected[i]) <= sensitive[i],
            "paper_counts[" + std::to_string(i) + "] = " + std::to_string(counts[i]) +
                ", expected " + std::to_string(expected[i]));
  }
  // The case holds each layer's capacity, without PyramidKV's exception for short prompts.
  Integers pyramid;
  for (const auto& row : c.parameter<nlohmann::json>("pyramidkv_rows")) {
    Integers layers;
    const auto n_layers = row.at("layers").get<std::int32_t>();
    for (std::int32_t layer = 0; layer < n_layers; ++layer) {
      layers.push_back(
          pyramidkv_layer_count(row.at("l").get<std::int64_t>(), row.at("lw").get<std::int32_t>(),
                                row.at("max_capacity").get<std::int64_t>(), layer, n_layers));
    }
    padded(pyramid, layers);
  }
  require_same("pyramidkv_counts", pyramid, c.array("pyramidkv_counts").integers());
  return std::to_string(counts.size() / 64) + " + " + std::to_string(pyramid.size() / 64) +
         " prompts, every layer exact";
}

std::string run_spindle_tiny(const Case& c) {
  const int dim = c.parameter<int>("d");
  const auto n = c.parameter<std::int64_t>("N");
  const Floats x = c.array("x").floats();
  std::vector<std::int32_t> weight;
  for (const std::int64_t w : c.array("weight").integers()) {
    weight.push_back(static_cast<std::int32_t>(w));
  }
  Codebook codec;
  codec.theta = c.parameter<float>("theta");
  CodebookTable table = codec.make_table(dim);
  std::vector<std::uint32_t> index(weight.size());
  Floats magnitude(weight.size());
  table.cover(n, x.data(), weight.data(), index.data(), magnitude.data());
  Integers codes;
  for (const std::uint32_t i : index) {
    codes.push_back(i == CodebookTable::kNone ? -1 : static_cast<std::int64_t>(i));
  }
  require_same("code", codes, c.array("code").integers());
  const auto exact = [](std::size_t) { return 0.0; };
  compare("magnitude", weight.size(), magnitude, c.array("magnitude").floats(), exact);

  // The rounds, over the rows that are not zero.
  Floats unit;
  Integers row_of;
  std::vector<std::int32_t> weight_of;
  for (std::int64_t row = 0; row < n; ++row) {
    Floats one(static_cast<std::size_t>(dim));
    if (normalise_row(dim, x.data() + row * dim, one.data()) == 0.0f) continue;
    unit.insert(unit.end(), one.begin(), one.end());
    row_of.push_back(row);
    weight_of.push_back(weight[static_cast<std::size_t>(row)]);
  }
  const CosineGraph graph(std::ssize(row_of), dim, unit.data(), codec.theta);
  const GreedyCover cover = cover_greedily(graph, weight_of.data());
  Integers chosen;
  for (const std::uint32_t row : cover.chosen) chosen.push_back(row_of[row]);
  require_same("codebook_items", chosen, c.array("codebook_items").integers());
  require_same("round_degree", cover.degree, c.array("round_degree").integers());

  const Codebook bound = codec.bind(table, nullptr);
  std::vector<std::byte> tile(bound.tile_bytes(dim));
  const std::vector<std::int32_t> position(weight.size(), 0);
  Floats decoded(static_cast<std::size_t>(kTileRows * dim));
  bound.clear_tile(tile.data());
  bound.put_rows(0, static_cast<int>(n), index.data(), magnitude.data(), position.data(),
                 tile.data());
  for (const Side side : {Side::key, Side::value}) {
    backend().decode_tile(bound, side, dim, tile.data(), decoded.data());
    compare("recon", x.size(), decoded, c.array("recon").floats(), exact);
  }
  return std::to_string(table.n_entries()) + " entries for " + std::to_string(n) + " rows, exact";
}

std::string run_spindle_layer(const Case& c) {
  const Prompt p(c);
  const auto theta_rope = c.parameter<nlohmann::json>("rope").at("theta").get<double>();
  std::vector<double> frequencies;
  for (int i = 0; i < p.head_dim / 2; ++i) {
    frequencies.push_back(std::pow(theta_rope, -2.0 * i / p.head_dim));
  }
  const RopeTable rope(frequencies, p.l);

  const Items items = check_items(c, p, check_policy(c, p));
  // As a cache does it: keys arrive rotated and are turned back before the table sees them.
  Floats k = p.k_rot;
  for (std::int64_t i = 0; i < std::ssize(k) / p.head_dim; ++i) {
    rope.unrotate(static_cast<std::int32_t>(i % p.l), k.data() + i * p.head_dim);
    const double bound = 2e-5 * norm_of(p.k_pre.data() + i * p.head_dim, p.head_dim);
    compare("k_pre", static_cast<std::size_t>(p.head_dim), k.data() + i * p.head_dim,
            p.k_pre.data() + i * p.head_dim, [&](std::size_t) { return bound; });
  }
  SideCase key{"k_", Side::key, {}, &k, &rope, "k_recon_rot"};
  key.codec.theta = c.parameter<float>("theta_k");
  SideCase value{"v_", Side::value, Codebook::parse("norope"), &p.v, nullptr, "v_recon"};
  value.codec.theta = c.parameter<float>("theta_v");
  const std::string k_text = check_side(c, p, key, items);
  return std::to_string(items.n()) + " rows, " + k_text + ", " + check_side(c, p, value, items);
}

}  // namespace kvcodec::golden
