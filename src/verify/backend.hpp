// Whose kernels golden cases run through: the CPU's, or those that a test puts in their place.
#pragma once

#include <cstddef>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/codec/any_codec.hpp"

namespace kvcodec::golden {

/// The calls of the library that a case checks; these run on the CPU. Host pointers throughout.
class Backend {
 public:
  virtual ~Backend() = default;

  /// As AnyCodec's. The codec's tables are loaded.
  virtual bool encode_tile(const AnyCodec& codec, Side side, int head_dim, const float* x,
                           std::byte* tile);
  virtual void decode_tile(const AnyCodec& codec, Side side, int head_dim, const std::byte* tile,
                           float* x);
  /// kvcodec::attend with a workspace of its own.
  virtual Status attend(const KvView& view, const Queries& queries, float* out, float* lse,
                        const AttendOptions& options);
  /// What rounding of queries and weights adds to the errors that a case allows: times the root mean
  /// square of the outputs, and to every logit.
  virtual double out_error() const { return 0.0; }
  virtual double lse_error() const { return 0.0; }
};

/// The backend in use.
Backend& backend();

/// Puts a backend in use as long as it lives; one at a time, while no case runs.
class ScopedBackend {
 public:
  explicit ScopedBackend(Backend& used);
  ~ScopedBackend();
  ScopedBackend(const ScopedBackend&) = delete;
  ScopedBackend& operator=(const ScopedBackend&) = delete;

 private:
  Backend* before_;
};

}  // namespace kvcodec::golden
