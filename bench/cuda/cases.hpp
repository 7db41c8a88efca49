// What the device benchmark measures, and how one case is set up.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/cuda/report.hpp"
#include "kvcodec/cuda/codec.hpp"
#include "kvcodec/cuda/memory.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::bench {

/// One query token per sequence over `context` encoded rows, 8 KV heads, head_dim 128.
struct AttendShape {
  int gqa = 1;
  std::int64_t context = 0;
  int batch = 1;

  friend auto operator<=>(const AttendShape&, const AttendShape&) = default;
};

enum class Extent { all, quick, tiny };

/// A format at every shape it is measured at.
struct FormatShapes {
  std::string format;
  std::vector<AttendShape> shapes;
};

/// All cases, and how long to measure each.
struct Plan {
  std::vector<FormatShapes> attend;  ///< f16 first: the others are compared with it
  std::vector<FormatShapes> score;   ///< formats of keys
  std::vector<std::string> encode_formats;
  std::vector<std::string> decode_formats;
  std::vector<std::string> policies;
  int n_samples = 0;
  double sample_ms = 0.0;
  std::size_t bandwidth_bytes = 0;  ///< of a copy
  /// Caches are repeated until they have this size together, and taken in turn: more than any L2.
  std::size_t rotated_bytes = 0;
  std::size_t pool_bytes = 0;  ///< wanted for pages
  std::int64_t encode_tokens = 0;
  std::int64_t judged_tokens = 0;  ///< that policies choose from, of all sequences together
  int append_batch = 0;            ///< sequences that take a token each
};

Plan make_plan(Extent extent);

/// Why a case has no place on this device.
class TooLarge : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Formats of K and V: "int8", or "k=int8,v=nqsym"; transforms as in plans, "hadamard+lm:b4".
struct FormatPair {
  explicit FormatPair(const std::string& text);

  TransformChain k_transform, v_transform;
  AnyCodec k, v;
};

/// A pool full of pages of one format, and attention over parts of it.
class AttendSubject {
 public:
  /// Encodes a few pages on the device and repeats them until `pool` is full.
  AttendSubject(const std::string& format, cuda::DeviceBuffer<std::byte>& pool);

  /// Time and bytes of attend() into `row`. Throws TooLarge, and runtime_error if the output is not
  /// finite.
  void attend(const AttendShape& shape, const Plan& plan, Row& row) const;
  /// The same of score(). Bytes: those of the keys, and the scores.
  void score(const AttendShape& shape, const Plan& plan, Row& row) const;

 private:
  struct Step;
  KvView view_of(const AttendShape& shape) const;

  FormatPair formats_;
  cuda::DeviceBuffer<std::byte>& pool_;
  cuda::DeviceCodec k_, v_;
  PageFormat format_;
};

/// encode_rows of f16 rows of K and V. Bytes: rows read and pages written.
void measure_encode(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row);

/// append_rows of one f16 token of K and V to each of append_batch sequences, pages included, which are
/// written every 64 steps. Bytes: rows read, window written and, once per row, read again and encoded.
void measure_append(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row);

/// select_rows and compact_rows of f16 rows of K and V. Bytes: rows read once to be judged, and those that
/// stay read and written.
void measure_evict(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row);

/// decode_tiles of K tiles to f16. Bytes: tiles read and values written.
void measure_decode(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row);

}  // namespace kvcodec::bench
