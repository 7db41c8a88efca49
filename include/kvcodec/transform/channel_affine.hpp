// Transform "affine": one static factor per KV head and channel, found by a calibration.
//
//   y_c = x_c / s_c,  s_c > 0          so query: q_c * s_c,  output: o_c * s_c
//
// WKVQuant's "static channel-wise smoothing" (arXiv 2402.12065), its linear part: channels of
// unlike size are made alike before a codec gives all of a group one scale. The products of the
// query are paid once per step, never per cached row.
//
// forward() is a single correctly rounded division per value, so bytes are the same on every
// back-end; q * s and o * s round once more each: query(q) . forward(k) and output(forward(v)) are
// within 2^-23 of q . k, term by term, and of v. With powers of two all of it is exact.
//
// The static shift of the paper is no part of this transform, which must be linear.
//
// A name ("affine") cannot carry the factors, so a transform made by name is not bound to any:
// supports() is false for every head size until it is bound, and a cache then refuses it.
#pragma once

#include <cstdint>
#include <string>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/transform/transform.hpp"

namespace kvcodec {

/// Factors of one side (K or V) of one layer; a view of somebody's array.
struct ChannelScales {
  /// [n_kv_heads, head_dim], all of them finite and above 0; null: none.
  const float* scale = nullptr;
  std::int32_t n_kv_heads = 0;
  std::int32_t head_dim = 0;
};

/// Points at factors that must outlive it.
struct ChannelAffine {
  static constexpr const char* family = "affine";
  static constexpr const char* options_help = "no options; needs a calibration to be bound to";

  ChannelScales scales;

  /// Not bound to any factors yet: see bind().
  static ChannelAffine parse(const std::string& options) {
    if (!options.empty()) throw invalid_argument(bad_value(family, "options", options, "none"));
    return {};
  }

  /// Throws invalid_argument naming the field unless `scales` are factors for n_kv_heads heads of
  /// head_dim channels, all finite and above 0.
  static ChannelAffine bind(const ChannelScales& scales, int n_kv_heads, int head_dim) {
    if (scales.scale == nullptr) {
      throw invalid_argument("affine: scale = null, allowed: [n_kv_heads, head_dim] factors");
    }
    if (scales.n_kv_heads != n_kv_heads) {
      throw invalid_argument(bad_value(family, "n_kv_heads", scales.n_kv_heads,
                                       std::to_string(n_kv_heads) + ", the heads of the cache"));
    }
    if (scales.head_dim != head_dim) {
      throw invalid_argument(bad_value(family, "head_dim", scales.head_dim,
                                       std::to_string(head_dim) + ", the channels of the cache"));
    }
    for (int i = 0; i < n_kv_heads * head_dim; ++i) {
      if (scales.scale[i] > 0.0f && scales.scale[i] <= kF32Max) continue;
      throw invalid_argument(bad_value(family, "scale", scales.scale[i],
                                       "above 0 and finite; KV head " +
                                           std::to_string(i / head_dim) + ", channel " +
                                           std::to_string(i % head_dim)));
    }
    return {scales};
  }

  bool bound() const noexcept { return scales.scale != nullptr; }
  std::string name() const { return family; }

  /// False while unbound.
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return scales.scale != nullptr && head_dim == scales.head_dim;
  }
  KVCODEC_HD void forward(int head_dim, int kv_head, float* x) const noexcept {
    const float* s = scales.scale + kv_head * head_dim;
    for (int c = 0; c < head_dim; ++c) x[c] = x[c] / s[c];
  }
  KVCODEC_HD void query(int head_dim, int kv_head, float* q) const noexcept {
    multiply(head_dim, kv_head, q);
  }
  KVCODEC_HD void output(int head_dim, int kv_head, float* o) const noexcept {
    multiply(head_dim, kv_head, o);
  }

 private:
  KVCODEC_HD void multiply(int head_dim, int kv_head, float* x) const noexcept {
    const float* s = scales.scale + kv_head * head_dim;
    for (int c = 0; c < head_dim; ++c) x[c] *= s[c];
  }
};

static_assert(PerHeadTransform<ChannelAffine>);

}  // namespace kvcodec
