// Choice of the kernel for a chain's transforms.
#include "transform.hpp"

#include "kernels.hpp"
#include "kvcodec/transform/hadamard.hpp"

namespace kvcodec::cpu {
namespace {

/// Sign bits of the channels that a seed turns. Drawing them takes longer than the transform, and rows
/// that follow each other mostly share a seed, so a thread keeps those of the last one.
const std::uint32_t* flips_of(std::uint32_t seed) noexcept {
  struct Flips {
    std::uint32_t seed = 0;
    alignas(64) std::uint32_t of[kMaxHeadDim] = {};
  };
  static thread_local Flips last;
  if (last.seed != seed) {
    for (int c = 0; c < kMaxHeadDim; ++c) {
      last.of[c] = Hadamard::negative(seed, c) ? 0x80000000u : 0u;
    }
    last.seed = seed;
  }
  return seed == 0 ? nullptr : last.of;
}

/// False: there is no kernel for it.
bool by_kernel(const AnyTransform& link, int head_dim, bool back, float* x) noexcept {
  const HadamardRow kernel = kernels().hadamard_row;
  const Hadamard* hadamard = link.as<Hadamard>();
  if (kernel == nullptr || hadamard == nullptr) return false;
  kernel(head_dim, flips_of(hadamard->seed), back, x);
  return true;
}

}  // namespace

void transform_forward(const TransformChain& chain, int head_dim, int kv_head, float* x) noexcept {
  for (int i = 0; i < chain.n_links(); ++i) {
    const AnyTransform& link = chain.link(i);
    if (!by_kernel(link, head_dim, false, x)) link.forward(head_dim, kv_head, x);
  }
}

void transform_query(const TransformChain& chain, int head_dim, int kv_head, float* q) noexcept {
  for (int i = 0; i < chain.n_links(); ++i) {
    const AnyTransform& link = chain.link(i);
    if (!by_kernel(link, head_dim, false, q)) link.query(head_dim, kv_head, q);
  }
}

void transform_output(const TransformChain& chain, int head_dim, int kv_head, float* o) noexcept {
  for (int i = chain.n_links() - 1; i >= 0; --i) {
    const AnyTransform& link = chain.link(i);
    if (!by_kernel(link, head_dim, true, o)) link.output(head_dim, kv_head, o);
  }
}

}  // namespace kvcodec::cpu
