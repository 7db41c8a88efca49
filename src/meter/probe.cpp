// Sampling, checks, alarms.
#include "kvcodec/meter/probe.hpp"

#include <cmath>
#include <numeric>
#include <vector>

#include "kvcodec/core/dtype.hpp"
#include "src/cache/layer_info.hpp"
#include "src/cache/stopwatch.hpp"
#include "src/meter/kept_rows.hpp"
#include "src/meter/shadow.hpp"

namespace kvcodec {
namespace {

/// Observations that the probe's overall means look back on.
constexpr std::int32_t kOverallWindow = 32;

/// splitmix64.
std::uint64_t mixed(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// A place for a stream. Without a sequence it waits for one to begin in `layer`.
struct Slot {
  SeqId seq = -1;
  std::int32_t layer = 0;
  std::int32_t kv_head = 0;
  std::int64_t n_rows = 0;
  RunningMean error;
  RunningMean kept;
  bool alarmed = false;
  Alarm::Kind kind = Alarm::Kind::threshold;

  bool active() const noexcept { return seq >= 0; }
};

/// What is known of a layer and head, whichever sequences it came from.
struct Track {
  RunningMean error;
  RunningMean baseline;
  RunningMean kept_baseline;
};

/// |out - ref| / |ref|; 0 if they are equal, kLargestError at most and for what is no number.
double relative_error(const float* out, const float* ref, std::int64_t n) noexcept {
  double power = 0.0;
  double difference = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(ref[i]);
    const double d = static_cast<double>(out[i]) - x;
    power += x * x;
    difference += d * d;
  }
  if (difference == 0.0) return 0.0;
  const double error = std::sqrt(difference / power);
  return error < kLargestError ? error : kLargestError;
}

void check(const ProbeOptions& o) {
  check_range("ProbeOptions", "every", o.every, 0, 1 << 20);
  check_range("ProbeOptions", "n_streams", o.n_streams, 1, 4096);
  check_range("ProbeOptions", "streams_per_sequence", o.streams_per_sequence, 0, o.n_streams);
  check_range("ProbeOptions", "min_rows", o.min_rows, 1, 1 << 30);
  kvcodec::check(o.drift);
}

bool has_policy(const Cache& cache) noexcept {
  const auto& layers = cache.config().layers;
  return std::any_of(layers.begin(), layers.end(),
                     [](const LayerConfig& l) { return static_cast<bool>(l.policy); });
}

/// A check reads f16 rows that have left every processor cache: at 16k tokens five times the time that a
/// stream of 4-bit codes takes. With a policy it attends twice, the second time by a mask, over twice
/// the rows that half an eviction leaves (measured: docs/performance.md).
std::int32_t chosen_every(const Cache& cache) noexcept {
  constexpr std::int64_t kPerStream = 1000;  // 5 / 0.5 %
  constexpr std::int64_t kWithPolicy = 8;
  const std::int64_t n_streams = std::int64_t{cache.n_layers()} * cache.config().shape.n_kv_heads;
  const std::int64_t every = kPerStream * (has_policy(cache) ? kWithPolicy : 1) / n_streams;
  return static_cast<std::int32_t>(std::max<std::int64_t>(16, every));
}

/// Rows of one shadow. Throws invalid_argument if it could never be checked.
std::int64_t shadow_rows(const Cache& cache, const ProbeOptions& o) {
  check(o);
  const std::int64_t row =
      2 * cache.config().shape.head_dim * static_cast<std::int64_t>(dtype_bytes(o.dtype));
  check_range("ProbeOptions", "max_bytes", o.max_bytes, o.n_streams * row * o.min_rows,
              std::int64_t{1} << 50);
  return std::min(o.max_bytes / o.n_streams / row, cache.config().max_tokens);
}

}  // namespace

const char* to_string(Alarm::Kind kind) noexcept {
  switch (kind) {
    case Alarm::Kind::threshold: return "threshold";
    case Alarm::Kind::drift: return "drift";
    default: return "kept_drift";
  }
}

struct QualityProbe::Impl {
  ProbeOptions options;
  AlarmFn on_alarm;
  HeadShape shape;
  std::int32_t n_layers;
  Shadow shadow;
  std::vector<Slot> slots;
  std::vector<Track> tracks;  ///< [n_layers, n_kv_heads]
  ProbeStats counters;
  RunningMean error;
  RunningMean kept;
  // Where the walk over layers and heads stands.
  std::int64_t walk_at;
  std::int64_t walk_step;
  // The step, and whose turn it is in it.
  std::int32_t last_layer;
  bool pending = false;
  std::int32_t turn = -1;
  std::int32_t last_turn = -1;
  // Of one look.
  std::vector<float> q, ref;  ///< [gqa_group, head_dim]
  std::vector<KeepMask> masks;
  ViewBuffers view;

