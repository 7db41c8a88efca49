// Text and token ids as documents to be scored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "examples/llama/config.hpp"

namespace kvcodec::eval {

/// Sequences of token ids, each scored from an empty cache.
using Documents = std::vector<std::vector<std::int32_t>>;

/// Documents of at most `longest` tokens each.
Documents split_documents(const std::vector<std::int32_t>& tokens, std::int64_t longest);

/// Token ids of a .npy of integers: one sequence, split into documents as long as the model allows,
/// up to 2048; or [documents, tokens]. Throws corrupt_data, or invalid_argument naming an id that the
/// model has not, a length or a shape.
Documents read_tokens(const std::filesystem::path& file, const llama::Config& config);

/// A text as documents of the same lengths, by the tokenizer of the folder `model`, each begun as the
/// tokenizer says. Throws invalid_argument for a file that cannot be read or holds less than 2 tokens,
/// and what llama::encode_text throws.
Documents read_text(const std::filesystem::path& file, const std::filesystem::path& model,
                    const llama::Config& config);

}  // namespace kvcodec::eval
