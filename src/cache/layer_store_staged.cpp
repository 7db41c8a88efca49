// Layers with a policy: judging, staging, encoding what stays.
#include <algorithm>

#include "kvcodec/policy/observe.hpp"
#include "src/cache/layer_store.hpp"
#include "src/cache/stopwatch.hpp"
#include "src/cpu/transform.hpp"

namespace kvcodec {
namespace {

PolicyRows policy_rows(const LayerInfo& layer, std::int64_t n_rows, std::int64_t n_ahead,
                       const float* k, const float* v) noexcept {
  PolicyRows rows;
  rows.head_dim = layer.shape.head_dim;
  rows.gqa_group = layer.shape.gqa_group();
  rows.layer = layer.index;
  rows.n_layers = layer.n_layers;
  rows.n_rows = n_rows;
  rows.n_ahead = n_ahead;
  rows.k = k;
  rows.v = v;
  return rows;
}

}  // namespace

/// The n oldest recent rows of one head as the model made them.
void LayerStore::load_judged(const LayerInfo& layer, int head, std::int64_t n, float* k,
                             float* v) const {
  const int head_dim = layer.shape.head_dim;
  for (const Side side : {Side::key, Side::value}) {
    const DType type = layer.raw_dtype(side);
    const TransformChain& transform = layer.side(side).transform;
    for (std::int64_t row = 0; row < n; ++row) {
      float* x = (side == Side::key ? k : v) + row * head_dim;
      load_clamped(type, recent_.at(side, head, row), head_dim, dtype_max(type), x);
      cpu::transform_output(transform, head_dim, head, x);
    }
  }
}

void LayerStore::judge_chunk(const LayerInfo& layer, AppendScratch& scratch) {
  const AnyPolicy& policy = layer.config.policy;
  const std::int64_t n = policy.chunk_rows();
  const std::int64_t ahead = policy.lookahead_rows();
  for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
    load_judged(layer, head, n + ahead, scratch.judged_k.data(), scratch.judged_v.data());
    KeepMask* masks = scratch.judgement.data() + head * n;
    policy.select(policy_rows(layer, n, ahead, scratch.judged_k.data(), scratch.judged_v.data()),
                  {masks, static_cast<std::size_t>(n)});
  }
  stage(n, scratch.judgement.data());
}

void LayerStore::stage(std::int64_t n, const KeepMask* masks) noexcept {
  const auto first_pos = static_cast<std::int32_t>(n_tokens_ - n_recent_);
  const auto n_heads = static_cast<int>(n_encoded_.size());
  for (int head = 0; head < n_heads; ++head) {
    for (std::int64_t row = 0; row < n; ++row) {
      const KeepMask mask = masks == nullptr ? kKeptByAll : masks[head * n + row];
      if (mask == 0) continue;
      staged_.push(head, recent_, row, first_pos + static_cast<std::int32_t>(row), mask);
    }
    recent_.drop_front(head, n, n_recent_);
  }
  n_recent_ -= n;
}

