// Keys and values of a case about policies, and the rows that a policy keeps of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/policy/builtin.hpp"
#include "src/verify/compare.hpp"

namespace kvcodec::golden {

/// k, v [n_heads, n_tokens, head_dim].
struct HeadRows {
  HeadRows(const Array& keys, const Array& values)
      : n_heads(keys.shape.at(0)),
        n_tokens(keys.shape.at(1)),
        head_dim(static_cast<int>(keys.shape.at(2))),
        k(keys.floats()),
        v(values.floats()) {
    require(keys.shape == values.shape, "k and v have different shapes");
    for (const std::vector<float>* x : {&k, &v}) {
      for (const float value : *x) require(std::isfinite(value), "k or v is not finite");
    }
  }
  explicit HeadRows(const Case& c) : HeadRows(c.array("k"), c.array("v")) {}

  const float* key(std::int64_t head, std::int64_t token) const noexcept {
    return k.data() + (head * n_tokens + token) * head_dim;
  }
  const float* value(std::int64_t head, std::int64_t token) const noexcept {
    return v.data() + (head * n_tokens + token) * head_dim;
  }

  std::int64_t n_heads, n_tokens;
  int head_dim;
  std::vector<float> k, v;
};

/// Tokens of first..first + n_rows that the policy keeps, n_ahead tokens behind them, ascending.
inline std::vector<std::int64_t> kept_of(const AnyPolicy& policy, const HeadRows& rows,
                                         std::int64_t head, std::int64_t first, std::int64_t n_rows,
                                         std::int64_t n_ahead) {
  PolicyRows judged;
  judged.head_dim = rows.head_dim;
  judged.n_rows = n_rows;
  judged.n_ahead = n_ahead;
  judged.k = rows.key(head, first);
  judged.v = rows.value(head, first);
  std::vector<KeepMask> keep(static_cast<std::size_t>(n_rows));
  policy.select(judged, keep);
  std::vector<std::int64_t> kept;
  for (std::size_t i = 0; i < keep.size(); ++i) {
    require(keep[i] == 0 || keep[i] == kKeptByAll, "a mask is neither none nor all");
    if (keep[i] != 0) kept.push_back(first + static_cast<std::int64_t>(i));
  }
  return kept;
}

/// Row `index` of an array whose first dimension is `n`.
template <class T>
std::vector<T> row_of(const std::vector<T>& all, std::int64_t index, std::int64_t n) {
  const auto size = static_cast<std::int64_t>(all.size()) / n;
  return {all.begin() + index * size, all.begin() + (index + 1) * size};
}

}  // namespace kvcodec::golden
