// What is subtracted from the encoded rows of one side of a layer of a sequence (Centering).
#pragma once

#include <cstdint>
#include <vector>

#include "src/cache/layer_info.hpp"

namespace kvcodec {

/// The vector per head, in transformed space, and the sums it comes from.
class Center {
 public:
  Center() = default;
  Center(const LayerInfo& layer, Side side);

  bool active() const noexcept { return !values_.empty(); }
  /// Whether rows may be encoded.
  bool ready() const noexcept { return ready_; }
  /// Rows it is the mean of, or will be; 0 for none and for fixed centers.
  std::int64_t n_needed() const noexcept { return n_needed_; }
  /// [n_kv_heads, head_dim]; null while there is none or it is not ready.
  const float* values() const noexcept { return active() && ready_ ? values_.data() : nullptr; }
  std::int64_t bytes() const noexcept {
    return static_cast<std::int64_t>(values_.size() * sizeof(float) +
                                     sums_.size() * sizeof(double));
  }

  /// Adds a row of one head, as it is stored; count_row() once all heads are added.
  void add(std::int64_t head, const float* x) noexcept;
  void count_row() noexcept;
  /// Settles for the rows seen so far, at least one.
  void finish() noexcept;
  /// Forgets every row, for rows to be added anew; only before anything was encoded.
  void restart() noexcept;

 private:
  int head_dim_ = 0;
  std::int64_t n_rows_ = 0;    ///< of the configuration
  std::int64_t n_needed_ = 0;  ///< n_rows_, or fewer after finish()
  std::int64_t n_seen_ = 0;
  bool ready_ = true;
  std::vector<float> values_;
  std::vector<double> sums_;  ///< empty for fixed centers
};

}  // namespace kvcodec
