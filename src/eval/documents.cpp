#include "src/eval/documents.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "examples/llama/text_tokens.hpp"
#include "kvcodec/core/error.hpp"
#include "src/verify/npy.hpp"

namespace kvcodec::eval {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLongestDocument = 2048;

std::int64_t longest_document(const llama::Config& config) {
  return std::min<std::int64_t>(kLongestDocument, config.max_position);
}

}  // namespace

Documents split_documents(const std::vector<std::int32_t>& tokens, std::int64_t longest) {
  Documents documents;
  for (std::int64_t at = 0; at + 1 < std::ssize(tokens); at += longest) {
    const std::int64_t end = std::min(std::ssize(tokens), at + longest);
    if (end - at >= 2) documents.emplace_back(tokens.begin() + at, tokens.begin() + end);
  }
  return documents;
}

Documents read_tokens(const fs::path& file, const llama::Config& config) {
  const golden::Array array = golden::read_npy(file);
  std::vector<std::int32_t> tokens;
  for (const std::int64_t id : array.integers()) {
    if (id < 0 || id >= config.vocab_size) {
      throw invalid_argument(
          bad_value(file.string(), "token", id, "0.." + std::to_string(config.vocab_size - 1)));
    }
    tokens.push_back(static_cast<std::int32_t>(id));
  }
  const bool rows = array.shape.size() == 2;
  const std::int64_t width = rows ? array.shape[1] : std::ssize(tokens);
  if ((!rows && array.shape.size() != 1) || width < 2 || (rows && width > config.max_position)) {
    throw invalid_argument(file.string() + ": shape = " + golden::shape_text(array.shape) +
                           ", allowed: [tokens] from 2 on, or [documents, 2.." +
                           std::to_string(config.max_position) + "]");
  }
  return split_documents(tokens, rows ? width : longest_document(config));
}

Documents read_text(const fs::path& file, const fs::path& model, const llama::Config& config) {
  std::ifstream in(file, std::ios::binary);
  if (!in || fs::is_directory(file)) {
    throw invalid_argument(bad_value("eval", "--text", file.string(), "a readable file"));
  }
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const llama::TextTokens tokens = llama::encode_text(model, config, text);
  if (tokens.ids.size() < 2) {
    throw invalid_argument("eval: --text " + file.string() + " holds less than 2 tokens");
  }
  const bool begins = tokens.begin >= 0;
  Documents documents = split_documents(tokens.ids, longest_document(config) - (begins ? 1 : 0));
  for (auto& d : documents) {
    if (begins) d.insert(d.begin(), tokens.begin);
  }
  return documents;
}

}  // namespace kvcodec::eval
