// Inner products of queries with compressed keys on the device: the logits of attention without the
// attention, for engines that rank or select by them.
#pragma once

#include "kvcodec/cuda/attend.hpp"

namespace kvcodec::cuda {

/// Why score() cannot serve the keys of a view of this kind, or "" if it can: every built-in codec, QJL's
/// estimator included. Values may be in any codec. Looks at no pointer.
std::string why_no_scores(const KvView& view);

/// Bytes of working memory on the device, a multiple of 256. Throws unsupported and invalid_argument as
/// score() does.
std::size_t score_workspace_bytes(const KvView& view, const AttendLimits& limits);

/// scores [n_tokens, n_q_heads, stride]: value r of a query row is its logit for encoded row r of its
/// stream, sm_scale * q . k with the soft cap if there is one, and minus infinity where the query does
/// not see the row (its position, the window, masks). Values from the stream's rows on are not written.
///
/// Keys are read as they are stored, q is not quantized, sums are f32. Rows that are not encoded and
/// k_new have no scores here; v_new, sink logits and limits.max_raw_rows are not looked at.
/// stride: at least limits.max_encoded_rows. Two launches for every AttendLimits::logits_bytes, QJL keys
/// take one before. Asynchronous on `stream`, allocates nothing, may be captured. `workspace`: device
/// memory aligned to 256 bytes. Throws unsupported, invalid_argument naming the argument, cuda_error.
void score(const KvView& view, const DeviceQueries& queries, const AttendOptions& options,
           const AttendLimits& limits, float* scores, std::int64_t stride, void* workspace,
           std::size_t workspace_bytes, Stream stream = nullptr);

}  // namespace kvcodec::cuda
