// The evaluation set of a shipped model folder: held-out text, recall contexts, prompts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace llama {

/// Bytes begin..end-1 of the held-out text.
struct ByteRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// One fact to be recalled.
struct Question {
  std::string key;
  std::string prompt;         ///< what to ask, e.g. "QXM?"
  std::string answer;         ///< what must follow, byte for byte
  std::int64_t distance = 0;  ///< bytes from the fact to the question
};

/// A text full of facts and the questions about it, each asked right after the text.
struct RecallContext {
  std::string context;
  std::vector<Question> questions;
};

/// A prompt to be continued.
struct GenerationPrompt {
  std::string name;
  std::string prompt;
  std::int64_t n_bytes = 96;   ///< bytes to generate
  std::string expected_start;  ///< how a right continuation begins; empty: unknown
};

struct EvalData {
  std::string heldout;
  std::vector<ByteRange> documents;  ///< scored one by one, each from an empty cache
  std::vector<ByteRange> filler;     ///< bytes of the plain language part
  std::vector<ByteRange> answers;    ///< bytes that follow from earlier ones for certain
  std::vector<RecallContext> recall;
  std::vector<GenerationPrompt> generation;
  std::map<std::string, double> floor;  ///< bits per byte that no model can beat, by class
};

/// Reads folder/eval.json and the text it names, or the eval.json that its field "shared" points to
/// (a path relative to the folder): models of one vocabulary share their material. Throws
/// invalid_argument if there is none, corrupt_data naming the field that is wrong.
EvalData read_eval(const std::filesystem::path& folder);

/// Bytes range.begin..range.end-1 of the held-out text.
std::string_view text_of(const EvalData& data, const ByteRange& range);

}  // namespace llama