  Impl(const Cache& cache, const ProbeOptions& o, AlarmFn fn)
      : options(o),
        on_alarm(std::move(fn)),
        shape(cache.config().shape),
        n_layers(cache.n_layers()),
        shadow(shape, o.dtype, o.n_streams, shadow_rows(cache, o)),
        slots(static_cast<std::size_t>(o.n_streams)),
        tracks(static_cast<std::size_t>(n_layers * std::int64_t{shape.n_kv_heads})),
        last_layer(n_layers) {
    if (options.every == 0) options.every = chosen_every(cache);
    const auto n = static_cast<std::int64_t>(tracks.size());
    walk_at = static_cast<std::int64_t>(mixed(o.seed) % static_cast<std::uint64_t>(n));
    // Steps of the golden ratio spread the first few streams over the layers.
    walk_step = std::max<std::int64_t>(1, n * 618 / 1000);
    while (std::gcd(walk_step, n) != 1) ++walk_step;
    for (Slot& slot : slots) draw(slot);
    q.resize(static_cast<std::size_t>(shape.gqa_group() * shape.head_dim));
    ref.resize(q.size());
    reserve(cache);
  }

  /// What marking the rows that a policy kept needs.
  void reserve(const Cache& cache) {
    const CacheConfig& config = cache.config();
    if (!has_policy(cache)) return;
    const auto heads = static_cast<std::size_t>(shape.n_kv_heads);
    const std::int64_t pages = (config.max_tokens + config.page_size - 1) / config.page_size;
    masks.resize(static_cast<std::size_t>(shadow.capacity()));
    view.indices.reserve(heads * static_cast<std::size_t>(pages));
    view.indptr.reserve(heads + 1);
    view.last_page_len.reserve(heads);
    view.first_pos.reserve(heads);
    for (auto* rows : {&view.sinks, &view.kept, &view.recent}) rows->reserve(heads);
    for (auto* center : {&view.k_center, &view.v_center}) {
      center->reserve(heads * static_cast<std::size_t>(shape.head_dim));
    }
    for (auto* codecs : {&view.k_codecs, &view.v_codecs}) codecs->reserve(heads);
  }

  bool knows(const Cache& cache, SeqId seq, std::int32_t layer) const noexcept {
    return cache.config().shape == shape && cache.n_layers() == n_layers && layer >= 0 &&
           layer < n_layers && cache.is_open(seq);
  }

  Track& track(std::int32_t layer, std::int32_t head) noexcept {
    return tracks[static_cast<std::size_t>(layer * std::int64_t{shape.n_kv_heads} + head)];
  }

  /// Gives a free slot the next layer and head.
  void draw(Slot& slot) noexcept {
    slot = Slot();
    slot.layer = static_cast<std::int32_t>(walk_at / shape.n_kv_heads);
    slot.kv_head = static_cast<std::int32_t>(walk_at % shape.n_kv_heads);
    walk_at = (walk_at + walk_step) % static_cast<std::int64_t>(tracks.size());
  }

