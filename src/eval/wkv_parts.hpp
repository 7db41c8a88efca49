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
  Divergence divergence;  ///< from the same tokens' logits of `exact`
};

/// Scores the documents of `data` on `model`, whose weights may be quantized, against `exact`, the same
/// model in full. max_documents: 0 for all. Throws invalid_argument where the calibration is for
/// another model or the text is no text of the model's.
WkvScore score_wkv(const llama::Model& model, const llama::Model& exact,
                   const llama::EvalData& data, const WkvParts& parts,
                   std::int64_t max_documents = 0);

}  // namespace kvcodec::eval
