// Transforms of rows before they are stored: the concept, the identity, and a run-time choice.
//
// Everything a cache holds (pages, sinks, recent rows) lives in transformed space. Queries are
// transformed once per step and outputs transformed back once per step, never per cached row.
#pragma once

#include <concepts>
#include <cstddef>
#include <new>
#include <string>
#include <type_traits>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// A linear map T of one row, with
///
///   t.forward(head_dim, x)    x <- T x           a K or V row before it is stored
///   t.query(head_dim, q)      q <- T^-t q        so that query(q) . forward(k) = q . k
///   t.output(head_dim, o)     o <- T^-1 o        so that output(forward(v)) = v
///   t.supports(head_dim)
///   T::family, T::parse(options), T::options_help, t.name()   as for codecs
///
/// All work in place on head_dim floats, are pure, noexcept and deterministic. A transform with a
/// matrix of its own per KV head takes the head as well: t.forward(head_dim, kv_head, x), and so on.
template <class T>
concept Transform = std::is_trivially_copyable_v<T> && sizeof(T) <= 32 &&
                    requires(const T t, int head_dim, float* x, const std::string& options) {
  { T::family } -> std::convertible_to<const char*>;
  { T::options_help } -> std::convertible_to<const char*>;
  { T::parse(options) } -> std::same_as<T>;
  { t.name() } -> std::same_as<std::string>;
  { t.supports(head_dim) }
  noexcept->std::same_as<bool>;
}
&&(
    requires(const T t, int head_dim, float* x) {
      { t.forward(head_dim, x) }
      noexcept;
      { t.query(head_dim, x) }
      noexcept;
      { t.output(head_dim, x) }
      noexcept;
    } ||
    requires(const T t, int head_dim, int kv_head, float* x) {
      { t.forward(head_dim, kv_head, x) }
      noexcept;
      { t.query(head_dim, kv_head, x) }
      noexcept;
      { t.output(head_dim, kv_head, x) }
      noexcept;
    });

/// Whether T has a matrix of its own per KV head.
template <class T>
concept PerHeadTransform = Transform<T> &&
    requires(const T t, int head_dim, int kv_head, float* x) {
  t.forward(head_dim, kv_head, x);
};

/// Leaves rows as they are.
struct Identity {
  static constexpr const char* family = "identity";
  static constexpr const char* options_help = "no options";

  static Identity parse(const std::string& options) {
    if (!options.empty()) throw invalid_argument(bad_value(family, "options", options, "none"));
    return {};
  }
  std::string name() const { return family; }
  KVCODEC_HD constexpr bool supports(int) const noexcept { return true; }
  KVCODEC_HD void forward(int, float*) const noexcept {}
  KVCODEC_HD void query(int, float*) const noexcept {}
  KVCODEC_HD void output(int, float*) const noexcept {}
};

static_assert(Transform<Identity>);

/// A transform chosen at run time, by value; the identity unless told otherwise.
class AnyTransform {
 public:
  AnyTransform() noexcept : AnyTransform(Identity{}) {}

  template <Transform T>
  AnyTransform(const T& t) noexcept : functions_(&functions_of<T>) {  // NOLINT: a wrapper
    ::new (static_cast<void*>(value_)) T(t);
  }

  bool is_identity() const noexcept { return functions_ == &functions_of<Identity>; }
  /// The transform as a T, or null if it is another type.
  template <Transform T>
  const T* as() const noexcept {
    if (functions_ != &functions_of<T>) return nullptr;
    return static_cast<const T*>(static_cast<const void*>(value_));
  }
  std::string name() const { return functions_->name(value_); }
  bool supports(int head_dim) const noexcept { return functions_->supports(value_, head_dim); }
  void forward(int head_dim, int kv_head, float* x) const noexcept {
    functions_->forward(value_, head_dim, kv_head, x);
  }
  void query(int head_dim, int kv_head, float* q) const noexcept {
    functions_->query(value_, head_dim, kv_head, q);
  }
  void output(int head_dim, int kv_head, float* o) const noexcept {
    functions_->output(value_, head_dim, kv_head, o);
  }

 private:
  struct Functions {
    std::string (*name)(const void*);
    bool (*supports)(const void*, int);
    void (*forward)(const void*, int, int, float*);
    void (*query)(const void*, int, int, float*);
    void (*output)(const void*, int, int, float*);
  };

  template <Transform T>
  static const T& as(const void* p) noexcept {
    return *static_cast<const T*>(p);
  }

  template <Transform T>
  static constexpr Functions functions_of = {
      [](const void* p) { return as<T>(p).name(); },
      [](const void* p, int d) { return as<T>(p).supports(d); },
      [](const void* p, int d, [[maybe_unused]] int h, float* x) {
        if constexpr (PerHeadTransform<T>) as<T>(p).forward(d, h, x);
        else as<T>(p).forward(d, x);
      },
      [](const void* p, int d, [[maybe_unused]] int h, float* x) {
        if constexpr (PerHeadTransform<T>) as<T>(p).query(d, h, x);
        else as<T>(p).query(d, x);
      },
      [](const void* p, int d, [[maybe_unused]] int h, float* x) {
        if constexpr (PerHeadTransform<T>) as<T>(p).output(d, h, x);
        else as<T>(p).output(d, x);
      }};

  const Functions* functions_;
  alignas(8) std::byte value_[32] = {};
};

static_assert(std::is_trivially_copyable_v<AnyTransform>);

}  // namespace kvcodec
