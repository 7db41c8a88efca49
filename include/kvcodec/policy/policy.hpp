// What a policy is: which tokens of a sequence stay, judged before they are encoded.
//
// A policy sees the rows of one KV head, as the model made them (transforms undone), and says per
// row which query heads of the head's GQA group keep it. A row that no query head keeps is evicted;
// one that only some keep is stored once and hidden from the others.
//
//   streaming  chunk_rows() = L > 0: called for every L rows once lookahead_rows() newer ones are
//              there, at any time. Rows judged once are never judged again.
//   at prompt  chunk_rows() = 0: called once, when the caller says that the prompt is complete, with
//              all rows but the newest lookahead_rows(), which stay. Later rows all stay.
//
// The first n_sink rows of the window are never judged.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <type_traits>

#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// Query heads of a group that keep a row: bit i is head i. 0: evicted.
using KeepMask = std::uint16_t;
inline constexpr KeepMask kKeptByAll = 0xffff;

/// Rows of one KV head to be judged, oldest first.
struct PolicyRows {
  int head_dim = 0;
  int gqa_group = 1;
  std::int32_t layer = 0;
  std::int32_t n_layers = 1;
  std::int64_t n_rows = 0;   ///< to be judged
  std::int64_t n_ahead = 0;  ///< that follow, to be looked at only
  /// [n_rows + n_ahead, head_dim], keys after position encoding.
  const float* k = nullptr;
  const float* v = nullptr;
  /// [gqa_group, n_rows] attention weights that the observed queries gave to the rows, summed over
  /// those queries, as observe_attention() makes them; null if nothing was observed.
  const float* observed = nullptr;
};

/// Judges rows.
///
///   P::family, P::options_help, P::parse(options), p.name()   as for codecs
///   p.chunk_rows()        rows judged at a time; 0: all rows at the end of the prompt
///   p.lookahead_rows()    newer rows that must exist before
///   p.observed_rows()     newest queries whose attention it wants to know; 0: none
///   p.select(rows, keep)  writes keep[n_rows]; may allocate. Streaming policies keep the same number
///                         of rows in every head, with masks 0 or kKeptByAll
///
/// and, where they apply:
///
///   P::per_query_head     true: masks may differ from 0 and kKeptByAll
///   p.newest_rows()       encoded rows older than so many newest tokens are dropped as well, a page
///                         at a time
///
/// Ties go to the lower position. Results depend on the rows alone.
template <class P>
concept Policy = std::is_trivially_copyable_v<P> && sizeof(P) <= 32 &&
                 requires(const P p, const PolicyRows& rows, std::span<KeepMask> keep,
                          const std::string& options) {
  { P::family } -> std::convertible_to<const char*>;
  { P::options_help } -> std::convertible_to<const char*>;
  { P::parse(options) } -> std::same_as<P>;
  { p.name() } -> std::same_as<std::string>;
  { p.chunk_rows() } -> std::same_as<std::int32_t>;
  { p.lookahead_rows() } -> std::same_as<std::int32_t>;
  { p.observed_rows() } -> std::same_as<std::int32_t>;
  { p.select(rows, keep) } -> std::same_as<void>;
};

template <Policy P>
constexpr bool is_per_query_head() noexcept {
  if constexpr (requires { P::per_query_head; }) return P::per_query_head;
  else return false;
}

/// A policy chosen at run time, by value; empty: every row stays.
class AnyPolicy {
 public:
  AnyPolicy() = default;

  template <Policy P>
  AnyPolicy(const P& p) noexcept : functions_(&functions_of<P>) {  // NOLINT: a wrapper
    ::new (static_cast<void*>(value_)) P(p);
  }

  explicit operator bool() const noexcept { return functions_ != nullptr; }
  std::string name() const { return functions_ == nullptr ? "none" : functions_->name(value_); }
  std::int32_t chunk_rows() const noexcept { return functions_->chunk_rows(value_); }
  std::int32_t lookahead_rows() const noexcept { return functions_->lookahead_rows(value_); }
  std::int32_t observed_rows() const noexcept { return functions_->observed_rows(value_); }
  /// Whether query heads of a group may keep different rows.
  bool per_query_head() const noexcept {
    return functions_ != nullptr && functions_->per_query_head;
  }
  /// 0: rows stay however old they are.
  std::int64_t newest_rows() const noexcept {
    return functions_ == nullptr || functions_->newest_rows == nullptr
               ? 0
               : functions_->newest_rows(value_);
  }
  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    functions_->select(value_, rows, keep);
  }

  /// The policy as a P, or null if it is another type.
  template <Policy P>
  const P* as() const noexcept {
    if (functions_ != &functions_of<P>) return nullptr;
    return static_cast<const P*>(static_cast<const void*>(value_));
  }

 private:
  struct Functions {
    std::string (*name)(const void*);
    std::int32_t (*chunk_rows)(const void*);
    std::int32_t (*lookahead_rows)(const void*);
    std::int32_t (*observed_rows)(const void*);
    bool per_query_head;
    std::int64_t (*newest_rows)(const void*);
    void (*select)(const void*, const PolicyRows&, std::span<KeepMask>);
  };

  template <Policy P>
  static const P& of(const void* p) noexcept {
    return *static_cast<const P*>(p);
  }

  template <Policy P>
  static constexpr auto newest_rows_of() -> std::int64_t (*)(const void*) {
    if constexpr (requires(const P p) { p.newest_rows(); }) {
      return [](const void* p) { return std::int64_t{of<P>(p).newest_rows()}; };
    } else {
      return nullptr;
    }
  }

  template <Policy P>
  static constexpr Functions functions_of = {
      [](const void* p) { return of<P>(p).name(); },
      [](const void* p) { return of<P>(p).chunk_rows(); },
      [](const void* p) { return of<P>(p).lookahead_rows(); },
      [](const void* p) { return of<P>(p).observed_rows(); },
      is_per_query_head<P>(),
      newest_rows_of<P>(),
      [](const void* p, const PolicyRows& rows, std::span<KeepMask> keep) {
        of<P>(p).select(rows, keep);
      }};

  const Functions* functions_ = nullptr;
  alignas(8) unsigned char value_[32] = {};
};

static_assert(std::is_trivially_copyable_v<AnyPolicy>);

}  // namespace kvcodec
