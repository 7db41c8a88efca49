// What attend() and score() have in common on the host: their checks, the geometry of a call, queries.
#pragma once

#include <cstddef>

#include "cuda/attend/params.hpp"
#include "cuda/core/device.cuh"
#include "kvcodec/cuda/attend.hpp"

namespace kvcodec::cuda {

/// Throws invalid_argument for a bad shape or limit; `what` names the call in messages.
void check_sizes(const char* what, const KvView& view, const AttendLimits& limits);

/// Throws invalid_argument for an option out of range, a missing pointer or codecs without tables.
/// options.sink_logits is not looked at.
void check_call(const char* what, const KvView& view, const DeviceQueries& queries,
                const AttendOptions& options);
/// Throws invalid_argument unless the memory is there and large enough.
void check_workspace(const char* what, const void* workspace, std::size_t bytes,
                     std::size_t needed);

/// Splits and units of at most `most_rows` query rows; everything but formats and pointers.
AttendParams plan_call(const KvView& view, const AttendLimits& limits, int most_rows);

/// Fills in queries and options.
void set_call(AttendParams& p, const DeviceQueries& queries, const AttendOptions& options);

/// Grid with a CTA for every query row: x KV heads times units, y rows of a unit, z sequences.
dim3 grid_of_rows(const AttendParams& p);

/// Bytes of the sketches of all query rows, a multiple of 256; 0 unless keys are QJL's.
std::size_t sketch_bytes(const AttendParams& p);
/// Launches the kernel that makes them. Throws cuda_error.
void launch_sketch(const char* what, const AttendParams& p, float* sketch, cudaStream_t stream);

}  // namespace kvcodec::cuda
