// Family "attention": decode attention over ragged batches, merging, and exact accumulation.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/attn_state.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/dense_pages.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// One decode step of a case, and its results.
struct Decode {
  explicit Decode(const Case& c)
      : q(c.array("q").floats()),
        k(c.array("k").floats()),
        v(c.array("v").floats()),
        start(c.array("seq_start").integers()),
        out(c.array("out").floats()),
        lse(c.array("lse").floats()),
        out_bound(c.absolute_tolerances("out").at(0)),
        lse_bound(c.absolute_tolerances("lse").at(0)) {
    shape = {c.parameter<std::int32_t>("query_heads"), c.parameter<std::int32_t>("kv_heads"),
             c.parameter<std::int32_t>("head_dim")};
    check(shape);
    options.sm_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    options.logits_soft_cap = c.parameter<float>("softcap");
    options.window = c.parameter<std::int32_t>("window");
    options.window_sinks = c.parameter<std::int32_t>("sink_tokens");
    if (c.parameter<bool>("sink_logits")) {
      sink_logit = c.array("sink_logit").floats();
      options.sink_logits = sink_logit.data();
    }
    for (std::size_t s = 0; s + 1 < start.size(); ++s) {
      indptr.push_back(static_cast<std::int64_t>(s));
      pos.push_back(static_cast<std::int32_t>(start[s + 1] - start[s] - 1));
    }
    indptr.push_back(static_cast<std::int64_t>(pos.size()));
  }

  std::size_t n_seq() const noexcept { return pos.size(); }
  RaggedRows rows() const { return {shape, k.data(), v.data(), start}; }
  std::int64_t kv_width() const noexcept { return std::int64_t{shape.n_kv_heads} * shape.head_dim; }
  std::int64_t q_width() const noexcept { return std::int64_t{shape.n_q_heads} * shape.head_dim; }

  std::vector<float> q, k, v;
  std::vector<std::int64_t> start;
  std::vector<float> out, lse;
  double out_bound, lse_bound;
  HeadShape shape;
  AttendOptions options;
  std::vector<float> sink_logit;
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> pos;
};

struct Answer {
  std::vector<float> out, lse;
};

Answer attend_view(const Decode& d, const KvView& view, const AttendOptions& options) {
  Answer a{std::vector<float>(d.out.size(), NAN), std::vector<float>(d.lse.size(), NAN)};
  Queries queries;
  queries.q = d.q.data();
  queries.indptr = d.indptr.data();
  queries.pos = d.pos.data();
  const Status status = backend().attend(view, queries, a.out.data(), a.lse.data(), options);
  require(status == Status::ok, std::string("attend: ") + kvcodec::to_string(status));
  return a;
}

/// Attention over the two halves of every sequence, merged.
Answer attend_halves(const Decode& d, const AnyCodec& codec) {
  const DensePages old_half(d.rows(), codec, codec, {}, 0.0, 0.5);
  const DensePages new_half(d.rows(), codec, codec, {}, 0.5, 1.0);
  AttendOptions without_sink = d.options;
  without_sink.sink_logits = nullptr;  // it belongs to the sum once
  Answer a = attend_view(d, old_half.view(), d.options);
  const Answer b = attend_view(d, new_half.view(), without_sink);
  for (std::size_t i = 0; i < a.lse.size(); ++i) {
    const std::size_t at = i * static_cast<std::size_t>(d.shape.head_dim);
    merge(a.out.data() + at, a.lse[i], b.out.data() + at, b.lse[i], d.shape.head_dim);
  }
  return a;
}

LayerConfig layer_of(const AnyCodec& codec) {
  LayerConfig layer;
  layer.k.codec = codec;
  layer.v.codec = codec;
  return layer;
}

