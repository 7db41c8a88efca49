// What the tests of policies share: rows of one KV head, and which of them a policy keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/policy/builtin.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

/// k, v [n_rows, head_dim] of one KV head, and what was observed of them.
struct PolicyInput {
  PolicyInput(std::int64_t n_rows, int width, std::uint64_t seed, Input kind = Input::gauss)
      : head_dim(width),
        k(make_rows(kind, n_rows, width, seed)),
        v(make_rows(kind, n_rows, width, seed + 1)) {}

  std::int64_t n() const { return static_cast<std::int64_t>(k.size()) / head_dim; }
  float& key(std::int64_t row, int channel) {
    return k[static_cast<std::size_t>(row * head_dim + channel)];
  }
  float& value(std::int64_t row, int channel) {
    return v[static_cast<std::size_t>(row * head_dim + channel)];
  }
  /// Rows first.. of which n_rows are judged and n_ahead follow.
  PolicyRows rows(std::int64_t first, std::int64_t n_rows, std::int64_t n_ahead) const {
    PolicyRows r;
    r.head_dim = head_dim;
    r.gqa_group = gqa_group;
    r.n_rows = n_rows;
    r.n_ahead = n_ahead;
    r.k = k.data() + first * head_dim;
    r.v = v.data() + first * head_dim;
    r.observed = observed.empty() ? nullptr : observed.data();
    return r;
  }

  int head_dim;
  int gqa_group = 1;
  std::vector<float> k, v;
  std::vector<float> observed;  ///< [gqa_group, n_rows] of the rows to be judged; may be empty
};

inline std::vector<KeepMask> masks_of(const AnyPolicy& policy, const PolicyRows& rows) {
  // Garbage beforehand: a policy writes every mask.
  std::vector<KeepMask> keep(static_cast<std::size_t>(rows.n_rows), KeepMask{0x5a5a});
  policy.select(rows, keep);
  return keep;
}

/// Indices of the rows that any query head keeps.
inline std::vector<std::int64_t> kept_of(const AnyPolicy& policy, const PolicyRows& rows) {
  std::vector<std::int64_t> kept;
  const std::vector<KeepMask> keep = masks_of(policy, rows);
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (keep[i] != 0) kept.push_back(static_cast<std::int64_t>(i));
  }
  return kept;
}

}  // namespace kvcodec::test
