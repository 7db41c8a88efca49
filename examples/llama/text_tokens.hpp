// Text to the token ids of a model folder, by the tokenizer that lies in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "examples/llama/config.hpp"

namespace llama {

/// Whether SentencePiece models (`tokenizer.model`) can be read: the library was there at build
/// time.
bool has_sentencepiece() noexcept;

/// Token ids of `text`, without begin-of-text marks, and the mark that a document of the model
/// starts with.
struct TextTokens {
  std::vector<std::int32_t> ids;
  std::int32_t begin = -1;  ///< -1: none
};

/// A folder with `tokenizer.model` is read by SentencePiece; without any tokenizer file a vocabulary
/// of 256 is that of bytes. Throws unsupported, naming what to install or how to pass token ids, for
/// `tokenizer.json`, for other vocabularies and for `tokenizer.model` without the library;
/// corrupt_data for a file that SentencePiece refuses, or ids that the model has not.
TextTokens encode_text(const std::filesystem::path& folder, const Config& config,
                       const std::string& text);

}  // namespace llama
