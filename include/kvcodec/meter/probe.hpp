// Watches the error that a cache makes: a few streams are kept beside it uncompressed, and every n-th
// step the attention of one of them is computed again and compared with what the engine got.
//
//   error = |out - ref| / |ref| over the query heads of one KV head (Euclidean norms)
//
// `out` is what attend() gave the engine in that very step. `ref` is attention of the same query, with
// the same options, over the shadow: every row that was appended, evicted ones included. Where the
// layer has a policy, ref is computed a second time over the rows the cache still has (error_kept), so
// that what codecs lose is told from what eviction loses.
//
// A stream is one KV head of one layer of one sequence. Streams are taken as sequences begin, layers
// and heads in an order that visits them all, and given up when their sequence is closed or its rows
// outgrow the shadow; the next sequence that begins takes the place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cache/cache.hpp"
#include "kvcodec/meter/drift.hpp"

namespace kvcodec {

/// Settings of a probe.
struct ProbeOptions {
  /// Steps from one check to the next; 1..2^20. 0: so many that checks take about half a percent of the
  /// time of attention: 1000 / (n_layers * n_kv_heads), eight times that with a policy, at least 16.
  std::int32_t every = 0;
  std::int32_t n_streams = 4;  ///< watched at one time; 1..4096
  /// Of them, how many may belong to one sequence; 1..n_streams, or 0 for all.
  std::int32_t streams_per_sequence = 0;
  /// All shadows together, reserved at once, committed by the system as rows come; room for min_rows
  /// rows of K and V per stream at least. A stream is given up at max_bytes / n_streams.
  std::int64_t max_bytes = std::int64_t{64} << 20;
  /// Storage of the shadow. f16 rounds by 2^-11, far below any codec's error but that of f16 itself.
  DType dtype = DType::f16;
  /// Streams with fewer rows are not checked: most of them would lie in the raw window, and what is
  /// learnt there as normal is not. 1..2^30.
  std::int32_t min_rows = 512;
  DriftOptions drift;
  std::uint64_t seed = 0;  ///< which layers and heads come first
};

/// One check.
struct Observation {
  SeqId seq = -1;
  std::int32_t layer = -1;
  std::int32_t kv_head = -1;
  std::int64_t n_rows = 0;  ///< of the shadow
  double error = 0.0;       ///< against all rows; at most kLargestError
  double error_kept = 0.0;  ///< against the rows the cache still has; error itself without a policy
};

/// What stands for errors that are larger, infinite or not a number.
inline constexpr double kLargestError = 1e6;

/// A change of a stream's state.
struct Alarm {
  enum class Kind : std::uint8_t {
    threshold,   ///< the running error is too large
    drift,       ///< it has risen against its baseline
    kept_drift,  ///< error_kept alone has: codecs, masked by what eviction loses anyway
  };
  enum class Event : std::uint8_t {
    raised,
    recovered,
    ended,  ///< the stream is watched no more, and had not recovered
  };
  Kind kind = Kind::threshold;  ///< what raised it, in all events
  Event event = Event::raised;
  SeqId seq = -1;
  std::int32_t layer = -1;
  std::int32_t kv_head = -1;
  std::int64_t step = 0;    ///< of the probe
  double error = 0.0;       ///< running means of the stream
  double error_kept = 0.0;  ///< the same
  double baseline = 0.0;    ///< of error in this layer and head; 0 while there is none
};

/// "threshold", "drift" or "kept_drift"; static storage.
const char* to_string(Alarm::Kind kind) noexcept;

/// Called in the middle of observe(), append() or close(), by their thread; must not call the probe.
/// What it throws is dropped and counted.
using AlarmFn = std::function<void(const Alarm&)>;

/// What a probe has seen.
struct ProbeStats {
  // Gauges.
  std::int64_t streams = 0;        ///< watched now
  std::int64_t shadow_bytes = 0;   ///< of their rows
  std::int64_t alarms_active = 0;  ///< streams in alarm
  double error = 0.0;              ///< mean over all observations, weighted to the last 32
  double error_kept = 0.0;         ///< the same
  double worst_error = 0.0;        ///< the largest running error of a layer and head
  std::int32_t worst_layer = -1;   ///< where; -1 without observations
  std::int32_t worst_kv_head = -1;
  double max_error = 0.0;  ///< the largest single observation so far

  // Counters.
  std::int64_t steps = 0;
  std::int64_t observations = 0;
  std::int64_t streams_started = 0;
  std::int64_t streams_outgrown = 0;  ///< given up for their size
  std::int64_t streams_lost = 0;      ///< given up: what was done to them was not handed over
  std::int64_t alarms = 0;            ///< raised
  std::int64_t callback_failures = 0;
  CallTimes check;   ///< checks
  CallTimes shadow;  ///< appends that a stream took rows of
};

/// The probe of one cache.
///
///   cache.append(seq, layer, k, v);  probe.append(cache, seq, layer, k, v);
///   attend(cache, layer, step, out, lse, options, workspace);
///   probe.observe(cache, layer, step, out, options);
///
/// in this order, or attend and observe first where Step::k_new is used. Truncations and closings of
/// the cache are handed over as well. An engine that forgets one loses the stream, not the truth:
/// counts of rows are compared before every check.
///
/// All memory is taken by the constructor; after it nothing is allocated. Thread safety: one call at a
/// time; the cache is only read.
class QualityProbe {
 public:
  /// Throws invalid_argument naming the option; std::bad_alloc. `cache` is looked at, not kept.
  explicit QualityProbe(const Cache& cache, ProbeOptions options = {}, AlarmFn on_alarm = {});
  ~QualityProbe();
  QualityProbe(QualityProbe&&) noexcept;
  QualityProbe& operator=(QualityProbe&&) noexcept;

  /// Those in use: every as it was chosen.
  const ProbeOptions& options() const noexcept;

  /// After Cache::append with the same arguments. k, v [n_tokens, n_kv_heads, head_dim].
  void append(const Cache& cache, SeqId seq, std::int32_t layer, const AnyRows& k,
              const AnyRows& v) noexcept;
  /// After Cache::truncate returned ok.
  void truncate(SeqId seq, std::int64_t n_tokens) noexcept;
  /// After Cache::close. A fork needs no call: it is not watched.
  void close(SeqId seq) noexcept;

  /// After attend() with the same arguments and results. A step begins with a call whose layer is not
  /// above that of the call before. Every n-th step the next stream's turn comes; what it is compared
  /// on is the newest query token of its sequence. Returns the check if this call made one.
  std::optional<Observation> observe(const Cache& cache, std::int32_t layer, const Step& step,
                                     const float* out, const AttendOptions& options) noexcept;

  ProbeStats stats() const noexcept;
  /// The running error of one layer and head over all its streams; n is 0 if it was never checked.
  /// Throws invalid_argument.
  RunningMean running_error(std::int32_t layer, std::int32_t kv_head) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcodec
