// Appending on the device: what a Cache does between new rows and pages (transform, rounding, sinks, the
// window of newest rows, encoding), with the state of that in device memory, so that decode steps of an
// engine, attention included, run and are captured into a graph without the host.
//
// All pointers are device pointers unless said otherwise. Calls are ordered on their stream, return
// before the work is done, allocate nothing, wait for nothing and may be captured. Arguments are checked
// on the host when a call is made; what stands in device memory is checked on the device, where
// LayerWindow::status tells. Two calls on one window must not run at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/cache/window_rule.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/cuda/memory.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::cuda {

/// Why a sequence did not take what it was told to; bits of LayerWindow::status.
enum WindowStatus : std::uint32_t {
  kWindowOk = 0,
  /// A page that the step fills is not in the sequence's lists, or not in the pool.
  kLacksPages = 1,
  /// Its range of new rows is negative, longer than max_tokens_per_seq or not among the rows given; the
  /// sequence would have 2^31 tokens; or it was to be truncated to more tokens than it has.
  kBadRange = 2,
  /// A tile would have to be cut whose codec mixes rows, or rows that a center is the mean of.
  kCannotTruncate = 4,
  /// The layer centers rows at a mean that only a Cache computes (Centering::Kind::prompt), and the
  /// sequence did not come from one.
  kLacksCenter = 8,
};

/// Rows of one sequence in one layer. n_sink + n_encoded + n_recent tokens, in order of age.
struct WindowCounts {
  std::int64_t n_encoded = 0;  ///< in pages, the same for all heads
  std::int32_t n_sink = 0;
  std::int32_t n_recent = 0;

  KVCODEC_HD constexpr std::int64_t n_tokens() const noexcept {
    return n_sink + n_encoded + n_recent;
  }
};

/// What an append has in store for one sequence; its kernels' own.
struct WindowPlan;

/// One side (K or V) of a window.
struct WindowSide {
  AnyCodec codec;            ///< with device tables
  TransformChain transform;  ///< with device factors
  DType raw_dtype = DType::f16;
  const float* center = nullptr;  ///< [n_seq, n_kv_heads, head_dim] in transformed space; or null
  std::byte* sinks = nullptr;     ///< [n_seq, n_kv_heads, n_sink, head_dim] of raw_dtype
  std::byte* recent = nullptr;    ///< [n_seq, n_kv_heads, rule.capacity(), head_dim]
};

/// The windows of n_seq sequences of one layer, and of each what attention has to know. Trivially
/// copyable; DeviceWindow owns the memory. A sequence is a slot, 0..n_seq - 1.
struct LayerWindow {
  HeadShape shape;
  PageFormat format;
  std::int32_t n_seq = 0;
  std::int32_t n_sink = 0;  ///< LayerConfig::n_sink
  WindowRule rule;          ///< of LayerConfig's n_recent, rollback_rows and flush_rows
  bool cuts_tiles = false;  ///< whether a sequence may be cut to a length inside a tile
  std::int32_t n_centered =
      0;  ///< rows that a center of the prompt is the mean of; 0: no such center
  WindowSide k;
  WindowSide v;

  WindowCounts* counts = nullptr;     ///< [n_seq]
  std::int64_t* n_encoded = nullptr;  ///< [n_streams] the same as counts say, as KvView has it
  std::int32_t* first_pos = nullptr;  ///< [n_streams] as in KvView
  RawRows* sinks = nullptr;           ///< [n_seq, n_kv_heads] as in KvView
  RawRows* recent = nullptr;          ///< [n_seq, n_kv_heads]
  /// [n_seq] bits of WindowStatus. Sticky: a sequence whose word is not 0 takes no rows and is not
  /// truncated until the word is cleared, so that no step can be lost between two that succeed.
  std::uint32_t* status = nullptr;
  std::uint32_t* clamped = nullptr;  ///< [n_seq] not 0: as Cache::has_clamped
  WindowPlan* plans = nullptr;       ///< [n_seq] of the append that runs

  /// Encoded rows of a sequence that was appended n_tokens tokens and never truncated. One that was has
  /// no more than at its longest.
  KVCODEC_HD constexpr std::int64_t encoded_rows(std::int64_t n_tokens) const noexcept {
    return n_tokens > n_sink ? rule.encoded_after(n_tokens - n_sink, 0) : 0;
  }
  /// Pages that each stream of such a sequence needs: what its lists must hold before the append that
  /// brings it to n_tokens tokens.
  KVCODEC_HD constexpr std::int64_t pages_needed(std::int64_t n_tokens) const noexcept {
    return (encoded_rows(n_tokens) + format.page_size - 1) / format.page_size;
  }
  /// Rows of one sequence and head that are not encoded, at most: AttendLimits::max_raw_rows.
  KVCODEC_HD constexpr std::int64_t max_raw_rows() const noexcept {
    return n_sink + rule.capacity();
  }
};
static_assert(std::is_trivially_copyable_v<LayerWindow>);

/// The pages of a window's sequences and their lists, which the caller owns. Streams as in KvView.
struct PageTable {
  std::byte* pages = nullptr;    ///< page i at pages + i * page_stride, on 16 bytes
  std::int64_t page_stride = 0;  ///< bytes, at least format.page_bytes(), a multiple of 16
  std::int64_t n_pages = 0;      ///< in the pool
  /// [n_streams + 1] into indices: the room of each stream's list, which may be more than it uses
  const std::int64_t* indptr = nullptr;
  /// Page numbers, oldest first; negative: still to come. A page that an append writes to must not be in
  /// another stream's list.
  const std::int32_t* indices = nullptr;
};

