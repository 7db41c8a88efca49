// From a policy chosen at run time to launches.
#include "kvcodec/cuda/policy.hpp"

#include <cmath>

#include "cuda/core/check.hpp"
#include "cuda/policy/arguments.hpp"
#include "cuda/policy/launch.cuh"

namespace kvcodec::cuda {
namespace {

/// fn(p) for the policy's own type; false if it is none of the built-in ones.
template <class F>
bool with_policy(const AnyPolicy& policy, const F& fn) {
  bool found = false;
  BuiltinPolicies::for_each([&]<class P>() {
    if (const P* p = policy.as<P>()) {
      fn(*p);
      found = true;
    }
  });
  return found;
}

void require_policy(const char* call, const AnyPolicy& policy) {
  if (!policy) throw invalid_argument(std::string(call) + ": policy is not set");
  if (can_select(policy)) return;
  throw unsupported(std::string(call) + ": policy " + policy.name() +
                    " is not judged on the device");
}

std::int64_t n_streams_of(const JudgedRows& rows) noexcept {
  return std::int64_t{rows.n_seq} * rows.shape.n_kv_heads;
}

template <class P>
constexpr bool kReadsValues = std::is_same_v<P, LagKv> || std::is_same_v<P, KvpressLagKv>;
template <class P>
constexpr bool kObserves = std::is_same_v<P, SnapKv> || std::is_same_v<P, SpindlePyramid>;

/// Working memory of the scores of one policy.
struct ScoreMemory {
  double* work = nullptr;     ///< lagkv
  double* partial = nullptr;  ///< keydiff
  double* anchor = nullptr;   ///< keydiff

  ScoreMemory(const AnyPolicy& policy, const JudgedRows& rows, Workspace& memory) {
    const std::int64_t n = n_streams_of(rows);
    with_policy(policy, [&]<class P>(const P&) {
      if constexpr (kReadsValues<P>) work = memory.take<double>(n * rows.max_rows);
      if constexpr (std::is_same_v<P, KeyDiff>) {
        const std::int64_t n_shares = ceil_div(rows.max_rows, kScoreRows);
        partial = memory.take<double>(n * n_shares * rows.shape.head_dim);
        anchor = memory.take<double>(n * (rows.shape.head_dim + 1));
      }
    });
  }
};

/// All that select_rows() needs.
struct SelectMemory {
  double* score = nullptr;
  ScoreMemory parts;
  float* observed = nullptr;
  std::byte* observe = nullptr;
  std::size_t observe_bytes = 0;

  SelectMemory(const AnyPolicy& policy, const JudgedRows& rows, const ObservedQueries* queries,
               Workspace& memory)
      : score(memory.take<double>(std::int64_t{rows.n_seq} * score_heads(policy, rows.shape) *
                                  rows.max_rows)),
        parts(policy, rows, memory) {
    if (!observes_first(policy, rows, queries)) return;
    observed = memory.take<float>(std::int64_t{rows.n_seq} * rows.shape.n_q_heads * rows.max_rows);
    observe_bytes = observe_workspace_bytes(rows, *queries);
    observe = memory.take<std::byte>(static_cast<std::int64_t>(observe_bytes));
  }

