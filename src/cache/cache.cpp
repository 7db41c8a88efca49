// The container: sequences, what they may do, and the views of them.
#include "kvcodec/cache/cache.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <utility>

#include "kvcodec/core/arith.hpp"
#include "src/cache/layer_store.hpp"
#include "src/cache/stopwatch.hpp"

namespace kvcodec {
namespace {

struct Sequence {
  std::vector<LayerStore> layers;
  bool clamped = false;
  bool broken = false;  ///< memory ran out in the middle of a change: only to be read and closed
};

/// Center of one side of one sequence; zeros while it is not known, when nothing is encoded.
void add_center(const LayerInfo& info, const Center& center, std::vector<float>& to) {
  if (!center.active()) return;
  const auto n = static_cast<std::size_t>(info.shape.n_kv_heads * info.shape.head_dim);
  if (center.values() == nullptr) to.resize(to.size() + n);
  else to.insert(to.end(), center.values(), center.values() + n);
}

/// The codecs of one sequence's heads, reading its codebooks.
void add_books(const LayerInfo& info, const LayerStore& store, Side side,
               std::vector<AnyCodec>& to) {
  const Codebook* book = info.book(side);
  for (std::int32_t head = 0; book != nullptr && head < info.shape.n_kv_heads; ++head) {
    to.emplace_back(
        book->bind(store.books(side).table(head), side == Side::key ? info.rope : nullptr));
  }
}

/// Adds one sequence to the buffers of a view.
void add_to_view(const LayerInfo& info, const LayerStore& store, ViewBuffers& b) {
  const auto n_sink = static_cast<std::int32_t>(store.n_sink());
  const std::int32_t page_size = info.format.page_size;
  for (int stream = 0; stream < info.n_streams(); ++stream) {
    const auto& pages = store.pages(stream);
    const auto n_encoded = static_cast<std::int32_t>(store.n_encoded(stream));
    b.indices.insert(b.indices.end(), pages.begin(), pages.end());
    b.indptr.push_back(static_cast<std::int64_t>(b.indices.size()));
    b.last_page_len.push_back(pages.empty() ? 0 : (n_encoded - 1) % page_size + 1);
    b.first_pos.push_back(n_sink);
  }
  const auto raw = [&](const RawStore& rows, std::int32_t head, std::int64_t n,
                       std::int64_t first) {
    RawRows r;
    r.k = rows.at(Side::key, head, 0);
    r.v = rows.at(Side::value, head, 0);
    r.row_stride = info.shape.head_dim;
    r.n_rows = static_cast<std::int32_t>(n);
    r.first_pos = static_cast<std::int32_t>(first);
    return r;
  };
  for (std::int32_t head = 0; head < info.shape.n_kv_heads; ++head) {
    b.sinks.push_back(raw(store.sinks(), head, n_sink, 0));
    b.recent.push_back(
        raw(store.recent(), head, store.n_recent(), store.n_tokens() - store.n_recent()));
    if (!info.stages_rows) continue;
    const StagedRows& staged = store.staged();
    b.kept.push_back(raw(staged.rows(), head, staged.n(head), 0));
    b.kept.back().pos = staged.pos(head);
    if (info.config.policy.per_query_head()) b.kept.back().mask = staged.mask(head);
  }
  add_books(info, store, Side::key, b.k_codecs);
  add_books(info, store, Side::value, b.v_codecs);
  add_center(info, store.center(Side::key), b.k_center);
  add_center(info, store.center(Side::value), b.v_center);
}

}  // namespace

struct Cache::Impl {
  CacheConfig config;
  std::optional<RopeTable> rope;
  std::vector<LayerInfo> layers;
  std::vector<PagePool> pools;  ///< one per page size in bytes
  std::vector<std::optional<Sequence>> sequences;
  AppendScratch scratch;
  CacheStats counters;  ///< what nothing else knows: the counters but those of scratch