/// New rows for the sequences of a window.
struct AppendRows {
  AnyRows k;  ///< [n_tokens, n_kv_heads, head_dim], any strides, after position encoding; as
  AnyRows v;  ///< Cache::append takes them
  /// [n_seq + 1] tokens indptr[s] .. indptr[s + 1] - 1 are for sequence s
  const std::int64_t* indptr = nullptr;
  std::int64_t max_tokens_per_seq =
      1;                        ///< most new tokens of a sequence, 1..2^24; sizes the launches
  std::int32_t* pos = nullptr;  ///< [n_tokens] set to the position of each token; or null
};

/// Appends to every sequence, with the bytes that Cache::append leaves, however the rows are spread
/// over calls.
///
/// Launches: one that plans, those that encode (one if K and V have codecs of one type, else two; one
/// more for qjl keys), one that moves rows in the windows. A sequence that cannot take its rows is left as
/// it was and its status says why; the others are not concerned.
/// Throws invalid_argument naming the field, cuda_error.
void append_rows(const LayerWindow& window, const PageTable& pages, const AppendRows& rows,
                 Stream stream = nullptr);

/// Takes back the newest rows of every sequence s so that n_tokens[s] remain, in one launch; negative:
/// leaves it alone. What Cache::truncate allows is allowed here, but that f32 above head_dim 192, f16 and
/// bf16 at 256 are cut at edges of tiles only; status tells what was refused.
/// n_tokens[s] = 0 makes s a new sequence: it always works and clears status and clamped.
///
/// n_tokens [n_seq]. Pages stay with the caller. Throws invalid_argument, cuda_error.
void truncate_rows(const LayerWindow& window, const std::int64_t* n_tokens,
                   Stream stream = nullptr);

/// Owns the memory of a LayerWindow, and device copies of its codecs and transforms.
class DeviceWindow {
 public:
  DeviceWindow() = default;
  /// The window that layer `layer` of Cache(config) has, for config.max_sequences empty sequences;
  /// max_tokens is not looked at. All memory is taken here. Throws as Cache does; unsupported for what
  /// needs the host: policies and codebooks; cuda_error.
  DeviceWindow(const CacheConfig& config, std::int32_t layer, Stream stream = nullptr);

  const LayerWindow& window() const noexcept { return window_; }
  /// What attend() takes, valid as long as this object and the table, through appends and truncations.
  KvView view(const PageTable& pages) const;
  std::size_t bytes() const noexcept;

  /// Makes sequence i of a host's view the sequence in slot first_seq + i, but for its pages
  /// (DevicePages::load). The view is of Cache(config) in this layer. Throws invalid_argument, also for
  /// other sizes or rows than this window holds; unsupported for a sequence without an encoded row whose
  /// center is a mean of the prompt; cuda_error.
  void load(const KvView& host, std::int32_t first_seq = 0, Stream stream = nullptr);

  /// Waits for the stream. Throws cuda_error.
  std::vector<WindowCounts> counts(Stream stream = nullptr) const;
  std::vector<std::uint32_t> status(Stream stream = nullptr) const;
  std::vector<std::uint32_t> clamped(Stream stream = nullptr) const;
  /// Lets sequences that were stopped go on. Asynchronous, may be captured.
  void clear_status(Stream stream = nullptr);

 private:
  LayerWindow window_;
  DeviceCodec k_codec_, v_codec_;
  DeviceTransform k_transform_, v_transform_;
  DeviceBuffer<std::byte> memory_;
};

/// A pool of pages with lists for the sequences of a window: the simplest PageTable. Every stream has
/// room for pages_per_stream pages.
class DevicePages {
 public:
  DevicePages() = default;
  /// pages_per_stream 1..2^31-1, n_pages 0..2^31-1. Throws invalid_argument, cuda_error, std::bad_alloc.
  DevicePages(const LayerWindow& window, std::int64_t pages_per_stream, std::int64_t n_pages,
              Stream stream = nullptr);

  PageTable table() const noexcept;
  std::int64_t n_free() const noexcept { return static_cast<std::int64_t>(free_.size()); }
  std::size_t bytes() const noexcept;

  /// Gives every stream of a sequence pages until it has n (LayerWindow::pages_needed); one small copy
  /// in the order of the stream if there are any. Throws out_of_pages, also where n is above
  /// pages_per_stream: then nothing has changed; invalid_argument, cuda_error.
  void reserve(std::int32_t seq, std::int64_t n, Stream stream = nullptr);
  /// Takes all pages of a sequence back. Work on the stream before may still use them, work on it after
  /// may have them again. Throws invalid_argument, cuda_error.
  void release(std::int32_t seq, Stream stream = nullptr);
  /// Copies the pages of sequence i of a host's view to slot first_seq + i, which gets as many. Throws
  /// as reserve() does.
  void load(const KvView& host, std::int32_t first_seq = 0, Stream stream = nullptr);

 private:
  std::int64_t& n_listed(std::int32_t seq);

  PageFormat format_;
  std::int32_t streams_per_seq_ = 0;
  std::int64_t pages_per_stream_ = 0;
  std::vector<std::int64_t> n_listed_;  ///< [n_seq] pages of each stream of a sequence
  std::vector<std::int32_t> lists_;     ///< [n_streams, pages_per_stream], as on the device
  std::vector<std::int32_t> free_;      ///< lowest number last
  DeviceBuffer<std::byte> pages_;
  DeviceBuffer<std::int64_t> indptr_;
  DeviceBuffer<std::int32_t> indices_;
};

}  // namespace kvcodec::cuda
