// Attention over a view, and the float64 reference over the rows that the view decodes to.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/reference.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/guard.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec::test {

/// Rows of one (sequence, KV head) as attention sees them, with positions.
struct HeadRows {
  std::vector<float> k;
  std::vector<float> v;
  std::vector<std::int32_t> pos;
  std::vector<KeepMask> mask;

  void add(const float* key, const float* value, std::int32_t head_dim, std::int32_t position,
           KeepMask kept_by = kKeptByAll) {
    k.insert(k.end(), key, key + head_dim);
    v.insert(v.end(), value, value + head_dim);
    pos.push_back(position);
    mask.push_back(kept_by);
  }

  /// The rows that query head `g` of the group sees.
  HeadRows seen_by(int g, std::int32_t head_dim) const {
    HeadRows seen;
    for (std::size_t r = 0; r < pos.size(); ++r) {
      const std::size_t at = r * static_cast<std::size_t>(head_dim);
      if (((mask[r] >> g) & 1) != 0) seen.add(k.data() + at, v.data() + at, head_dim, pos[r]);
    }
    return seen;
  }
};

inline void add_raw(HeadRows& to, const KvView& view, const RawRows& raw) {
  const std::int32_t d = view.shape.head_dim;
  std::vector<float> k(static_cast<std::size_t>(d));
  std::vector<float> v(static_cast<std::size_t>(d));
  for (std::int32_t r = 0; r < raw.n_rows; ++r) {
    for (std::int32_t c = 0; c < d; ++c) {
      k[static_cast<std::size_t>(c)] = load_value(view.k_raw_dtype, raw.k, r * raw.row_stride + c);
      v[static_cast<std::size_t>(c)] = load_value(view.v_raw_dtype, raw.v, r * raw.row_stride + c);
    }
    to.add(k.data(), v.data(), d, raw.pos != nullptr ? raw.pos[r] : raw.first_pos + r,
           raw.mask != nullptr ? raw.mask[r] : kKeptByAll);
  }
}

/// x + center of the head; null: nothing is added.
inline std::vector<float> uncentered(const float* x, const float* centers, std::int64_t head,
                                     std::int32_t head_dim) {
  std::vector<float> y(x, x + head_dim);
  if (centers == nullptr) return y;
  for (std::int32_t c = 0; c < head_dim; ++c) {
    y[static_cast<std::size_t>(c)] += centers[head * head_dim + c];
  }
  return y;
}

/// Decodes everything that sequence `seq` holds for one KV head.
inline HeadRows decoded_rows(const KvView& view, std::int64_t seq, std::int32_t head) {
  HeadRows rows;
  const PageFormat& f = view.format;
  const std::int64_t raw = seq * view.shape.n_kv_heads + head;
  const std::int64_t stream = seq * view.n_streams_per_seq() + head / f.span;
  const std::int64_t n = view.encoded_rows(stream);
  std::vector<float> k(static_cast<std::size_t>(kTileRows * f.k_span * f.head_dim));
  std::vector<float> v(static_cast<std::size_t>(kTileRows * f.v_span * f.head_dim));
  for (std::int64_t row = 0; row < n; ++row) {
    const std::int32_t page = view.page_of(stream, row);
    const auto slot = static_cast<int>(row % f.page_size);
    const std::byte* base = view.page_data(page);
    const auto kt = f.k_tile(base, slot / kTileRows, head % f.span);
    const auto vt = f.v_tile(base, slot / kTileRows, head % f.span);
    if (slot % kTileRows == 0) {
      view.k_codec_of(seq, head).decode_tile(Side::key, f.head_dim, kt.tile, k.data());
      view.v_codec_of(seq, head).decode_tile(Side::value, f.head_dim, vt.tile, v.data());
    }
    const std::int64_t at = std::int64_t{page} * f.page_size + slot;
    const std::int32_t pos =
        view.slot_pos != nullptr
            ? view.slot_pos[at]
            : (view.first_pos != nullptr ? view.first_pos[stream] : 0) + static_cast<int>(row);
    const float* key = k.data() + (slot % kTileRows * f.k_span + kt.head) * f.head_dim;
    const float* value = v.data() + (slot % kTileRows * f.v_span + vt.head) * f.head_dim;
    rows.add(uncentered(key, view.k_center, raw, f.head_dim).data(),
             uncentered(value, view.v_center, raw, f.head_dim).data(), f.head_dim, pos,
             view.slot_mask != nullptr ? view.slot_mask[at] : kKeptByAll);
  }
  if (view.kept != nullptr) add_raw(rows, view, view.kept[raw]);
  if (view.sinks != nullptr) add_raw(rows, view, view.sinks[raw]);
  if (view.recent != nullptr) add_raw(rows, view, view.recent[raw]);
  return rows;
}

/// Query tokens and, optionally, their own rows.
struct QueryBatch {
  std::vector<float> q;
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> pos;
  std::vector<float> k_new;
  std::vector<float> v_new;

  Queries queries() const {
    return {q.data(), indptr.data(), pos.data(), k_new.empty() ? nullptr : k_new.data(),
            v_new.empty() ? nullptr : v_new.data()};
  }
  std::int64_t n_tokens() const { return indptr.back(); }
};

