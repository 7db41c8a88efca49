// Several transforms one after the other: "affine+hadamard".
#pragma once

#include <array>
#include <string>

#include "kvcodec/transform/transform.hpp"

namespace kvcodec {

/// Up to kMaxLinks transforms, applied to rows from the first to the last; empty: the identity.
class TransformChain {
 public:
  static constexpr int kMaxLinks = 3;

  TransformChain() = default;
  TransformChain(const AnyTransform& only) { append(only); }  // NOLINT: one transform is a chain
  template <Transform T>
  TransformChain(const T& only) : TransformChain(AnyTransform(only)) {}  // NOLINT: the same

  /// Adds a transform behind the others; the identity adds nothing. Throws unsupported when there
  /// are kMaxLinks already.
  void append(const AnyTransform& next) {
    if (next.is_identity()) return;
    if (n_ == kMaxLinks) {
      throw unsupported("transforms: " + name() + " and one more, allowed: at most " +
                        std::to_string(kMaxLinks));
    }
    links_[static_cast<std::size_t>(n_++)] = next;
  }

  bool is_identity() const noexcept { return n_ == 0; }
  int n_links() const noexcept { return n_; }
  /// Transform `i`, 0..n_links-1, counted from the first.
  const AnyTransform& link(int i) const noexcept { return links_[static_cast<std::size_t>(i)]; }
  /// Calls fn(AnyTransform&) for each transform, from the first to the last.
  template <class F>
  void for_each(F&& fn) {
    for (int i = 0; i < n_; ++i) fn(links_[static_cast<std::size_t>(i)]);
  }
  /// Names joined by "+"; "identity" if there is none.
  std::string name() const {
    if (is_identity()) return AnyTransform().name();
    std::string text;
    for (int i = 0; i < n_; ++i) text += (i == 0 ? "" : "+") + link(i).name();
    return text;
  }
  bool supports(int head_dim) const noexcept {
    for (int i = 0; i < n_; ++i) {
      if (!link(i).supports(head_dim)) return false;
    }
    return true;
  }

  void forward(int head_dim, int kv_head, float* x) const noexcept {
    for (int i = 0; i < n_; ++i) link(i).forward(head_dim, kv_head, x);
  }
  /// (T2 T1)^-t = T2^-t T1^-t: the same order as forward.
  void query(int head_dim, int kv_head, float* q) const noexcept {
    for (int i = 0; i < n_; ++i) link(i).query(head_dim, kv_head, q);
  }
  void output(int head_dim, int kv_head, float* o) const noexcept {
    for (int i = n_ - 1; i >= 0; --i) link(i).output(head_dim, kv_head, o);
  }

 private:
  std::array<AnyTransform, kMaxLinks> links_;
  int n_ = 0;
};

}  // namespace kvcodec
