// Work in stream order: done at once, or recorded where the stream captures.
#pragma once

#include <functional>

#include <driver_types.h>

namespace kvcodec::simt {

/// Does the work now, or puts it into the graph of a stream that captures. Refuses what no device takes:
/// a stream that is none, the legacy stream while a stream captures that waits for it.
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

/// cudaSuccess unless a capture is in progress that forbids calls like this one: allocation, copies that
/// wait, synchronisation of the device. Such a call spoils the capture. `always`: in every mode.
cudaError_t check_unsafe_call(bool always = false);

/// cudaSuccess unless the host must not ask about the stream, because it captures. Spoils the capture.
cudaError_t check_host_waits(cudaStream_t stream);

/// runtime_api.cpp: whether a handle is a stream that lives; whether it waits for the legacy stream.
bool is_stream(cudaStream_t stream);
bool is_blocking(cudaStream_t stream);
/// Whether it is the default stream that waits for all others.
bool is_legacy(cudaStream_t stream);

}  // namespace kvcodec::simt
