#include "src/eval/wkv_parts.hpp"

#include <cmath>
#include <numeric>
#include <span>

#include "examples/llama/eval_text.hpp"
#include "examples/llama/fake_quantize.hpp"
#include "examples/llama/tokenizer.hpp"

namespace kvcodec::eval {
namespace {

llama::RowQuantizer quantizer(const WkvParts& parts, const HeadShape& shape, Side side,
                              std::int32_t layer) {
  const auto width = static_cast<std::size_t>(shape.n_kv_heads * shape.head_dim);
  llama::RowQuantizer q;
  q.bits = parts.bits;
  q.group = parts.group;
  if (parts.calibration == nullptr) {
    q.shift.assign(width, 0.0f);
    q.scale.assign(width, 1.0f);
    return q;
  }
  const auto shift = parts.calibration->shift(side, layer);
  const float* scale = parts.calibration->scales(side, layer).scale;
  q.clip = parts.calibration->clip(side, layer);
  q.shift.assign(shift.begin(), shift.end());
  q.scale.assign(scale, scale + width);
  return q;
}

/// A model whose attention reads quantized rows.
class QuantizedModel {
 public:
  QuantizedModel(const llama::Model& model, const WkvParts& parts) : model_(model), parts_(parts) {
    for (std::int32_t layer = 0; layer < model.config().n_layers; ++layer) {
      k_.push_back(quantizer(parts, model.head_shape(), Side::key, layer));
      v_.push_back(quantizer(parts, model.head_shape(), Side::value, layer));
    }
  }

  /// [tokens, vocab_size]
  std::span<const float> logits(std::span<const std::int32_t> tokens) {
    std::vector<std::int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    std::vector<std::int64_t> rows(positions.begin(), positions.end());
    return model_.forward(
        tokens, positions, [this](const llama::AttentionCall& call) { attend(call); }, rows, work_);
  }

 private:
  void attend(const llama::AttentionCall& call) {
    const HeadShape shape = model_.head_shape();
    const std::int32_t window = model_.config().window[static_cast<std::size_t>(call.layer)];
    if (!parts_.quantize) {
      llama::dense_attention(call, shape, window, model_.executor());
      return;
    }
    const auto size = static_cast<std::size_t>(call.n * shape.n_kv_heads * shape.head_dim);
    stored_k_.resize(size);
    stored_v_.resize(size);
    const auto layer = static_cast<std::size_t>(call.layer);
    k_[layer].run(call.k, call.n, shape, stored_k_.data(), model_.executor());
    v_[layer].run(call.v, call.n, shape, stored_v_.data(), model_.executor());
    if (parts_.past_only) {
      llama::past_only_attention(call, shape, window, stored_k_.data(), stored_v_.data(),
                                 model_.executor());
      return;
    }
    llama::AttentionCall stored = call;
    stored.k = stored_k_.data();
    stored.v = stored_v_.data();
    llama::dense_attention(stored, shape, window, model_.executor());
  }

  const llama::Model& model_;
  WkvParts parts_;
  std::vector<llama::RowQuantizer> k_, v_;
  std::vector<float> stored_k_, stored_v_;
  llama::Workspace work_;
};

}  // namespace

WkvScorer::WkvScorer(const llama::Model& exact, const llama::EvalData& data) {
  const llama::ByteTokenizer tokenizer(exact.config().vocab_size);
  for (const llama::ByteRange& range : data.documents) {
    documents_.push_back(tokenizer.encode(llama::text_of(data, range)));
    const std::vector<std::int32_t>& tokens = documents_.back();
    logits_.push_back(exact.forward_dense(std::span(tokens).first(tokens.size() - 1)));
  }
}

WkvScore WkvScorer::score(const llama::Model& model, const WkvParts& parts) const {
  if (parts.calibration != nullptr) {
    check_fits(*parts.calibration, model.head_shape(), model.config().n_layers);
  }
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  QuantizedModel quantized(model, parts);
  DivergenceSum divergence;
  llama::Surprise surprise;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    const std::vector<std::int32_t>& tokens = documents_[d];
    const auto known = std::span(tokens).first(tokens.size() - 1);
    const std::span<const float> logits = quantized.logits(known);
    divergence.add(logits_[d], logits, model.config().vocab_size, model.executor());
    for (std::size_t row = 0; row < known.size(); ++row) {
      surprise.bits += llama::surprise_bits(logits.subspan(row * vocab, vocab), tokens[row + 1]);
      ++surprise.n;
    }
  }
  return {std::exp2(surprise.bits_per_byte()), divergence.result()};
}

}  // namespace kvcodec::eval