  explicit Impl(CacheConfig c) : config(std::move(c)) {
    check(config.shape);
    check_range("CacheConfig", "number of layers", static_cast<std::int64_t>(config.layers.size()),
                1, 65536);
    check_range("CacheConfig", "max_tokens", config.max_tokens, 1,
                std::numeric_limits<std::int32_t>::max());
    check_range("CacheConfig", "max_sequences", config.max_sequences, 1, 1 << 20);
    if (!config.rope_frequencies.empty()) {
      rope.emplace(config.rope_frequencies, static_cast<std::int32_t>(config.max_tokens));
    }
    for (std::size_t i = 0; i < config.layers.size(); ++i) {
      layers.push_back(make_layer(config, i));
      const Codebook* book = layers.back().book(Side::key);
      if (book != nullptr && book->positions) layers.back().rope = &*rope;
    }
    make_pools();
    sequences.resize(static_cast<std::size_t>(config.max_sequences));
    scratch.row.resize(static_cast<std::size_t>(config.shape.head_dim));
    scratch.rows.resize(static_cast<std::size_t>(kTileRows) * kMaxTileWidth);
    std::size_t largest = 0;
    for (const LayerInfo& layer : layers) {
      largest = std::max({largest, layer.format.k_tile_bytes, layer.format.v_tile_bytes});
    }
    scratch.tile.resize(largest);
    std::int64_t judged = 0;
    for (const LayerInfo& layer : layers) {
      if (!layer.config.policy) continue;
      judged = std::max<std::int64_t>(
          judged, layer.config.policy.chunk_rows() + layer.config.policy.lookahead_rows());
    }
    scratch.judged_k.resize(static_cast<std::size_t>(judged * config.shape.head_dim));
    scratch.judged_v.resize(scratch.judged_k.size());
    scratch.judgement.resize(static_cast<std::size_t>(judged * config.shape.n_kv_heads));
  }

  /// Layers whose pages have one size and list positions or not share a pool.
  void make_pools() {
    std::map<std::pair<std::size_t, std::int32_t>, std::int64_t> n_pages;
    const auto kind = [this](const LayerInfo& layer) {
      return std::pair{layer.format.page_bytes(), layer.stages_rows ? config.page_size : 0};
    };
    for (const LayerInfo& layer : layers) {
      // With pages of several tiles every sequence may leave its last page partly filled.
      const std::int64_t partial = config.page_size > kTileRows ? config.max_sequences : 0;
      const std::int64_t whole = (config.max_tokens + config.page_size - 1) / config.page_size;
      n_pages[kind(layer)] += layer.n_streams() * (whole + partial);
    }
    for (const auto& [k, n] : n_pages) pools.emplace_back(k.first, n, k.second);
    for (LayerInfo& layer : layers) {
      const auto is_its = [&](const PagePool& pool) {
        return std::pair{pool.page_bytes(), pool.listed_rows()} == kind(layer);
      };
      while (!is_its(pools[layer.pool])) ++layer.pool;
    }
  }

  bool is_open(SeqId seq) const noexcept {
    return seq >= 0 && static_cast<std::size_t>(seq) < sequences.size() &&
           sequences[static_cast<std::size_t>(seq)].has_value();
  }

  Sequence& at(SeqId seq) {
    if (!is_open(seq)) throw invalid_argument(bad_value("Cache", "seq", seq, "an open sequence"));
    return *sequences[static_cast<std::size_t>(seq)];
  }

  void check_layer(std::int32_t layer) const {
    check_range("Cache", "layer", layer, 0, static_cast<std::int64_t>(layers.size()) - 1);
  }

  std::size_t free_slot() const {
    const auto slot = std::find(sequences.begin(), sequences.end(), std::nullopt);
    if (slot == sequences.end()) {
      throw out_of_pages("Cache: all " + std::to_string(sequences.size()) +
                         " sequences (max_sequences) are open");
    }
    return static_cast<std::size_t>(slot - sequences.begin());
  }

  PagePool& pool(std::size_t layer) noexcept { return pools[layers[layer].pool]; }

  bool good_rows(const AnyRows& r) const noexcept {
    return r.n_tokens >= 0 && (r.n_tokens == 0 || r.data != nullptr) &&
           r.head_stride >= (config.shape.n_kv_heads > 1 ? config.shape.head_dim : 0) &&
           r.token_stride >= 0;
  }

  Status append(SeqId seq, std::int32_t layer, const AnyRows& k, const AnyRows& v) noexcept {
    const Status status = append_uncounted(seq, layer, k, v);
    if (status != Status::ok) ++counters.appends_refused;
    return status;
  }