/// Through a cache. `fresh`: the newest token's K and V are handed over with the query.
Answer attend_cached(const Decode& d, const AnyCodec& codec, bool fresh) {
  CacheConfig config;
  config.shape = d.shape;
  config.layers = {layer_of(codec)};
  config.max_tokens = d.start.back() + 64 * static_cast<std::int64_t>(d.n_seq());
  config.max_sequences = static_cast<std::int32_t>(d.n_seq());
  Cache cache(config);
  std::vector<SeqId> seqs;
  std::vector<float> q, k_new, v_new;
  std::vector<std::size_t> asked;  // an empty sequence has no newest token
  for (std::size_t s = 0; s < d.n_seq(); ++s) {
    const std::int64_t n = d.start[s + 1] - d.start[s] - (fresh ? 1 : 0);
    if (n < 0) continue;
    const SeqId seq = cache.open();
    const auto rows_of = [&](const std::vector<float>& x) {
      return dense_rows(x.data() + d.start[s] * d.kv_width(), n, d.shape.n_kv_heads,
                        d.shape.head_dim);
    };
    cache.append(seq, 0, rows_of(d.k), rows_of(d.v));
    if (d.start[s + 1] == d.start[s]) continue;
    seqs.push_back(seq);
    asked.push_back(s);
    const auto copy = [](const std::vector<float>& from, std::int64_t at, std::int64_t count,
                         std::vector<float>& to) {
      to.insert(to.end(), from.begin() + at, from.begin() + at + count);
    };
    copy(d.q, static_cast<std::int64_t>(s) * d.q_width(), d.q_width(), q);
    copy(d.k, (d.start[s + 1] - 1) * d.kv_width(), d.kv_width(), k_new);
    copy(d.v, (d.start[s + 1] - 1) * d.kv_width(), d.kv_width(), v_new);
  }
  const auto n = static_cast<std::int64_t>(seqs.size());
  Step step;
  step.seqs = seqs;
  step.q = dense_rows(q.data(), n, d.shape.n_q_heads, d.shape.head_dim);
  if (fresh) {
    step.k_new = dense_rows(k_new.data(), n, d.shape.n_kv_heads, d.shape.head_dim);
    step.v_new = dense_rows(v_new.data(), n, d.shape.n_kv_heads, d.shape.head_dim);
  }
  std::vector<float> out(q.size(), NAN);
  std::vector<float> lse(static_cast<std::size_t>(n * d.shape.n_q_heads), NAN);
  AttendWorkspace work;
  attend(cache, 0, step, out.data(), lse.data(), d.options, work);
  Answer a{d.out, d.lse};
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto from = static_cast<std::int64_t>(i);
    const auto to = static_cast<std::int64_t>(asked[i]);
    std::copy_n(out.begin() + from * d.q_width(), d.q_width(), a.out.begin() + to * d.q_width());
    std::copy_n(lse.begin() + from * d.shape.n_q_heads, d.shape.n_q_heads,
                a.lse.begin() + to * d.shape.n_q_heads);
  }
  return a;
}

/// What one way of computing the case gave at worst.
struct Worst {
  double out = 0.0;
  double lse = 0.0;

  void add(const Decode& d, const std::string& way, const Answer& a) {
    const double out_bound = d.out_bound + backend().out_error() * root_mean_square(d.out);
    const double lse_bound = d.lse_bound + backend().lse_error();
    out = std::max(out, compare(way + ": out", d.out.size(), a.out, d.out,
                                [&](std::size_t) { return out_bound; }));
    lse = std::max(lse, compare(way + ": lse", d.lse.size(), a.lse, d.lse,
                                [&](std::size_t) { return lse_bound; }));
  }
};

/// 1.0f exactly where the codec stores 1 exactly; otherwise the stored value within the rounding of
/// a sum of kSplitRows equal terms.
void check_ones(const AnyCodec& codec, std::int64_t n_keys, std::int32_t head_dim,
                double expected_lse, double lse_bound) {
  constexpr std::int64_t kChunk = 4096;
  const std::vector<float> ones(static_cast<std::size_t>(kChunk * head_dim), 1.0f);
  const std::vector<float> tile(static_cast<std::size_t>(kTileRows * head_dim), 1.0f);
  std::vector<std::byte> bytes(codec.tile_bytes(head_dim));
  std::vector<float> decoded(tile.size());
  backend().encode_tile(codec, Side::value, head_dim, tile.data(), bytes.data());
  backend().decode_tile(codec, Side::value, head_dim, bytes.data(), decoded.data());
  const auto stored = static_cast<double>(decoded[0]);

  CacheConfig config;
  config.shape = {4, 1, head_dim};
  config.layers = {layer_of(codec)};
  config.max_tokens = n_keys;
  Cache cache(config);
  const SeqId seq = cache.open();
  for (std::int64_t done = 0; done < n_keys; done += kChunk) {
    const auto rows = dense_rows(ones.data(), std::min(kChunk, n_keys - done), 1, head_dim);
    cache.append(seq, 0, rows, rows);
  }
  const std::vector<float> q(static_cast<std::size_t>(4 * head_dim), 0.0f);
  std::vector<float> out(q.size(), NAN);
  std::vector<float> lse(4, NAN);
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  Step step;
  const std::array<SeqId, 1> seqs = {seq};
  step.seqs = seqs;
  step.q = dense_rows(q.data(), 1, 4, head_dim);
  AttendWorkspace work;
  attend(cache, 0, step, out.data(), lse.data(), options, work);

  const std::string what =
      codec.name() + ", " + std::to_string(n_keys) + " keys of " + std::to_string(head_dim) + ": ";
  // Rows in the window are exact, so the mean lies between 1 and the stored value.
  const double bound = stored == 1.0 ? 0.0 : std::abs(stored - 1.0) + kSplitRows * 0x1p-24;
  compare(what + "out", out.size(), out, std::vector<double>(out.size(), 1.0),
          [&](std::size_t) { return bound; });
  compare(what + "lse", lse.size(), lse, std::vector<double>(lse.size(), expected_lse),
          [&](std::size_t) { return lse_bound; });
}

}  // namespace

