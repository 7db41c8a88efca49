// Exceptions for construction and configuration, status codes for the hot path.
//
// Every message names the argument, its value and what is allowed. The library never prints and
// never aborts.
#pragma once

#include <stdexcept>
#include <string>

namespace kvcodec {

/// Base of everything the library throws.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument is outside what its documentation allows.
class invalid_argument : public error {
 public:
  using error::error;
};

/// The request is well-formed, but this build or codec cannot serve it.
class unsupported : public error {
 public:
  using error::error;
};

/// The page pool is exhausted. The call that threw changed nothing.
class out_of_pages : public error {
 public:
  using error::error;
};

/// Bytes that should hold a model, an array or a cache are damaged or truncated.
class corrupt_data : public error {
 public:
  using error::error;
};

/// A call of the CUDA runtime failed. The message names the call, the code and its text.
class cuda_error : public error {
 public:
  cuda_error(const std::string& what, int code) : error(what), code_(code) {}
  /// The cudaError_t.
  int code() const noexcept { return code_; }

 private:
  int code_;
};

/// Result of a call that does not throw.
enum class Status {
  ok,
  invalid_argument,  ///< a size, index or pointer is outside its documented range
  unsupported,       ///< this codec or shape has no implementation
  out_of_pages,      ///< the pool is exhausted; nothing changed
  out_of_memory,     ///< memory could not be had; the sequence may be one that can only be closed
  cannot_truncate,  ///< rows to be restored were encoded by a codec that mixes rows; nothing changed
};

/// One sentence for a status; static storage.
constexpr const char* to_string(Status s) noexcept {
  switch (s) {
    case Status::ok: return "ok";
    case Status::invalid_argument: return "invalid argument";
    case Status::unsupported: return "unsupported codec or shape";
    case Status::out_of_pages: return "the page pool is exhausted";
    case Status::out_of_memory: return "memory could not be had";
    case Status::cannot_truncate:
      return "rows to be dropped were encoded together with others, or judged by a policy";
  }
  return "unknown status";
}

/// Builds the usual message: "<what>: <name> = <value>, allowed: <allowed>".
template <class V>
std::string bad_value(const std::string& what, const char* name, const V& value,
                      const std::string& allowed) {
  std::string text = what;
  text.append(": ").append(name).append(" = ");
  if constexpr (requires { std::to_string(value); }) {
    text.append(std::to_string(value));
  } else {
    text.append(1, '"').append(value).append(1, '"');
  }
  return text.append(", allowed: ").append(allowed);
}

}  // namespace kvcodec
