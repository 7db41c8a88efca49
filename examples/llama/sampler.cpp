#include "examples/llama/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kvcodec/core/error.hpp"

namespace llama {

std::int32_t argmax(std::span<const float> logits) {
  // Comparing with the best so far, and not with std::max_element, skips a NaN in any place.
  std::int32_t best = -1;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    if (best < 0 || logits[i] > logits[static_cast<std::size_t>(best)]) {
      best = static_cast<std::int32_t>(i);
    }
  }
  if (best < 0) {
    throw kvcodec::invalid_argument("sampler: no logit is a number, allowed: at least one");
  }
  return best;
}

Sampler::Sampler(SamplerOptions options) : options_(options), state_(options.seed) {
  if (!(options.temperature >= 0.0f) || std::isinf(options.temperature)) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("sampler", "temperature", options.temperature, "0 and above"));
  }
  if (options.top_k < 0) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("sampler", "top_k", options.top_k, "0 (all tokens) and above"));
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("sampler", "top_p", options.top_p, "above 0 and at most 1"));
  }
}

// splitmix64, by Sebastiano Vigna: one multiply-and-xor chain per number and any seed is good.
double Sampler::uniform() {
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

std::int32_t Sampler::next(std::span<const float> logits) {
  const std::int32_t best = argmax(logits);
  if (options_.temperature == 0.0f) return best;
  order_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) order_.push_back(static_cast<std::int32_t>(i));
  }
  const auto logit = [&](std::int32_t i) { return logits[static_cast<std::size_t>(i)]; };
  std::sort(order_.begin(), order_.end(), [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  });
  if (options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < order_.size()) {
    order_.resize(static_cast<std::size_t>(options_.top_k));
  }
  weights_.clear();
  for (const std::int32_t i : order_) {
    const double difference = static_cast<double>(logit(i)) - static_cast<double>(logit(best));
    // Equal infinities differ by NaN; they are equally likely.
    weights_.push_back(logit(i) == logit(best) ? 1.0 : std::exp(difference / options_.temperature));
  }
  const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  double kept = 0.0;
  std::size_t n = 0;
  while (n < weights_.size() && (n == 0 || kept < options_.top_p * total)) kept += weights_[n++];
  double rest = uniform() * kept;
  for (std::size_t i = 0; i < n; ++i) {
    if (rest < weights_[i]) return order_[i];
    rest -= weights_[i];
  }
  return order_[n - 1];  // only rounding leads here
}

}  // namespace llama