  static bool observes_first(const AnyPolicy& policy, const JudgedRows& rows,
                             const ObservedQueries* queries) {
    return queries != nullptr && rows.observed == nullptr && policy.observed_rows() > 0;
  }
};

/// Throws unless everything is there that the policy reads.
void require_inputs(const char* call, const AnyPolicy& policy, const JudgedRows& rows) {
  require_lengths(call, rows);
  with_policy(policy, [&]<class P>(const P& p) {
    if constexpr (kObserves<P>) {
      if (rows.observed == nullptr) {
        throw invalid_argument(std::string(call) + ": no attention was observed for policy " +
                               p.name() + "; observe the newest " + std::to_string(p.window) +
                               " queries (observed = null, no queries)");
      }
    } else if constexpr (!std::is_same_v<P, SinkWindow>) {
      require_pointer(call, "k.data", rows.k.data);
      if constexpr (kReadsValues<P>) require_pointer(call, "v.data", rows.v.data);
    }
  });
}

cudaError_t launch_scores(const AnyPolicy& policy, const JudgedRows& rows,
                          const ScoreMemory& memory, double* score, cudaStream_t stream) {
  const Streams s(rows);
  const std::int64_t n = n_streams_of(rows);
  cudaError_t status = cudaSuccess;
  with_policy(policy, [&]<class P>(const P& p) {
    if constexpr (kReadsValues<P>) {
      status = launch_lag_scores(s, LagForm(p), n, score, memory.work, stream);
    } else if constexpr (std::is_same_v<P, KeyDiff>) {
      status = launch_keydiff_scores(s, n, score, memory.partial, memory.anchor, stream);
    } else if constexpr (std::is_same_v<P, Knorm>) {
      status = launch_knorm_scores(s, n, score, stream);
    } else if constexpr (std::is_same_v<P, SnapKv>) {
      status = launch_snapkv_scores(s, p, n, score, stream);
    } else if constexpr (std::is_same_v<P, SpindlePyramid>) {
      status = launch_spindle_scores(s, p, n, score, stream);
    }
  });
  return status;
}

SelectRule rule_of(const AnyPolicy& policy, const JudgedRows& rows) {
  SelectRule rule;
  with_policy(policy, [&]<class P>(const P& p) {
    if constexpr (std::is_same_v<P, LagKv>) {
      rule.kind = SelectRule::Kind::lag;
      rule.n_kept = p.kept_per_partition();
      rule.lag_size = p.lag_size;
      rule.max_partitions = LagForm(p).max_partitions(rows.max_rows);
    } else if constexpr (std::is_same_v<P, SpindlePyramid>) {
      const int group = rows.shape.gqa_group();
      rule.kind = SelectRule::Kind::spindle;
      rule.pyramid = p;
      rule.n_score_heads = p.shared ? 1 : group;
      rule.per_query_head = !p.shared;
      rule.kept = static_cast<KeepMask>((1u << group) - 1u);
    } else if constexpr (!std::is_same_v<P, SinkWindow>) {
      rule.kind = kObserves<P> ? SelectRule::Kind::snapkv : SelectRule::Kind::ratio;
      rule.keep_ratio = p.keep_ratio;
    }
  });
  return rule;
}

void require_observable(const char* call, const AnyPolicy& policy, const ObservedQueries& queries) {
  const std::int32_t most = policy.observed_rows();
  if (queries.max_queries <= most) return;
  throw invalid_argument(
      bad_value(call, "queries.max_queries", queries.max_queries,
                "0.." + std::to_string(most) + ", what " + policy.name() + " observes"));
}

}  // namespace

bool can_select(const AnyPolicy& policy) noexcept {
  return policy && with_policy(policy, [](const auto&) {});
}

std::int32_t score_heads(const AnyPolicy& policy, const HeadShape& shape) noexcept {
  std::int32_t n = 0;
  with_policy(policy, [&]<class P>(const P& p) {
    n = shape.n_kv_heads;
    if constexpr (std::is_same_v<P, SinkWindow>) n = 0;
    if constexpr (std::is_same_v<P, SpindlePyramid>) {
      if (!p.shared) n = shape.n_q_heads;
    }
  });
  return n;
}

std::size_t score_workspace_bytes(const AnyPolicy& policy, const JudgedRows& rows) {
  constexpr const char* kCall = "score_rows";
  require_policy(kCall, policy);
  require_judged(kCall, rows);
  Workspace memory;
  ScoreMemory(policy, rows, memory);
  return memory.bytes();
}

void score_rows(const AnyPolicy& policy, const JudgedRows& rows, double* score, void* workspace,
                std::size_t workspace_bytes, Stream stream) {
  constexpr const char* kCall = "score_rows";
  const std::size_t needed = score_workspace_bytes(policy, rows);
  if (score_heads(policy, rows.shape) == 0) {
    throw unsupported(std::string(kCall) + ": policy " + policy.name() + " has no scores");
  }
  if (nothing_to_do(rows)) return;
  require_inputs(kCall, policy, rows);
  require_pointer(kCall, "score", score);
  require_workspace(kCall, workspace, workspace_bytes, needed);
  Workspace memory(workspace);
  check(launch_scores(policy, rows, ScoreMemory(policy, rows, memory), score, stream), kCall);
}

void keep_largest(std::int64_t n_segments, std::int64_t stride, const double* score,
                  const std::int64_t* length, const std::int64_t* n_kept, KeepMask* keep,
                  Stream stream) {
  constexpr const char* kCall = "keep_largest";
  require_ctas(kCall, "n_segments", n_segments);
  if (stride < 0 || stride >= std::int64_t{1} << 31) {
    throw invalid_argument(bad_value(kCall, "stride", stride, "0..2^31 - 1"));
  }
  if (n_segments == 0 || stride == 0) return;
  require_pointer(kCall, "score", score);
  require_pointer(kCall, "length", length);
  require_pointer(kCall, "n_kept", n_kept);
  require_pointer(kCall, "keep", keep);
  JudgedRows rows;
  rows.shape = {1, 1, kMinHeadDim};
  rows.max_rows = stride;
  rows.first = length;  // is read, not used
  rows.n_rows = length;
  SelectRule rule;
  rule.kind = SelectRule::Kind::given;
  rule.given = n_kept;
  check(launch_select(Streams(rows), rule, n_segments, score, keep, stream), kCall);
}

std::size_t select_workspace_bytes(const AnyPolicy& policy, const JudgedRows& rows,
                                   const ObservedQueries* queries) {
  constexpr const char* kCall = "select_rows";
  require_policy(kCall, policy);
  require_judged(kCall, rows);
  if (queries != nullptr && SelectMemory::observes_first(policy, rows, queries)) {
    require_observable(kCall, policy, *queries);
  }
  Workspace memory;
  SelectMemory(policy, rows, queries, memory);
  return memory.bytes();
}

void select_rows(const AnyPolicy& policy, const JudgedRows& rows, const ObservedQueries* queries,
                 KeepMask* keep, void* workspace, std::size_t workspace_bytes, Stream stream) {
  constexpr const char* kCall = "select_rows";
  const std::size_t needed = select_workspace_bytes(policy, rows, queries);
  if (nothing_to_do(rows)) return;
  require_pointer(kCall, "keep", keep);
  require_workspace(kCall, workspace, workspace_bytes, needed);
  Workspace space(workspace);
  const SelectMemory memory(policy, rows, queries, space);
  JudgedRows judged = rows;
  if (memory.observed != nullptr) judged.observed = memory.observed;
  require_inputs(kCall, policy, judged);
  if (memory.observed != nullptr) {
    observe_rows(rows, *queries, memory.observed, memory.observe, memory.observe_bytes, stream);
  }
  check(launch_scores(policy, judged, memory.parts, memory.score, stream), kCall);
  check(launch_select(Streams(judged), rule_of(policy, judged), n_streams_of(rows), memory.score,
                      keep, stream),
        kCall);
}

}  // namespace kvcodec::cuda
