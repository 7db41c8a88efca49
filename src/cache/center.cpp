#include "src/cache/center.hpp"

#include <algorithm>

namespace kvcodec {

Center::Center(const LayerInfo& layer, Side side) : head_dim_(layer.shape.head_dim) {
  const SideConfig& config = layer.side(side);
  if (config.center.kind == Centering::Kind::none) return;
  values_.resize(static_cast<std::size_t>(layer.shape.n_kv_heads * head_dim_));
  if (config.center.kind == Centering::Kind::fixed) {
    std::copy_n(config.center.values, values_.size(), values_.begin());
    for (int head = 0; head < layer.shape.n_kv_heads; ++head) {
      config.transform.forward(head_dim_, head, values_.data() + head * head_dim_);
    }
    return;
  }
  sums_.resize(values_.size());
  n_rows_ = config.center.n_rows;
  restart();
}

void Center::add(std::int64_t head, const float* x) noexcept {
  if (ready_) return;
  double* sum = sums_.data() + head * head_dim_;
  for (int c = 0; c < head_dim_; ++c) sum[c] += static_cast<double>(x[c]);
}

void Center::count_row() noexcept {
  if (ready_) return;
  if (++n_seen_ == n_needed_) finish();
}

void Center::finish() noexcept {
  if (ready_) return;
  n_needed_ = std::min(n_needed_, n_seen_);
  for (std::size_t i = 0; i < values_.size(); ++i) {
    values_[i] = n_seen_ == 0 ? 0.0f : static_cast<float>(sums_[i] / static_cast<double>(n_seen_));
  }
  ready_ = true;
}

void Center::restart() noexcept {
  if (sums_.empty()) return;
  std::fill(sums_.begin(), sums_.end(), 0.0);
  n_needed_ = n_rows_;
  n_seen_ = 0;
  ready_ = false;
}

}  // namespace kvcodec