  void call(const Slot& slot, Alarm::Event event) noexcept {
    if (!on_alarm) return;
    Alarm a;
    a.kind = slot.kind;
    a.event = event;
    a.seq = slot.seq;
    a.layer = slot.layer;
    a.kv_head = slot.kv_head;
    a.step = counters.steps;
    a.error = slot.error.mean;
    a.error_kept = slot.kept.mean;
    const RunningMean& baseline = track(slot.layer, slot.kv_head).baseline;
    if (DriftRule{options.drift}.has_baseline(baseline)) a.baseline = baseline.mean;
    try {
      on_alarm(a);
    } catch (...) {
      ++counters.callback_failures;
    }
  }

  void end(Slot& slot) noexcept {
    if (slot.alarmed) call(slot, Alarm::Event::ended);
    draw(slot);
  }

  bool may_begin(const Slot& slot, SeqId seq) const noexcept {
    std::int32_t of_sequence = 0;
    for (const Slot& other : slots) {
      if (other.seq != seq) continue;
      ++of_sequence;
      if (other.layer == slot.layer && other.kv_head == slot.kv_head) return false;
    }
    return options.streams_per_sequence == 0 || of_sequence < options.streams_per_sequence;
  }

  void append(std::int32_t index, std::int64_t first, const AnyRows& k, const AnyRows& v) noexcept {
    Slot& slot = slots[static_cast<std::size_t>(index)];
    const Stopwatch watch(counters.shadow);
    shadow.store(index, first, k, v, 0, k.n_tokens, slot.kv_head);
    slot.n_rows = first + k.n_tokens;
  }

  void begin_step() noexcept {
    ++counters.steps;
    if (counters.steps % options.every == 0) pending = true;
    turn = -1;
    const auto n = static_cast<std::int32_t>(slots.size());
    for (std::int32_t i = 1; pending && turn < 0 && i <= n; ++i) {
      const std::int32_t candidate = (last_turn + i) % n;
      const Slot& slot = slots[static_cast<std::size_t>(candidate)];
      if (slot.active() && slot.n_rows >= options.min_rows) turn = candidate;
    }
    if (turn >= 0) last_turn = turn;
  }