  Status append_uncounted(SeqId seq, std::int32_t layer, const AnyRows& k,
                          const AnyRows& v) noexcept {
    if (!is_open(seq) || layer < 0 || static_cast<std::size_t>(layer) >= layers.size() ||
        !good_rows(k) || !good_rows(v) || k.n_tokens != v.n_tokens) {
      return Status::invalid_argument;
    }
    const auto l = static_cast<std::size_t>(layer);
    Sequence& s = *sequences[static_cast<std::size_t>(seq)];
    if (s.broken) return Status::out_of_memory;
    LayerStore& store = s.layers[l];
    // Also keeps positions inside int32 and page lists inside what open() reserved.
    if (k.n_tokens > config.max_tokens - store.n_tokens()) return Status::out_of_pages;
    if (store.pages_needed(layers[l], pool(l), k.n_tokens) > pool(l).n_free()) {
      return Status::out_of_pages;
    }
    const std::int64_t evicted = store.rows_evicted(layers[l]);
    bool changing = false;
    try {
      const Stopwatch watch(counters.append);
      store.grow_windows(layers[l], k.n_tokens);
      changing = true;
      s.clamped |= store.append(layers[l], pool(l), scratch, k, v);
    } catch (...) {
      s.broken = changing;
      return Status::out_of_memory;
    }
    counters.tokens_appended += k.n_tokens;
    counters.rows_dropped += store.rows_evicted(layers[l]) - evicted;
    return Status::ok;
  }

  [[noreturn]] void explain_append(Status status, SeqId seq, std::int32_t layer, const AnyRows& k,
                                   const AnyRows& v) {
    const std::int64_t held =
        at(seq).layers[(check_layer(layer), static_cast<std::size_t>(layer))].n_tokens();
    if (status == Status::out_of_pages) {
      throw out_of_pages("Cache::append: no room for n_tokens = " + std::to_string(k.n_tokens) +
                         " more tokens of sequence " + std::to_string(seq) + ", layer " +
                         std::to_string(layer) + ", which has " + std::to_string(held) +
                         "; max_tokens = " + std::to_string(config.max_tokens) + ", free pages: " +
                         std::to_string(pool(static_cast<std::size_t>(layer)).n_free()));
    }
    if (status == Status::out_of_memory) throw std::bad_alloc();
    if (k.n_tokens != v.n_tokens) {
      throw invalid_argument(bad_value("Cache::append", "v.n_tokens", v.n_tokens,
                                       "k.n_tokens = " + std::to_string(k.n_tokens)));
    }
    const AnyRows& bad = good_rows(k) ? v : k;
    const char* name = good_rows(k) ? "v" : "k";
    throw invalid_argument(std::string("Cache::append: ") + name +
                           " has n_tokens = " + std::to_string(bad.n_tokens) +
                           ", token_stride = " + std::to_string(bad.token_stride) +
                           ", head_stride = " + std::to_string(bad.head_stride) +
                           ", allowed: data that is not null, n_tokens >= 0, token_stride >= 0, "
                           "head_stride >= head_dim = " +
                           std::to_string(config.shape.head_dim));
  }

  CacheBytes bytes_of(const Sequence& s) const noexcept {
    CacheBytes b;
    b.tables = sizeof(Sequence);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const LayerStore& store = s.layers[l];
      b.payload += store.n_pages() * static_cast<std::int64_t>(layers[l].format.page_bytes());
      b.payload += store.books(Side::key).bytes() + store.books(Side::value).bytes();
      b.window += store.window_bytes();
      b.tables += store.table_bytes(layers[l]);
      b.n_values += 2 * store.n_tokens() * config.shape.n_kv_heads * config.shape.head_dim;
    }
    return b;
  }
};

Cache::Cache(CacheConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}
Cache::~Cache() = default;
Cache::Cache(Cache&&) noexcept = default;
Cache& Cache::operator=(Cache&&) noexcept = default;

const CacheConfig& Cache::config() const noexcept { return impl_->config; }
std::int32_t Cache::n_layers() const noexcept {
  return static_cast<std::int32_t>(impl_->layers.size());
}