std::string run_attention_decode(const Case& c) {
  const Decode d(c);
  Worst worst;
  for (const char* name : {"f32", "f16"}) {  // the inputs are exact in both
    const AnyCodec codec = make_codec(name);
    const std::string text = name;
    const auto view_answer = [&](RawPart raw) {
      return attend_view(d, DensePages(d.rows(), codec, codec, raw).view(), d.options);
    };
    worst.add(d, text + " pages", view_answer({}));
    worst.add(d, text + " pages, sinks and recent rows", view_answer({3, 7}));
    worst.add(d, text + " recent rows", view_answer({0, 1 << 20}));
    worst.add(d, text + " halves merged", attend_halves(d, codec));
    worst.add(d, text + " cache", attend_cached(d, codec, false));
    worst.add(d, text + " cache, newest token fresh", attend_cached(d, codec, true));
  }
  return "out within " + number_text(worst.out) + ", lse within " + number_text(worst.lse);
}

std::string run_attention_merge(const Case& c) {
  const auto d = c.parameter<std::int32_t>("d");
  const std::vector<float> o1 = c.array("o1").floats();
  const std::vector<float> o2 = c.array("o2").floats();
  const std::vector<float> lse1 = c.array("lse1").floats();
  const std::vector<float> lse2 = c.array("lse2").floats();
  const std::vector<float> expected_out = c.array("out").floats();
  const std::vector<float> expected_lse = c.array("lse").floats();
  const auto width = static_cast<std::size_t>(d);
  for (const bool swapped : {false, true}) {
    std::vector<float> out = swapped ? o2 : o1;
    std::vector<float> lse = swapped ? lse2 : lse1;
    for (std::size_t row = 0; row < lse.size(); ++row) {
      merge(out.data() + row * width, lse[row], (swapped ? o1 : o2).data() + row * width,
            (swapped ? lse1 : lse2)[row], d);
    }
    const std::string way = swapped ? "second into first: " : "first into second: ";
    // "absolute 3e-7 * (|o1| + |o2|) + 1e-30"; garbage on an empty side does not count.
    const auto size_of = [&](const std::vector<float>& o, const std::vector<float>& lse_of,
                             std::size_t i) {
      return lse_of[i / width] == -INFINITY ? 0.0 : std::abs(static_cast<double>(o[i]));
    };
    compare(way + "out", out.size(), out, expected_out, [&](std::size_t i) {
      return 3e-7 * (size_of(o1, lse1, i) + size_of(o2, lse2, i)) + 1e-30;
    });
    // "absolute 5e-7 + relative 1.2e-7"
    compare(way + "lse", lse.size(), lse, expected_lse, [&](std::size_t i) {
      return 5e-7 + 1.2e-7 * std::abs(static_cast<double>(expected_lse[i]));
    });
  }
  return std::to_string(lse1.size()) + " pairs, both ways round";
}

std::string run_attention_ones(const Case& c) {
  const double lse_bound = c.absolute_tolerances("lse").at(0);
  int n = 0;
  for (const auto& one : c.parameter<nlohmann::json>("cases")) {
    const std::string lse = one.at("expected_lse");  // "ln(8192) = 9.01"
    const double expected_lse = std::strtod(lse.c_str() + lse.find('=') + 1, nullptr);
    require(one.at("expected_out") == 1.0, "expected_out is not 1");
    BuiltinCodecs::for_each([&]<class Codec>() {
      const AnyCodec codec = make_codec(Codec::family);
      const int head_dim = one.at("head_dim");
      if (!codec.supports(head_dim) || codec.head_span(head_dim) != 1 || codec.key_only()) return;
      check_ones(codec, one.at("keys"), head_dim, expected_lse, lse_bound);
      ++n;
    });
  }
  return std::to_string(n) + " caches of up to 32768 keys";
}

}  // namespace kvcodec::golden
