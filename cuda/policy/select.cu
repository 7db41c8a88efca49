// Keeps the largest scores of every segment, ties to the lower row: one CTA per segment.
//
// The cut is found digit by digit (radix select): counts of eight bits of the keys that still matter, from
// the first bit in which keys differ at all. Scores of attention share sign and exponent, so that skipping
// what they share saves passes and spreads the counts.
#include "cuda/core/cta.cuh"
#include "cuda/policy/launch.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kStreamThreads = 1024;
constexpr int kPartitionThreads = 128;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

/// A score as an integer of the same order; NaN is the smallest, -0 is 0.
__device__ __forceinline__ std::uint64_t key_of(double score) {
  const double x = ordered(score);
  const auto bits = pun<std::uint64_t>(x == 0.0 ? 0.0 : x);
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

/// Kept: rows whose key >> shift is above `prefix`, and of those where it is equal the first `n_equal`.
struct Cut {
  std::uint64_t prefix;
  int shift;
  std::int64_t n_equal;
  bool all_equal;  ///< n_equal is all of them
};

/// What warp 0 found in the counts of one digit.
struct Digit {
  std::uint32_t value;
  std::uint32_t above;  ///< keys of larger digits
  std::uint32_t count;  ///< keys of this one
};

/// The digit that the need-th largest key has; by all threads, counts [kDigits] complete.
__device__ Digit find_digit(const std::uint32_t* counts, std::int64_t need) {
  KVCODEC_SHARED(found, Digit);
  if (threadIdx.x < 32) {
    constexpr int kPerLane = kDigits / 32;
    const int lane = static_cast<int>(threadIdx.x);
    const std::uint32_t* own = counts + (31 - lane) * kPerLane;  // lane 0 has the largest digits
    std::uint32_t sum = 0;
    for (int i = 0; i < kPerLane; ++i) sum += own[i];
    std::uint32_t above = sum;
    for (int step = 1; step < 32; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(0xffffffffu, above, static_cast<unsigned>(step));
      if (lane >= step) above += other;
    }
    above -= sum;
    if (above < need && above + sum >= need) {
      int i = kPerLane - 1;
      for (; above + own[i] < need; --i) above += own[i];
      found = {static_cast<std::uint32_t>((31 - lane) * kPerLane + i), above, own[i]};
    }
  }
  __syncthreads();
  return found;
}

/// 0 < n_kept < n.
__device__ Cut find_cut(const double* score, std::int64_t n, std::int64_t n_kept) {
  KVCODEC_SHARED(counts, std::uint32_t[kDigits]);
  std::uint64_t least = ~std::uint64_t{0};
  std::uint64_t most = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const std::uint64_t key = key_of(score[i]);
    least = key < least ? key : least;
    most = key > most ? key : most;
  }
  least = cta_min(least);
  most = cta_max(most);
  if (least == most) return {least, 0, n_kept, false};
  // Keys agree above bit `shift`, and only those whose upper bits are `prefix` matter from here on.
  int shift = 64 - __clzll(static_cast<long long>(least ^ most));
  std::uint64_t prefix = shift == 64 ? 0 : least >> shift;
  std::int64_t need = n_kept;
  for (;;) {
    const int width = shift < kDigitBits ? shift : kDigitBits;
    for (unsigned d = threadIdx.x; d < kDigits; d += blockDim.x) counts[d] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const std::uint64_t key = key_of(score[i]);
      if (shift < 64 && key >> shift != prefix) continue;
      atomicAdd(&counts[key >> (shift - width) & ((1u << width) - 1u)], 1u);
    }
    __syncthreads();
    const Digit digit = find_digit(counts, need);
    __syncthreads();  // before the counts are cleared and `found` is written again
    need -= digit.above;
    shift -= width;
    prefix = prefix << width | digit.value;
    const bool all_equal = digit.count == need;
    if (shift == 0 || all_equal) return {prefix, shift, need, all_equal};
  }
}

/// A run of rows that share a budget.
struct Segment {
  std::int64_t begin;
  std::int64_t n;
  std::int64_t n_kept;
};