SeqId Cache::open() {
  const std::size_t slot = impl_->free_slot();
  Sequence s;
  s.layers.reserve(impl_->layers.size());
  for (const LayerInfo& layer : impl_->layers) {
    s.layers.emplace_back(layer, impl_->config.max_tokens, impl_->config.page_size);
  }
  impl_->sequences[slot] = std::move(s);
  ++impl_->counters.sequences_opened;
  return static_cast<SeqId>(slot);
}

void Cache::close(SeqId seq) {
  Sequence& s = impl_->at(seq);
  for (std::size_t l = 0; l < s.layers.size(); ++l) s.layers[l].give_back_pages(impl_->pool(l));
  impl_->sequences[static_cast<std::size_t>(seq)].reset();
  ++impl_->counters.sequences_closed;
}

SeqId Cache::fork(SeqId seq) {
  const Sequence& parent = impl_->at(seq);
  const std::size_t slot = impl_->free_slot();
  Sequence child = parent;
  const std::int64_t page_size = impl_->config.page_size;
  for (LayerStore& store : child.layers) {
    store.reserve((impl_->config.max_tokens + page_size - 1) / page_size);
  }
  for (std::size_t l = 0; l < child.layers.size(); ++l) child.layers[l].share_pages(impl_->pool(l));
  impl_->sequences[slot] = std::move(child);
  ++impl_->counters.sequences_opened;
  ++impl_->counters.sequences_forked;
  return static_cast<SeqId>(slot);
}

bool Cache::is_open(SeqId seq) const noexcept { return impl_->is_open(seq); }

void Cache::append(SeqId seq, std::int32_t layer, const AnyRows& k, const AnyRows& v) {
  const Status status = impl_->append(seq, layer, k, v);
  if (status != Status::ok) impl_->explain_append(status, seq, layer, k, v);
}

Status Cache::try_append(SeqId seq, std::int32_t layer, const AnyRows& k,
                         const AnyRows& v) noexcept {
  return impl_->append(seq, layer, k, v);
}

Status Cache::truncate(SeqId seq, std::int64_t n_tokens) noexcept {
  if (!impl_->is_open(seq) || n_tokens < 0) return Status::invalid_argument;
  Sequence& s = *impl_->sequences[static_cast<std::size_t>(seq)];
  for (std::size_t l = 0; l < s.layers.size(); ++l) {
    if (n_tokens > s.layers[l].n_tokens()) return Status::invalid_argument;
    if (s.broken || !s.layers[l].can_truncate(impl_->layers[l], n_tokens))
      return Status::cannot_truncate;
  }
  for (std::size_t l = 0; l < s.layers.size(); ++l) {
    impl_->counters.tokens_truncated += s.layers[l].n_tokens() - n_tokens;
    s.layers[l].truncate(impl_->layers[l], impl_->pool(l), n_tokens);
  }
  return Status::ok;
}

void Cache::observe(SeqId seq, std::int32_t layer, const AnyRows& q, float sm_scale) {
  impl_->check_layer(layer);
  const auto l = static_cast<std::size_t>(layer);
  LayerStore& store = impl_->at(seq).layers[l];
  const LayerInfo& info = impl_->layers[l];
  if (!info.judges_at_prompt() || info.config.policy.observed_rows() == 0) return;
  if (store.prompt_ended()) return;
  check_range("Cache::observe", "q.n_tokens", q.n_tokens, 0, store.n_tokens());
  if (q.n_tokens > 0 && q.data == nullptr) throw invalid_argument("Cache::observe: q.data is null");
  if (!(sm_scale > 0.0f) || !is_finite(sm_scale)) {
    throw invalid_argument(bad_value("Cache::observe", "sm_scale", sm_scale, "finite and > 0"));
  }
  if (q.n_tokens > 0) store.observe(info, q, sm_scale);
}

std::int32_t Cache::observed_rows(std::int32_t layer) const {
  impl_->check_layer(layer);
  const AnyPolicy& policy = impl_->layers[static_cast<std::size_t>(layer)].config.policy;
  return policy ? policy.observed_rows() : 0;
}