void LayerStore::encode_staged(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch) {
  const PageFormat& format = layer.format;
  std::vector<std::int64_t>& n_rows = scratch.n_rows;
  n_rows.clear();
  std::int64_t all = 0;
  for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
    n_rows.push_back(staged_.n(head) / kTileRows * kTileRows);
    all += n_rows.back();
  }
  if (all == 0) return;
  scratch.tiles_encoded += all / kTileRows;
  BookCodes codes[2];
  for (const Side side : {Side::key, Side::value}) {
    Books& books = side == Side::key ? k_books_ : v_books_;
    if (!books.empty()) {
      codes[static_cast<int>(side)] = books.cover(layer, side, staged_, n_rows);
    }
  }
  std::size_t code = 0;  // of the rows of earlier heads and tiles
  for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
    const std::int64_t n = n_rows[static_cast<std::size_t>(head)];
    for (std::int64_t first = 0; first < n; first += kTileRows, code += kTileRows) {
      std::int32_t number = 0;
      std::byte* page = writable_page(layer, pool, head, &number);
      const auto slot = static_cast<int>(n_encoded(head) % format.page_size);
      const std::int32_t* pos = staged_.pos(head) + first;
      for (const Side side : {Side::key, Side::value}) {
        std::byte* tile = side == Side::key ? format.k_tile(page, slot / kTileRows, 0).tile
                                            : format.v_tile(page, slot / kTileRows, 0).tile;
        const BookCodes& c = codes[static_cast<int>(side)];
        if (const Codebook* book = layer.book(side)) {
          book->put_rows(0, kTileRows, c.index.data() + code, c.magnitude.data() + code, pos, tile);
        } else {
          encode_tile(layer, pool, scratch, side, staged_.rows(), head, first, 0, tile);
        }
      }
      std::copy_n(pos, kTileRows, pool.positions(number) + slot);
      std::copy_n(staged_.mask(head) + first, kTileRows, pool.masks(number) + slot);
      n_encoded_[static_cast<std::size_t>(head)] += kTileRows;
    }
    if (n > 0) staged_.drop_front(head, n);
  }
}

void LayerStore::drop_old_pages(const LayerInfo& layer, PagePool& pool) noexcept {
  const std::int64_t newest = layer.config.policy.newest_rows();
  if (newest == 0 || !evicts_) return;
  const std::int32_t page_size = layer.format.page_size;
  for (std::size_t head = 0; head < pages_.size(); ++head) {
    auto& list = pages_[head];
    while (n_encoded_[head] >= page_size &&
           pool.positions(list.front())[page_size - 1] < n_tokens_ - newest) {
      pool.give_back(list.front());
      list.erase(list.begin());
      n_encoded_[head] -= page_size;
    }
  }
}

void LayerStore::observe(const LayerInfo& layer, const AnyRows& q, float sm_scale) {
  const int head_dim = layer.shape.head_dim;
  const int group = layer.shape.gqa_group();
  const std::int64_t n_keys = n_sink_ + n_recent_;
  std::vector<float> keys(static_cast<std::size_t>(n_keys * head_dim));
  std::vector<float> queries(static_cast<std::size_t>(q.n_tokens * head_dim));
  std::vector<float> sums(static_cast<std::size_t>(n_keys));
  // Queries that do not follow those observed before replace them.
  const bool goes_on = n_tokens_ - q.n_tokens == observed_end_;
  std::vector<std::vector<float>> observed;
  if (goes_on) observed = observed_;
  observed.resize(static_cast<std::size_t>(layer.shape.n_q_heads));
  for (int head = 0; head < layer.shape.n_q_heads; ++head) {
    const int kv_head = head / group;
    if (head % group == 0) {
      for (std::int64_t row = 0; row < n_keys; ++row) {
        const std::byte* from = row < n_sink_ ? sinks_.at(Side::key, kv_head, row)
                                              : recent_.at(Side::key, kv_head, row - n_sink_);
        load_clamped(layer.k_dtype, from, head_dim, dtype_max(layer.k_dtype),
                     keys.data() + row * head_dim);
      }
    }
    for (std::int64_t t = 0; t < q.n_tokens; ++t) {
      float* x = queries.data() + t * head_dim;
      load_clamped(q.dtype, q.row(t, head), head_dim, kF32Max, x);
      cpu::transform_query(layer.config.k.transform, head_dim, kv_head, x);
    }
    std::fill(sums.begin(), sums.end(), 0.0f);
    observe_attention(head_dim, q.n_tokens, queries.data(), n_keys, keys.data(), sm_scale,
                      sums.data());
    auto& total = observed[static_cast<std::size_t>(head)];
    total.resize(static_cast<std::size_t>(n_recent_));
    for (std::size_t row = 0; row < total.size(); ++row) {
      total[row] += sums[static_cast<std::size_t>(n_sink_) + row];
    }
  }
  observed_ = std::move(observed);
  n_observed_ = (goes_on ? n_observed_ : 0) + q.n_tokens;
  observed_end_ = n_tokens_;
}

