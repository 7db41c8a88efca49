#include "kvcodec/meter/fallback.hpp"

#include <algorithm>
#include <limits>
#include <new>

#include "src/cache/layer_info.hpp"

namespace kvcodec {
namespace {

/// As many alarms as a probe can have.
constexpr std::size_t kMaxAlarms = 4096;

void more(std::uint16_t& n) noexcept {
  if (n < std::numeric_limits<std::uint16_t>::max()) ++n;
}

void fewer(std::uint16_t& n) noexcept {
  if (n > 0) --n;
}

}  // namespace

FallbackPolicy::FallbackPolicy(const Cache& cache, FallbackOptions options)
    : options_(options), n_layers_(cache.n_layers()), max_sequences_(cache.config().max_sequences) {
  check_range("FallbackOptions", "hold_rows", options.hold_rows, 1, 65536);
  taken_.resize(static_cast<std::size_t>(max_sequences_) * static_cast<std::size_t>(n_layers_));
  wanted_.resize(options.scope == FallbackOptions::Scope::layer
                     ? static_cast<std::size_t>(n_layers_)
                     : taken_.size());
  asked_.reserve(kMaxAlarms);
}

FallbackPolicy::Wanted& FallbackPolicy::wanted(SeqId seq, std::int32_t layer) noexcept {
  return wanted_[place(options_.scope == FallbackOptions::Scope::layer ? 0 : seq, layer)];
}

void FallbackPolicy::on_alarm(const Alarm& a) noexcept {
  if (a.seq < 0 || a.seq >= max_sequences_ || a.layer < 0 || a.layer >= n_layers_) return;
  using Action = FallbackOptions::Action;
  if (a.event == Alarm::Event::raised) {
    const bool codec = a.kind == Alarm::Kind::kept_drift || a.error_kept >= 0.5 * a.error;
    Asked asked{a.seq, a.layer, a.kv_head, codec, !codec};
    if (options_.action != Action::automatic) {
      asked.hold = options_.action != Action::stop_evicting;
      asked.stop = options_.action != Action::hold_raw;
    }
    Wanted& w = wanted(a.seq, a.layer);
    if (asked.hold) more(w.hold);
    if (asked.stop) more(w.stop);
    if (asked_.size() < kMaxAlarms) asked_.push_back(asked);
    changed_ = true;
    return;
  }
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    const Asked& asked = asked_[i];
    if (asked.seq != a.seq || asked.layer != a.layer || asked.kv_head != a.kv_head) continue;
    const bool ends =
        a.event == Alarm::Event::recovered || options_.scope == FallbackOptions::Scope::layer;
    if (ends && options_.until_recovered) withdraw(i);
    asked_[i] = asked_.back();
    asked_.pop_back();
    return;
  }
}

void FallbackPolicy::withdraw(std::size_t index) noexcept {
  const Asked& asked = asked_[index];
  Wanted& w = wanted(asked.seq, asked.layer);
  if (asked.hold) fewer(w.hold);
  if (asked.stop) fewer(w.stop);
  changed_ = true;
}

Status FallbackPolicy::apply(Cache& cache) noexcept {
  const bool by_layer = options_.scope == FallbackOptions::Scope::layer;
  // Sequences that begin while a layer is in alarm are held as well.
  const bool spreads = by_layer && std::any_of(wanted_.begin(), wanted_.end(), [](const Wanted& w) {
                         return w.hold > 0 || w.stop > 0;
                       });
  if (!changed_ && !spreads) return Status::ok;
  changed_ = false;
  Status status = Status::ok;
  for (SeqId seq = 0; seq < max_sequences_; ++seq) {
    if (!cache.is_open(seq)) {
      close(seq);
      continue;
    }
    for (std::int32_t layer = 0; layer < n_layers_; ++layer) {
      Status failed = Status::out_of_memory;
      try {
        apply(cache, seq, layer);
        continue;
      } catch (const out_of_pages&) {
        failed = Status::out_of_pages;
      } catch (...) {
      }
      changed_ = true;
      if (status == Status::ok) status = failed;
    }
  }
  return status;
}

void FallbackPolicy::apply(Cache& cache, SeqId seq, std::int32_t layer) {
  const Wanted& w = wanted(seq, layer);
  Taken& t = taken_[place(seq, layer)];
  if (w.hold > 0 && !t.hold && cache.held_rows(seq, layer) == 0) {
    cache.hold_raw(seq, layer, options_.hold_rows);
    t.hold = true;
    ++n_held_;
  }
  if (w.stop > 0 && !t.stop && cache.evicts(seq, layer)) {
    cache.stop_evicting(seq, layer, true);
    t.stop = true;
    ++n_not_evicting_;
  }
  if (w.stop == 0 && t.stop) {
    cache.stop_evicting(seq, layer, false);
    t.stop = false;
    --n_not_evicting_;
  }
  if (w.hold == 0 && t.hold) {
    cache.hold_raw(seq, layer, 0);
    t.hold = false;
    --n_held_;
  }
}

void FallbackPolicy::close(SeqId seq) noexcept {
  if (seq < 0 || seq >= max_sequences_) return;
  for (std::int32_t layer = 0; layer < n_layers_; ++layer) {
    Taken& t = taken_[place(seq, layer)];
    n_held_ -= t.hold ? 1 : 0;
    n_not_evicting_ -= t.stop ? 1 : 0;
    t = Taken();
    if (options_.scope == FallbackOptions::Scope::sequence) wanted(seq, layer) = Wanted();
  }
  if (options_.scope == FallbackOptions::Scope::sequence) {
    std::erase_if(asked_, [seq](const Asked& asked) { return asked.seq == seq; });
  }
}

}  // namespace kvcodec
