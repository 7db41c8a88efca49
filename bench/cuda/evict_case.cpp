// Judging rows and moving those that stay together.
#include <algorithm>
#include <stdexcept>

#include "bench/cuda/cases.hpp"
#include "bench/cuda/device_rows.hpp"
#include "bench/cuda/device_tools.hpp"
#include "kvcodec/cuda/policy.hpp"
#include "kvcodec/policy/builtin.hpp"

namespace kvcodec::bench {
namespace {

constexpr int kGqa = 4;

/// The rows of a layer, the queries that policies may ask for, and room for what stays.
class EvictSubject {
 public:
  EvictSubject(const AnyPolicy& policy, std::int32_t n_seq, std::int64_t rows_per_seq)
      : policy_(policy),
        k_(rows_on_device(n_seq * rows_per_seq, 11)),
        v_(rows_on_device(n_seq * rows_per_seq, 12)),
        k_out_(k_.size()),
        v_out_(v_.size()) {
    const std::int64_t n_ahead = policy.lookahead_rows();
    if (rows_per_seq <= n_ahead) throw std::runtime_error("too few rows for this policy");
    rows_.shape = {kGqa * kKvHeads, kKvHeads, kHeadDim};
    rows_.n_seq = n_seq;
    rows_.max_rows = rows_per_seq - n_ahead;
    rows_.k = dense_rows(k_.data(), n_seq * rows_per_seq, kKvHeads, kHeadDim);
    rows_.v = dense_rows(v_.data(), n_seq * rows_per_seq, kKvHeads, kHeadDim);
    rows_.first = set(first_, n_seq, rows_per_seq);
    rows_.n_rows = set(n_rows_, n_seq, 0, rows_.max_rows);
    rows_.n_ahead = set(n_ahead_, n_seq, 0, n_ahead);
    if (policy.observed_rows() > 0) observe(rows_per_seq);
    const auto streams = static_cast<std::size_t>(n_seq) * kKvHeads;
    keep_ = cuda::DeviceBuffer<KeepMask>(streams * static_cast<std::size_t>(rows_.max_rows));
    n_after_ = cuda::DeviceBuffer<std::int64_t>(streams);
    out_.k = k_out_.data();
    out_.v = v_out_.data();
    out_.k_token_stride = out_.v_token_stride = std::int64_t{kKvHeads} * kHeadDim;
    out_.k_head_stride = out_.v_head_stride = kHeadDim;
    out_.first = rows_.first;
    out_.n_after = n_after_.data();
    out_.max_out = rows_.max_rows;
    select_work_ =
        cuda::DeviceBuffer<std::byte>(cuda::select_workspace_bytes(policy_, rows_, queries()));
    compact_work_ = cuda::DeviceBuffer<std::byte>(cuda::compact_workspace_bytes(rows_));
  }

  void run() {
    cuda::select_rows(policy_, rows_, queries(), keep_.data(), select_work_.data(),
                      select_work_.bytes());
    cuda::compact_rows(rows_, {}, keep_.data(), out_, compact_work_.data(), compact_work_.bytes());
  }

  /// Rows of K and V read to be judged, and those that stayed read and written.
  double bytes() const {
    std::int64_t kept = 0;
    for (const std::int64_t n : n_after_.to_host()) kept += n;
    if (kept == 0) throw std::runtime_error("no row stayed");
    constexpr double kRowBytes = 2.0 * kHeadDim * sizeof(f16);
    return static_cast<double>(k_.bytes() + v_.bytes()) +
           2.0 * kRowBytes * static_cast<double>(kept);
  }

 private:
  static const std::int64_t* set(cuda::DeviceBuffer<std::int64_t>& buffer, std::int32_t n_seq,
                                 std::int64_t step, std::int64_t from = 0) {
    std::vector<std::int64_t> values;
    for (std::int64_t s = 0; s < n_seq; ++s) values.push_back(from + s * step);
    buffer = on_device(values);
    return buffer.data();
  }

  /// The newest tokens of each sequence ask.
  void observe(std::int64_t rows_per_seq) {
    const std::int32_t n = policy_.observed_rows();
    q_ = rows_on_device(std::int64_t{rows_.n_seq} * n * kGqa, 13);
    queries_.q = dense_rows(q_.data(), std::int64_t{rows_.n_seq} * n, kGqa * kKvHeads, kHeadDim);
    queries_.first = set(q_first_, rows_.n_seq, n);
    queries_.n_queries = set(n_queries_, rows_.n_seq, 0, n);
    queries_.max_queries = n;
    queries_.max_seen = rows_per_seq;
    queries_.sm_scale = 0.088f;
  }
  const cuda::ObservedQueries* queries() const {
    return policy_.observed_rows() > 0 ? &queries_ : nullptr;
  }

  AnyPolicy policy_;
  cuda::DeviceBuffer<f16> k_, v_, k_out_, v_out_, q_;
  cuda::DeviceBuffer<std::int64_t> first_, n_rows_, n_ahead_, q_first_, n_queries_, n_after_;
  cuda::DeviceBuffer<KeepMask> keep_;
  cuda::DeviceBuffer<std::byte> select_work_, compact_work_;
  cuda::JudgedRows rows_;
  cuda::ObservedQueries queries_;
  cuda::CompactedRows out_;
};

}  // namespace

void measure_evict(cuda::DeviceBuffer<std::byte>& /*pool*/, const Plan& plan, Row& row) {
  const std::int32_t n_seq = plan.judged_tokens >= 65536 ? 16 : 1;
  EvictSubject subject(make_policy(row.format), n_seq, plan.judged_tokens / n_seq);
  row.ms = median_ms([&](std::int64_t) { subject.run(); }, plan.n_samples, plan.sample_ms);
  row.bytes = subject.bytes();
}

}  // namespace kvcodec::bench
