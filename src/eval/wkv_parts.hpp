// What the parts of WKVQuant are worth: predictions with every row of K and V quantized, none kept in a
// window, so that each part can be left out by itself. A Cache cannot show past-only quantization: it
// keeps new rows raw until a tile is full.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/llama/eval_data.hpp"
#include "examples/llama/model.hpp"
#include "kvcodec/plan/calibration.hpp"
#include "src/eval/divergence.hpp"

namespace kvcodec::eval {

/// Which parts are in use.
struct WkvParts {
  bool quantize = true;   ///< K and V at all
  bool past_only = true;  ///< POQ: a token sees its own row exactly
  /// Static shift and scale per channel beside the groups of a token (2-D quantization); null: groups
  /// alone.
  const Calibration* calibration = nullptr;
  std::int32_t bits = 4;
  std::int32_t group = 128;  ///< channels of a head that share a step; above head_dim: the head
};

struct WkvScore {
  double perplexity = 0.0;
  Divergence divergence;  ///< from the same tokens' logits of the exact model
};

/// Scores settings on documents, against the logits of a model in full, which are kept: 4 bytes for each
/// token and entry of the vocabulary.
class WkvScorer {
 public:
  /// Runs the documents of `data` on `exact`. Throws unsupported where its tokens are not bytes.
  WkvScorer(const llama::Model& exact, const llama::EvalData& data);

  /// `model` is the same one, whose weights may be quantized. Throws invalid_argument where the
  /// calibration is for another model.
  WkvScore score(const llama::Model& model, const WkvParts& parts) const;

 private:
  std::vector<std::vector<std::int32_t>> documents_;
  std::vector<std::vector<float>> logits_;  ///< per document [tokens - 1, vocab_size]
};

}  // namespace kvcodec::eval
