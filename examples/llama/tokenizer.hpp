// The tokenizer of the shipped model: one token per byte, the token is the byte.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcodec/core/error.hpp"

namespace llama {

/// Byte-level tokenizer, vocabulary 256.
class ByteTokenizer {
 public:
  /// Throws unsupported if the model's vocabulary is not the 256 bytes.
  explicit ByteTokenizer(std::int32_t vocab_size) {
    if (vocab_size != 256) {
      throw kvcodec::unsupported(kvcodec::bad_value("byte tokenizer", "vocab_size", vocab_size,
                                                    "256; for other models pass token ids"));
    }
  }

  std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }

  std::string decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    text.reserve(tokens.size());
    for (const std::int32_t token : tokens) text.push_back(static_cast<char>(token));
    return text;
  }
};

}  // namespace llama