void LayerStore::check_observed(const LayerInfo& layer) const {
  const std::int64_t wanted =
      std::min<std::int64_t>(layer.config.policy.observed_rows(), n_tokens_);
  const std::int64_t n = observed_end_ == n_tokens_ ? n_observed_ : 0;
  if (wanted == 0 || n == wanted) return;
  throw invalid_argument(
      bad_value("Cache::end_prompt: layer " + std::to_string(layer.index), "observed queries", n,
                std::to_string(wanted) + " for policy " + layer.config.policy.name() +
                    ": observe the newest tokens of " + "the prompt, all of these and no others"));
}

Judgement LayerStore::judge_prompt(const LayerInfo& layer, const PagePool& pool) const {
  Judgement j;
  if (prompt_ended_) return j;
  if (!layer.judges_at_prompt()) {
    j.n_pages = pages_for_leaving(layer, pool, 0);
    return j;
  }
  const AnyPolicy& policy = layer.config.policy;
  const int head_dim = layer.shape.head_dim;
  const int group = layer.shape.gqa_group();
  j.n_rows = std::max<std::int64_t>(0, n_recent_ - keep(layer));
  j.masks.assign(static_cast<std::size_t>(layer.shape.n_kv_heads * j.n_rows), kKeptByAll);
  if (j.n_rows > 0 && evicts_) {
    check_observed(layer);
    const std::int64_t ahead = policy.lookahead_rows();
    const auto n = static_cast<std::size_t>(j.n_rows);
    std::vector<float> k((n + static_cast<std::size_t>(ahead)) *
                         static_cast<std::size_t>(head_dim));
    std::vector<float> v(k.size());
    std::vector<float> observed(static_cast<std::size_t>(group) * n);
    for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
      load_judged(layer, head, j.n_rows + ahead, k.data(), v.data());
      PolicyRows rows = policy_rows(layer, j.n_rows, ahead, k.data(), v.data());
      if (n_observed_ > 0) {
        for (int g = 0; g < group; ++g) {
          const auto& sums = observed_[static_cast<std::size_t>(head * group + g)];
          std::copy_n(sums.begin(), n, observed.begin() + g * j.n_rows);
        }
        rows.observed = observed.data();
      }
      KeepMask* masks = j.masks.data() + head * j.n_rows;
      policy.select(rows, {masks, n});
      for (std::size_t row = 0; row < n; ++row) {
        masks[row] = static_cast<KeepMask>(masks[row] & layer.group_mask());
      }
    }
  }
  const std::int64_t page_size = layer.format.page_size;
  for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
    const KeepMask* masks = j.masks.data() + head * j.n_rows;
    const std::int64_t kept = j.n_rows - std::count(masks, masks + j.n_rows, KeepMask{0});
    const std::int64_t tiles = (staged_.n(head) + kept) / kTileRows;
    j.n_pages += (tiles * kTileRows + page_size - 1) / page_size;
  }
  return j;
}

void LayerStore::end_prompt(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                            const Judgement& judgement) {
  if (prompt_ended_) return;
  if (layer.judges_at_prompt()) staged_.resize(kTileRows - 1 + judgement.n_rows + layer.leaving());
  prompt_ended_ = true;
  k_center_.finish();
  v_center_.finish();
  if (layer.judges_at_prompt()) {
    const Stopwatch watch(scratch.flush);
    stage(judgement.n_rows, judgement.masks.data());
    encode_staged(layer, pool, scratch);
    recent_.resize(capacity(layer), n_recent_);
    staged_.resize(kTileRows - 1 + layer.leaving());
    forget_observed();
  }
  settle(layer, pool, scratch);
}

}  // namespace kvcodec