__device__ Segment segment_of(const Streams& s, const SelectRule& rule, const StreamShare& at) {
  const std::int64_t n = at.n_rows;
  const std::int64_t ahead = s.ahead(at.seq);
  switch (rule.kind) {
    case SelectRule::Kind::ratio: {
      const std::int64_t kept = kept_count(rule.keep_ratio, n);
      return {0, n, kept > 1 ? kept : 1};
    }
    case SelectRule::Kind::snapkv: return {0, n, kept_count(rule.keep_ratio, n + ahead) - ahead};
    case SelectRule::Kind::spindle:
      return {0, n, rule.pyramid.count(n + ahead, s.layer, s.n_layers)};
    case SelectRule::Kind::given: return {0, n, rule.given[at.stream]};
    case SelectRule::Kind::lag: {
      const LagPartitions parts = streaming_partitions(n, ahead, rule.lag_size);
      if (at.share < parts.count) return {at.share * rule.lag_size, rule.lag_size, rule.n_kept};
      return at.share == rule.max_partitions ? Segment{n - parts.n_tail, parts.n_tail, parts.n_tail}
                                             : Segment{0, 0, 0};
    }
    default: return {0, n, n};
  }
}

/// Sets `bits` in the masks of the rows that stay, and writes 0 to the others, or leaves them where
/// earlier query heads have written. Thread i has rows i, i + blockDim.x, ... in every call.
__device__ void keep_segment(const Segment& segment, const double* score, KeepMask bits, bool first,
                             KeepMask* keep) {
  const auto put = [&](std::int64_t i, bool kept) {
    const KeepMask before = first ? KeepMask{0} : keep[i];
    keep[i] = static_cast<KeepMask>(before | (kept ? bits : 0));
  };
  if (segment.n_kept <= 0 || segment.n_kept >= segment.n) {
    for (std::int64_t i = threadIdx.x; i < segment.n; i += blockDim.x) put(i, segment.n_kept > 0);
    return;
  }
  const Cut cut = find_cut(score, segment.n, segment.n_kept);
  std::int64_t n_seen = 0;
  for (std::int64_t base = 0; base < segment.n; base += blockDim.x) {
    const std::int64_t i = base + threadIdx.x;
    const bool inside = i < segment.n;
    const std::uint64_t head = inside ? key_of(score[i]) >> cut.shift : 0;
    const bool equal = inside && head == cut.prefix;
    bool kept = inside && head > cut.prefix;
    if (cut.all_equal) {
      kept |= equal;
    } else if (n_seen < cut.n_equal) {
      int n_here = 0;
      const int before = cta_count_before(equal, n_here);
      kept |= equal && n_seen + before < cut.n_equal;
      n_seen += n_here;
    }
    if (inside) put(i, kept);
  }
}

/// Grid: streams times (max_partitions + 1), the last CTA of a stream for the rows that are in none; or
/// streams.
__global__ void __launch_bounds__(kStreamThreads, 1)
    select_kernel(const __grid_constant__ Streams s, const __grid_constant__ SelectRule rule,
                  const double* score, KeepMask* keep) {
  const StreamShare at(s, rule.max_partitions + 1);
  const Segment segment = segment_of(s, rule, at);
  keep += at.stream * s.max_rows + segment.begin;
  for (int head = 0; head < rule.n_score_heads; ++head) {
    const double* own =
        score + (at.stream * rule.n_score_heads + head) * s.max_rows + segment.begin;
    const KeepMask bits = rule.per_query_head ? static_cast<KeepMask>(1u << head) : rule.kept;
    keep_segment(segment, own, bits, head == 0, keep);
  }
}

}  // namespace

cudaError_t launch_select(const Streams& s, const SelectRule& rule, std::int64_t n_streams,
                          const double* score, KeepMask* keep, cudaStream_t stream) {
  const bool small = rule.max_partitions > 0 && rule.lag_size <= 8 * kPartitionThreads;
  return launch(select_kernel,
                {dim3(static_cast<unsigned>(n_streams * (rule.max_partitions + 1))),
                 dim3(small ? kPartitionThreads : kStreamThreads), 0, stream},
                s, rule, score, keep);
}

}  // namespace kvcodec::cuda