/// counts[s] query tokens for sequence s at positions last_pos[s] - counts[s] + 1 ...
inline QueryBatch make_queries(const HeadShape& shape, const std::vector<std::int64_t>& counts,
                               const std::vector<std::int64_t>& last_pos, std::uint64_t seed) {
  QueryBatch b;
  b.indptr = {0};
  for (std::size_t s = 0; s < counts.size(); ++s) {
    b.indptr.push_back(b.indptr.back() + counts[s]);
    for (std::int64_t i = 0; i < counts[s]; ++i) {
      b.pos.push_back(static_cast<std::int32_t>(last_pos[s] - counts[s] + 1 + i));
    }
  }
  b.q = gauss_rows(b.n_tokens(), std::int64_t{shape.n_q_heads} * shape.head_dim, seed);
  return b;
}

struct Result {
  std::vector<float> out;
  std::vector<float> lse;
};

/// Runs the low-level attend with guarded memory of exactly the size that was asked for.
inline Result run_attend(const KvView& view, const QueryBatch& batch, const AttendOptions& options,
                         const Executor& executor = {}) {
  const Queries queries = batch.queries();
  const auto n = static_cast<std::size_t>(batch.n_tokens() * view.shape.n_q_heads);
  Guarded<float> out(n * static_cast<std::size_t>(view.shape.head_dim), std::byte{0xff});
  Guarded<float> lse(n, std::byte{0xff});
  Guarded<> workspace(attend_workspace_bytes(view, queries, executor.n_workers), std::byte{0xff});
  EXPECT_EQ(attend(view, queries, out.data(), lse.data(), options, workspace.span(), executor),
            Status::ok);
  EXPECT_TRUE(out.intact() && lse.intact() && workspace.intact());
  return {out.copy(), lse.copy()};
}

struct Expected {
  std::vector<double> out;
  std::vector<double> lse;
};

/// The float64 reference over decoded rows and the batch's own rows.
inline Expected reference(const KvView& view, const QueryBatch& batch,
                          const AttendOptions& options) {
  const HeadShape& shape = view.shape;
  const std::int64_t d = shape.head_dim;
  Expected want;
  want.out.resize(static_cast<std::size_t>(batch.n_tokens() * shape.n_q_heads * d));
  want.lse.resize(static_cast<std::size_t>(batch.n_tokens() * shape.n_q_heads));
  for (std::int64_t seq = 0; seq < view.n_seq; ++seq) {
    const std::int64_t begin = batch.indptr[static_cast<std::size_t>(seq)];
    const std::int64_t end = batch.indptr[static_cast<std::size_t>(seq) + 1];
    for (std::int32_t head = 0; head < shape.n_kv_heads; ++head) {
      HeadRows rows = decoded_rows(view, seq, head);
      for (std::int64_t t = begin; t < end && !batch.k_new.empty(); ++t) {
        const std::int64_t at = (t * shape.n_kv_heads + head) * d;
        rows.add(batch.k_new.data() + at, batch.v_new.data() + at, shape.head_dim,
                 batch.pos[static_cast<std::size_t>(t)]);
      }
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int32_t i = 0; i < shape.gqa_group(); ++i) {
          const std::int32_t q_head = head * shape.gqa_group() + i;
          const std::int64_t row = t * shape.n_q_heads + q_head;
          const HeadRows seen = rows.seen_by(i, shape.head_dim);
          const double sink = options.sink_logits != nullptr
                                  ? static_cast<double>(options.sink_logits[q_head])
                                  : -std::numeric_limits<double>::infinity();
          want.lse[static_cast<std::size_t>(row)] = reference_attend(
              shape.head_dim, static_cast<std::int64_t>(seen.pos.size()), batch.q.data() + row * d,
              seen.k.data(), seen.v.data(), d, seen.pos.data(),
              batch.pos[static_cast<std::size_t>(t)], options, sink, want.out.data() + row * d);
        }
      }
    }
  }
  return want;
}

/// Error of f32 sums over some thousand unit values.
inline constexpr Tolerance kOutTolerance{2e-5, 2e-5};
inline constexpr Tolerance kLseTolerance{2e-5, 2e-6};

inline void expect_close(const Result& got, const Expected& want, std::int32_t head_dim,
                         const std::string& what) {
  const auto width = static_cast<std::size_t>(head_dim);
  EXPECT_TRUE(close(got.out, want.out, width, kOutTolerance, what + ", out"));
  EXPECT_TRUE(close(got.lse, want.lse, 1, kLseTolerance, what + ", lse"));
}

/// Runs and compares.
inline void expect_matches_reference(const KvView& view, const QueryBatch& batch,
                                     const AttendOptions& options, const std::string& what) {
  expect_close(run_attend(view, batch, options), reference(view, batch, options),
               view.shape.head_dim, what);
}

/// Calls fn() once on every instruction set of the machine.
template <class F>
void for_each_isa(F&& fn) {
  for (const std::string& isa : available_cpu_isas()) {
    SCOPED_TRACE("instruction set " + isa);
    const IsaGuard guard(isa);
    fn();
  }
}

inline AttendOptions default_options(std::int32_t head_dim) {
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return options;
}

}  // namespace kvcodec::test
