// What to do about an alarm: keep the new tokens of a sequence or a layer exact, or stop evicting there.
//
// "More bits" means raw here. Pages of a layer hold tiles of one pair of codecs, so new tokens cannot
// have finer codes in the middle of a sequence; what a layer can do is to not encode them for now.
// Their number is bounded: beyond hold_rows the oldest of them are encoded as ever.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/meter/probe.hpp"

namespace kvcodec {

/// Settings of a fallback.
struct FallbackOptions {
  enum class Action : std::uint8_t {
    /// hold_raw if what is still there is wrong by at least half of the error, else stop_evicting.
    automatic,
    hold_raw,       ///< Cache::hold_raw
    stop_evicting,  ///< Cache::stop_evicting
    both,
  };
  enum class Scope : std::uint8_t {
    sequence,  ///< the layer of the sequence that the alarm names
    layer,     ///< that layer of every open sequence: a calibration or a model is to blame
  };
  Action action = Action::automatic;
  Scope scope = Scope::sequence;
  std::int32_t hold_rows = 1024;  ///< newest rows kept raw in addition; 1..65536
  /// True: measures end when the stream recovers, and what was held is encoded then. False: they last
  /// until the sequence is closed (scope layer: for good).
  bool until_recovered = true;
};

/// Turns alarms into calls of a cache.
///
///   QualityProbe probe(cache, {}, [&](const Alarm& alarm) { fallback.on_alarm(alarm); });
///   ..  after the last layer of a step:  fallback.apply(cache);
///
/// A stream that ends in alarm leaves the measures of its sequence in place, as nobody can tell how it
/// goes on; those of scope layer end with it, for another stream of the layer will tell. Measures that
/// the caller took himself are left alone. Allocates nothing after construction. Thread safety: one
/// call at a time.
class FallbackPolicy {
 public:
  /// Throws invalid_argument naming the option; std::bad_alloc.
  explicit FallbackPolicy(const Cache& cache, FallbackOptions options = {});

  const FallbackOptions& options() const noexcept { return options_; }

  /// Notes what must be done; alarms of other caches (a layer or sequence that cannot be) are ignored.
  void on_alarm(const Alarm& alarm) noexcept;
  /// Does it, between two steps. ok, or why something could not be done: out_of_pages where rows cannot
  /// be encoded yet, out_of_memory where they cannot be held. It is tried again by the next call.
  Status apply(Cache& cache) noexcept;
  /// After Cache::close: what was noted for the sequence is forgotten.
  void close(SeqId seq) noexcept;

  /// (sequence, layer) pairs that this object holds raw, and that it keeps from evicting.
  std::int64_t n_held() const noexcept { return n_held_; }
  std::int64_t n_not_evicting() const noexcept { return n_not_evicting_; }

 private:
  /// Alarms that want a measure.
  struct Wanted {
    std::uint16_t hold = 0;
    std::uint16_t stop = 0;
  };
  /// Measures that apply() took.
  struct Taken {
    bool hold = false;
    bool stop = false;
  };
  /// What a stream's alarm asked for, so that its end takes back just that.
  struct Asked {
    SeqId seq = -1;
    std::int32_t layer = -1;
    std::int32_t kv_head = -1;
    bool hold = false;
    bool stop = false;
  };

  std::size_t place(SeqId seq, std::int32_t layer) const noexcept {
    return static_cast<std::size_t>(seq) * static_cast<std::size_t>(n_layers_) +
           static_cast<std::size_t>(layer);
  }
  Wanted& wanted(SeqId seq, std::int32_t layer) noexcept;
  void withdraw(std::size_t index) noexcept;
  /// Throws as the cache does.
  void apply(Cache& cache, SeqId seq, std::int32_t layer);

  FallbackOptions options_;
  std::int32_t n_layers_;
  std::int32_t max_sequences_;
  bool changed_ = false;
  std::int64_t n_held_ = 0;
  std::int64_t n_not_evicting_ = 0;
  std::vector<Wanted> wanted_;  ///< [max_sequences, n_layers], or [n_layers] of scope layer
  std::vector<Taken> taken_;    ///< [max_sequences, n_layers]
  std::vector<Asked> asked_;    ///< alarms that are raised; never grows
};

}  // namespace kvcodec
