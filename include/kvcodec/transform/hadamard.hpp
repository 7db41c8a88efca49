// Transform "hadamard": random signs, then the normalised Walsh-Hadamard transform.
//
//   y = H D x,  D = diag(+-1) from a seed,  H_ij = (-1)^popcount(i & j) / sqrt(n)   (natural order)
//
// H D is orthonormal, so query = forward and output = D H. A head size that is no power of two is
// cut into powers of two, largest first (80 = 64 + 16, 96 = 64 + 32), each with its own H.
// Rotation spreads a channel's outliers over all channels; it cannot remove a common mean.
#pragma once

#include <cmath>
#include <cstdint>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/transform/transform.hpp"

namespace kvcodec {

/// x <- H x for n values, n a power of two; log2(n) passes of additions, then one product.
KVCODEC_HD inline void walsh_hadamard(float* x, int n) noexcept {
  for (int half = 1; half < n; half *= 2) {
    for (int first = 0; first < n; first += 2 * half) {
      for (int i = first; i < first + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(n));
  for (int i = 0; i < n; ++i) x[i] *= norm;
}

struct Hadamard {
  static constexpr const char* family = "hadamard";
  static constexpr const char* options_help =
      "s<seed>: signs from a seed 1..65535 (default 1); plain";

  std::uint32_t seed = 1;  ///< 0: no signs

  static Hadamard parse(const std::string& options) {
    if (options.empty()) return {};
    if (options == "plain") return {0};
    long seed = 0;
    if (options[0] != 's' || options.size() > 6 || !parse_int(options.substr(1), 1, 65535, seed)) {
      throw invalid_argument(bad_value(family, "options", options, options_help));
    }
    return {static_cast<std::uint32_t>(seed)};
  }

  std::string name() const {
    if (seed == 0) return std::string(family) + ":plain";
    return seed == 1 ? family : family + std::string(":s") + std::to_string(seed);
  }

  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD void forward(int head_dim, float* x) const noexcept {
    apply_signs(head_dim, x);
    rotate(head_dim, x);
  }
  KVCODEC_HD void query(int head_dim, float* q) const noexcept { forward(head_dim, q); }
  KVCODEC_HD void output(int head_dim, float* o) const noexcept {
    rotate(head_dim, o);
    apply_signs(head_dim, o);
  }

  /// Sign of one channel: a pure function of (seed, channel), by the splitmix64 finaliser.
  KVCODEC_HD static constexpr bool negative(std::uint32_t seed, int channel) noexcept {
    std::uint64_t z =
        (static_cast<std::uint64_t>(seed) << 32) + static_cast<std::uint64_t>(channel);
    z = (z + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((z >> 40) & 1u) != 0;
  }

  /// fn(first, size) for the powers of two that a head is cut into.
  template <class F>
  KVCODEC_HD static void for_each_piece(int head_dim, const F& fn) noexcept {
    int first = 0;
    for (int size = kMaxHeadDim; first < head_dim; size /= 2) {
      if (head_dim - first < size) continue;
      fn(first, size);
      first += size;
      size *= 2;  // the same size may fit again
    }
  }

 private:
  KVCODEC_HD void apply_signs(int head_dim, float* x) const noexcept {
    if (seed == 0) return;
    for (int c = 0; c < head_dim; ++c) {
      if (negative(seed, c)) x[c] = -x[c];
    }
  }

  KVCODEC_HD static void rotate(int head_dim, float* x) noexcept {
    for_each_piece(head_dim, [x](int first, int size) { walsh_hadamard(x + first, size); });
  }
};

static_assert(Transform<Hadamard>);

}  // namespace kvcodec