  std::optional<Observation> look(const Cache& cache, const Step& step, const float* out,
                                  const AttendOptions& attend_options);
  void record(const Cache& cache, Slot& slot, const Observation& o) noexcept;
  void judge(Slot& slot, const Track& t) noexcept;
};

/// Nothing if the sequence takes no part in the step.
std::optional<Observation> QualityProbe::Impl::look(const Cache& cache, const Step& step,
                                                    const float* out,
                                                    const AttendOptions& attend_options) {
  Slot& slot = slots[static_cast<std::size_t>(turn)];
  const auto at = std::find(step.seqs.begin(), step.seqs.end(), slot.seq);
  if (at == step.seqs.end() || out == nullptr || step.q.data == nullptr) return std::nullopt;
  const auto s = static_cast<std::size_t>(at - step.seqs.begin());
  const auto sequence = static_cast<std::int64_t>(s);
  const std::int64_t begin = step.indptr.empty() ? sequence : step.indptr[s];
  const std::int64_t end_token = step.indptr.empty() ? sequence + 1 : step.indptr[s + 1];
  if (end_token <= begin) return std::nullopt;
  const bool fresh = step.k_new.data != nullptr && step.v_new.data != nullptr;
  const std::int64_t n_rows = slot.n_rows + (fresh ? end_token - begin : 0);
  if (n_rows > shadow.capacity()) return std::nullopt;  // the coming append gives it up

  const Stopwatch watch(counters.check);
  if (fresh) {
    shadow.store(turn, slot.n_rows, step.k_new, step.v_new, begin, end_token - begin, slot.kv_head);
  }
  const std::int64_t d = shape.head_dim;
  const std::int64_t group = shape.gqa_group();
  for (std::int64_t g = 0; g < group; ++g) {
    const void* row = step.q.row(end_token - 1, slot.kv_head * group + g);
    for (std::int64_t c = 0; c < d; ++c) {
      q[static_cast<std::size_t>(g * d + c)] = load_value(step.q.dtype, row, c);
    }
  }
  AttendOptions own = attend_options;
  if (own.sink_logits != nullptr) own.sink_logits += slot.kv_head * group;
  const float* got = out + ((end_token - 1) * shape.n_q_heads + slot.kv_head * group) * d;
  const auto pos = static_cast<std::int32_t>(n_rows - 1);
  const auto error_of = [&](const KeepMask* mask) {
    const Status status = shadow.attend(turn, n_rows, mask, q.data(), pos, own, ref.data());
    return status == Status::ok ? relative_error(got, ref.data(), group * d) : -1.0;
  };
  Observation o;
  o.seq = slot.seq;
  o.layer = slot.layer;
  o.kv_head = slot.kv_head;
  o.n_rows = n_rows;
  o.error = error_of(nullptr);
  if (o.error < 0.0) return std::nullopt;  // attend() refused the options, too
  o.error_kept = o.error;
  if (cache.config().layers[static_cast<std::size_t>(slot.layer)].policy) {
    const std::span<KeepMask> own_masks(masks.data(), static_cast<std::size_t>(n_rows));
    mark_kept(cache.view(slot.layer, {&slot.seq, 1}, view), slot.kv_head,
              own_masks.first(static_cast<std::size_t>(slot.n_rows)));
    std::fill(own_masks.begin() + slot.n_rows, own_masks.end(), kKeptByAll);
    o.error_kept = error_of(masks.data());
  }
  return o;
}

void QualityProbe::Impl::record(const Cache& cache, Slot& slot, const Observation& o) noexcept {
  ++counters.observations;
  counters.max_error = std::max(counters.max_error, o.error);
  error.add(o.error, kOverallWindow);
  kept.add(o.error_kept, kOverallWindow);
  Track& t = track(slot.layer, slot.kv_head);
  t.error.add(o.error, options.drift.window);
  slot.error.add(o.error, options.drift.window);
  slot.kept.add(o.error_kept, options.drift.window);
  judge(slot, t);
  // What an alarm or a fallback makes of the error is not how it normally is.
  const bool normal = !slot.alarmed && cache.held_rows(slot.seq, slot.layer) == 0 &&
                      cache.evicts(slot.seq, slot.layer);
  if (!normal) return;
  const DriftRule rule{options.drift};
  rule.learn(t.baseline, o.error);
  rule.learn(t.kept_baseline, o.error_kept);
}

void QualityProbe::Impl::judge(Slot& slot, const Track& t) noexcept {
  const DriftRule rule{options.drift};
  if (slot.alarmed) {
    if (!rule.recovered(slot.error, t.baseline)) return;
    if (slot.kind == Alarm::Kind::kept_drift && !rule.recovered(slot.kept, t.kept_baseline)) return;
    slot.alarmed = false;
    call(slot, Alarm::Event::recovered);
    return;
  }
  const bool too_large = rule.too_large(slot.error);
  const bool drifts = rule.drifts(slot.error, t.baseline);
  if (!too_large && !drifts && !rule.drifts(slot.kept, t.kept_baseline)) return;
  slot.alarmed = true;
  slot.kind = too_large ? Alarm::Kind::threshold
              : drifts  ? Alarm::Kind::drift
                        : Alarm::Kind::kept_drift;
  ++counters.alarms;
  call(slot, Alarm::Event::raised);
}

QualityProbe::QualityProbe(const Cache& cache, ProbeOptions options, AlarmFn on_alarm)
    : impl_(std::make_unique<Impl>(cache, options, std::move(on_alarm))) {}
QualityProbe::~QualityProbe() = default;
QualityProbe::QualityProbe(QualityProbe&&) noexcept = default;
QualityProbe& QualityProbe::operator=(QualityProbe&&) noexcept = default;

const ProbeOptions& QualityProbe::options() const noexcept { return impl_->options; }

void QualityProbe::append(const Cache& cache, SeqId seq, std::int32_t layer, const AnyRows& k,
                          const AnyRows& v) noexcept {
  if (k.n_tokens <= 0 || k.n_tokens != v.n_tokens || !impl_->knows(cache, seq, layer)) return;
  const std::int64_t first = cache.n_tokens(seq, layer) - k.n_tokens;
  const bool fits = first + k.n_tokens <= impl_->shadow.capacity();
  for (std::int32_t i = 0; i < impl_->options.n_streams; ++i) {
    Slot& slot = impl_->slots[static_cast<std::size_t>(i)];
    if (slot.layer != layer) continue;
    if (slot.seq == seq && (slot.n_rows != first || !fits)) {
      ++(slot.n_rows != first ? impl_->counters.streams_lost : impl_->counters.streams_outgrown);
      impl_->end(slot);
      continue;
    }
    if (slot.seq == seq) {
      impl_->append(i, first, k, v);
    } else if (!slot.active() && first == 0 && fits && impl_->may_begin(slot, seq)) {
      slot.seq = seq;
      ++impl_->counters.streams_started;
      impl_->append(i, first, k, v);
    }
  }
}

void QualityProbe::truncate(SeqId seq, std::int64_t n_tokens) noexcept {
  for (Slot& slot : impl_->slots) {
    if (slot.seq == seq) slot.n_rows = std::min(slot.n_rows, std::max<std::int64_t>(0, n_tokens));
  }
}

void QualityProbe::close(SeqId seq) noexcept {
  for (Slot& slot : impl_->slots) {
    if (slot.active() && slot.seq == seq) impl_->end(slot);
  }
}

std::optional<Observation> QualityProbe::observe(const Cache& cache, std::int32_t layer,
                                                 const Step& step, const float* out,
                                                 const AttendOptions& options) noexcept {
  Impl& p = *impl_;
  if (layer <= p.last_layer) p.begin_step();
  p.last_layer = layer;
  if (p.turn < 0) return std::nullopt;
  Slot& slot = p.slots[static_cast<std::size_t>(p.turn)];
  if (slot.layer != layer || !slot.active()) return std::nullopt;
  if (!p.knows(cache, slot.seq, layer) || cache.n_tokens(slot.seq, layer) != slot.n_rows) {
    ++p.counters.streams_lost;
    p.end(slot);
    p.turn = -1;
    return std::nullopt;
  }
  try {
    const std::optional<Observation> o = p.look(cache, step, out, options);
    if (!o) return std::nullopt;
    p.pending = false;
    p.turn = -1;
    p.record(cache, slot, *o);
    return o;
  } catch (...) {
    return std::nullopt;  // no memory for a view: nothing was seen
  }
}

ProbeStats QualityProbe::stats() const noexcept {
  ProbeStats s = impl_->counters;
  for (const Slot& slot : impl_->slots) {
    s.streams += slot.active() ? 1 : 0;
    s.alarms_active += slot.alarmed ? 1 : 0;
    s.shadow_bytes += slot.n_rows * impl_->shadow.row_bytes();
  }
  s.error = impl_->error.mean;
  s.error_kept = impl_->kept.mean;
  for (std::size_t i = 0; i < impl_->tracks.size(); ++i) {
    const RunningMean& error = impl_->tracks[i].error;
    if (error.n == 0 || (s.worst_layer >= 0 && error.mean <= s.worst_error)) continue;
    s.worst_error = error.mean;
    s.worst_layer = static_cast<std::int32_t>(i) / impl_->shape.n_kv_heads;
    s.worst_kv_head = static_cast<std::int32_t>(i) % impl_->shape.n_kv_heads;
  }
  return s;
}

RunningMean QualityProbe::running_error(std::int32_t layer, std::int32_t kv_head) const {
  check_range("QualityProbe", "layer", layer, 0, impl_->n_layers - 1);
  check_range("QualityProbe", "kv_head", kv_head, 0, impl_->shape.n_kv_heads - 1);
  return impl_->track(layer, kv_head).error;
}

}  // namespace kvcodec
