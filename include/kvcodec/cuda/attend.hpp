// Attention of query rows over a compressed cache in device memory (kvcodec/attend/attend.hpp says
// what is computed). The view is a KvView whose pointers, those inside RawRows included, are device
// pointers; its bytes are those of the CPU.
//
// Two paths lead there (AttendPath). On the fused one codes are operands of tensor-core products with f16
// factors and f32 sums: queries and weights are rounded to f16, which costs about 2^-11 of their size
// (docs/numerics.md). The general one serves every built-in codec in f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cuda/device.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::cuda {

/// The largest sizes that a launch must serve. Lengths live on the device, where they may change
/// between replays of a captured graph; these are what grid and workspace are made for. Where more rows
/// stand on the device than a limit says, the rows beyond it are read or not: no memory is touched that
/// is not attend's, and the result is of no use.
struct AttendLimits {
  std::int32_t max_tokens_per_seq = 1;  ///< query tokens of one sequence, 1..2^16
  std::int64_t max_encoded_rows = 0;    ///< of one stream
  std::int64_t max_raw_rows = 0;        ///< of one sequence and head, k_new included
  /// Encoded rows per split, a multiple of 256; results depend on it in their last bits, and on
  /// nothing else about the launch. 0: 1024.
  std::int32_t split_rows = 0;
  /// Working memory for logits that the general path asks for at most, bytes, if one split of all
  /// (sequence, head) fits; less memory means more launches. Results do not depend on it. 0: 64 MiB.
  std::size_t logits_bytes = 0;
};

/// How attend() serves a view.
enum class AttendPath : std::uint8_t {
  none,   ///< not at all: why_unsupported() says why
  fused,  ///< one tensor-core kernel for the pair of codecs: codes never leave registers
  /// a kernel per codec and side, any pair, any head size: tiles are decoded into shared memory,
  /// products are f32, logits pass through memory between two launches. Slower
  general,
};

/// Query tokens of a ragged batch, on the device, in the view's (transformed) space.
struct DeviceQueries {
  const void* q = nullptr;  ///< [n_tokens, n_q_heads, head_dim]
  DType q_dtype = DType::f32;
  const std::int64_t* indptr = nullptr;  ///< [n_seq + 1] first token of each sequence
  const std::int32_t* pos = nullptr;     ///< [n_tokens] position of each token
  const float* k_new = nullptr;  ///< [n_tokens, n_kv_heads, head_dim] as Queries::k_new; or null
  const float* v_new = nullptr;
};

/// Results, on the device.
struct DeviceOutput {
  void* out = nullptr;  ///< [n_tokens, n_q_heads, head_dim]
  DType out_dtype = DType::f32;
  float* lse = nullptr;  ///< [n_tokens, n_q_heads]; or null
};

/// The path that attend() takes for a view of this kind (codecs, shape): the fused one wherever there is
/// one. Looks at no pointer.
AttendPath attend_path(const KvView& view);

/// Why attend() cannot serve a view of this kind, or "" if it can: codecs that are not built in, values
/// in a codec for keys. Looks at no pointer; ask before anything is allocated.
std::string why_unsupported(const KvView& view);
inline bool supports(const KvView& view) { return why_unsupported(view).empty(); }

/// Bytes of working memory on the device, a multiple of 256. Throws unsupported and invalid_argument
/// as attend() does.
std::size_t attend_workspace_bytes(const KvView& view, const AttendLimits& limits);

/// Attends over a view. Fused path: one launch over all rows and one that merges splits. General path:
/// two for every AttendLimits::logits_bytes of encoded rows, one for rows that are not encoded, and one
/// that merges. QJL keys take one before that sketches the queries.
///
/// Asynchronous on `stream`, allocates nothing, may be captured. `workspace` is device memory aligned
/// to 256 bytes. `options.sink_logits` is a device pointer. Throws unsupported as why_unsupported
/// says, invalid_argument for a null pointer, a limit or an option out of range or a workspace that
/// is too small, cuda_error if a launch is refused; then nothing was written.
void attend(const KvView& view, const DeviceQueries& queries, const DeviceOutput& output,
            const AttendOptions& options, const AttendLimits& limits, void* workspace,
            std::size_t workspace_bytes, Stream stream = nullptr);

}  // namespace kvcodec::cuda