void Cache::end_prompt(SeqId seq) {
  Sequence& s = impl_->at(seq);
  if (s.broken) throw std::bad_alloc();
  std::vector<Judgement> judgements;
  std::vector<std::int64_t> n_pages(impl_->pools.size());
  for (std::size_t l = 0; l < s.layers.size(); ++l) {
    judgements.push_back(s.layers[l].judge_prompt(impl_->layers[l], impl_->pool(l)));
    n_pages[impl_->layers[l].pool] += judgements.back().n_pages;
  }
  for (std::size_t p = 0; p < n_pages.size(); ++p) {
    if (n_pages[p] <= impl_->pools[p].n_free()) continue;
    throw out_of_pages("Cache::end_prompt: sequence " + std::to_string(seq) + " needs " +
                       std::to_string(n_pages[p]) + " pages, free are " +
                       std::to_string(impl_->pools[p].n_free()));
  }
  try {
    for (std::size_t l = 0; l < s.layers.size(); ++l) {
      const std::int64_t evicted = s.layers[l].rows_evicted(impl_->layers[l]);
      s.layers[l].end_prompt(impl_->layers[l], impl_->pool(l), impl_->scratch, judgements[l]);
      impl_->counters.rows_dropped += s.layers[l].rows_evicted(impl_->layers[l]) - evicted;
    }
  } catch (...) {
    s.broken = true;
    throw;
  }
}

void Cache::hold_raw(SeqId seq, std::int32_t layer, std::int32_t n_rows) {
  impl_->check_layer(layer);
  check_range("Cache::hold_raw", "n_rows", n_rows, 0, 65536);
  const auto l = static_cast<std::size_t>(layer);
  Sequence& s = impl_->at(seq);
  if (s.broken) throw std::bad_alloc();
  LayerStore& store = s.layers[l];
  PagePool& pool = impl_->pool(l);
  const std::int64_t n = std::min<std::int64_t>(n_rows, impl_->config.max_tokens);
  const std::int64_t needed = store.pages_to_hold(impl_->layers[l], pool, n);
  if (n < store.held() && needed > pool.n_free()) {
    throw out_of_pages("Cache::hold_raw: the rows of sequence " + std::to_string(seq) + ", layer " +
                       std::to_string(layer) + " that n_rows = " + std::to_string(n_rows) +
                       " lets go need " + std::to_string(needed) + " pages, free are " +
                       std::to_string(pool.n_free()));
  }
  const std::int64_t evicted = store.rows_evicted(impl_->layers[l]);
  bool changing = false;
  try {
    store.hold(impl_->layers[l], pool, impl_->scratch, n, impl_->config.max_tokens, &changing);
  } catch (...) {
    s.broken = changing;
    throw;
  }
  impl_->counters.rows_dropped += store.rows_evicted(impl_->layers[l]) - evicted;
}

std::int64_t Cache::held_rows(SeqId seq, std::int32_t layer) const {
  impl_->check_layer(layer);
  return impl_->at(seq).layers[static_cast<std::size_t>(layer)].held();
}

void Cache::stop_evicting(SeqId seq, std::int32_t layer, bool stop) {
  impl_->check_layer(layer);
  impl_->at(seq).layers[static_cast<std::size_t>(layer)].set_evicts(!stop);
}

bool Cache::evicts(SeqId seq, std::int32_t layer) const {
  impl_->check_layer(layer);
  return impl_->at(seq).layers[static_cast<std::size_t>(layer)].evicts();
}

std::int64_t Cache::n_kept(SeqId seq, std::int32_t layer, std::int32_t kv_head) const {
  impl_->check_layer(layer);
  const LayerInfo& info = impl_->layers[static_cast<std::size_t>(layer)];
  check_range("Cache::n_kept", "kv_head", kv_head, 0, info.shape.n_kv_heads - 1);
  return impl_->at(seq).layers[static_cast<std::size_t>(layer)].n_kept(info, kv_head);
}

std::int64_t Cache::n_tokens(SeqId seq, std::int32_t layer) const {
  impl_->check_layer(layer);
  return impl_->at(seq).layers[static_cast<std::size_t>(layer)].n_tokens();
}

bool Cache::has_clamped(SeqId seq) const { return impl_->at(seq).clamped; }

