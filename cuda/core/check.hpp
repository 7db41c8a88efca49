// CUDA statuses as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kvcodec/core/error.hpp"

namespace kvcodec::cuda {

/// Throws cuda_error unless `status` is cudaSuccess. `call`: what failed, for the message.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // the next call must not find this error again
  throw cuda_error(std::string(call) + ": error " + std::to_string(static_cast<int>(status)) +
                       " (" + cudaGetErrorName(status) + "): " + cudaGetErrorString(status),
                   static_cast<int>(status));
}

}  // namespace kvcodec::cuda