CacheBytes Cache::bytes() const noexcept {
  CacheBytes all;
  double books = 0.0;
  for (const auto& s : impl_->sequences) {
    if (!s) continue;
    const CacheBytes one = impl_->bytes_of(*s);
    all.window += one.window;
    all.tables += one.tables;
    all.n_values += one.n_values;
    for (const LayerStore& store : s->layers) {
      books += store.books(Side::key).bytes_shared() + store.books(Side::value).bytes_shared();
    }
  }
  all.payload += std::llround(books);
  for (const PagePool& pool : impl_->pools) {
    const std::int64_t used = pool.n_pages() - pool.n_free();
    all.payload += used * static_cast<std::int64_t>(pool.page_bytes());
  }
  return all;
}

CacheStats Cache::stats() const noexcept {
  CacheStats s = impl_->counters;
  s.tiles_encoded = impl_->scratch.tiles_encoded;
  s.flush = impl_->scratch.flush;
  s.bytes = bytes();
  s.sequences_max = impl_->config.max_sequences;
  for (const PagePool& pool : impl_->pools) {
    s.pages_total += pool.n_pages();
    s.pages_free += pool.n_free();
  }
  for (const auto& sequence : impl_->sequences) {
    if (!sequence) continue;
    ++s.sequences_open;
    for (std::size_t l = 0; l < impl_->layers.size(); ++l) {
      const LayerInfo& layer = impl_->layers[l];
      const LayerStore& store = sequence->layers[l];
      s.tokens += store.n_tokens();
      s.rows_encoded += store.rows_encoded(layer);
      s.rows_raw += store.rows_raw(layer);
      s.rows_evicted += store.rows_evicted(layer);
      s.layers_held += store.held() > 0 ? 1 : 0;
      s.layers_not_evicting += store.evicts() ? 0 : 1;
    }
  }
  return s;
}

CacheBytes Cache::bytes(SeqId seq) const { return impl_->bytes_of(impl_->at(seq)); }

std::int64_t Cache::free_pages(std::int32_t layer) const noexcept {
  if (layer < 0 || layer >= n_layers()) return 0;
  return impl_->pool(static_cast<std::size_t>(layer)).n_free();
}

KvView Cache::view(std::int32_t layer, std::span<const SeqId> seqs, ViewBuffers& b) const {
  impl_->check_layer(layer);
  const auto l = static_cast<std::size_t>(layer);
  const LayerInfo& info = impl_->layers[l];
  b.indptr.assign(1, 0);
  b.indices.clear();
  b.last_page_len.clear();
  b.first_pos.clear();
  b.sinks.clear();
  b.kept.clear();
  b.recent.clear();
  b.k_center.clear();
  b.v_center.clear();
  b.k_codecs.clear();
  b.v_codecs.clear();
  for (const SeqId seq : seqs) add_to_view(info, impl_->at(seq).layers[l], b);
  KvView view;
  view.shape = info.shape;
  view.n_seq = static_cast<std::int32_t>(seqs.size());
  view.k_codec = info.config.k.codec;
  view.v_codec = info.config.v.codec;
  view.format = info.format;
  const PagePool& pool = impl_->pools[info.pool];
  view.pages = pool.base();
  view.page_stride = static_cast<std::int64_t>(info.format.page_bytes());
  view.indptr = b.indptr.data();
  view.indices = b.indices.data();
  view.last_page_len = b.last_page_len.data();
  view.first_pos = b.first_pos.data();
  view.slot_pos = pool.positions();
  if (info.config.policy.per_query_head()) view.slot_mask = pool.masks();
  view.sinks = b.sinks.data();
  if (info.stages_rows) view.kept = b.kept.data();
  view.recent = b.recent.data();
  if (!b.k_codecs.empty()) view.k_codecs = b.k_codecs.data();
  if (!b.v_codecs.empty()) view.v_codecs = b.v_codecs.data();
  if (!b.k_center.empty()) view.k_center = b.k_center.data();
  if (!b.v_center.empty()) view.v_center = b.v_center.data();
  view.k_raw_dtype = info.k_dtype;
  view.v_raw_dtype = info.v_dtype;
  return view;
}

}  // namespace kvcodec
