#include "examples/llama/text_tokens.hpp"

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/error.hpp"

#ifdef KVCODEC_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace llama {
namespace {

namespace fs = std::filesystem;

// The way out for every tokenizer that is not read here.
constexpr const char* kIdsInstead =
    "; instead encode the text with the model's own tokenizer, save the ids as a .npy of integers "
    "and pass them by --tokens";

#ifdef KVCODEC_SENTENCEPIECE
TextTokens encode_pieces(const fs::path& file, const Config& config, const std::string& text) {
  sentencepiece::SentencePieceProcessor pieces;
  const auto loaded = pieces.Load(file.string());
  if (!loaded.ok()) throw kvcodec::corrupt_data(file.string() + ": " + loaded.ToString());
  if (pieces.GetPieceSize() > config.vocab_size) {
    throw kvcodec::corrupt_data(
        kvcodec::bad_value(file.string(), "pieces", pieces.GetPieceSize(),
                           "up to vocab_size = " + std::to_string(config.vocab_size)));
  }
  std::vector<int> ids;
  const auto encoded = pieces.Encode(text, &ids);
  if (!encoded.ok()) throw kvcodec::corrupt_data(file.string() + ": " + encoded.ToString());
  return {{ids.begin(), ids.end()}, pieces.bos_id()};
}
#else
TextTokens encode_pieces(const fs::path& file, const Config&, const std::string&) {
  throw kvcodec::unsupported(file.string() +
                             ": this build does not read SentencePiece models; install "
                             "libsentencepiece-dev and build again" +
                             kIdsInstead);
}
#endif

}  // namespace

bool has_sentencepiece() noexcept {
#ifdef KVCODEC_SENTENCEPIECE
  return true;
#else
  return false;
#endif
}

TextTokens encode_text(const fs::path& folder, const Config& config, const std::string& text) {
  if (fs::exists(folder / "tokenizer.model")) {
    return encode_pieces(folder / "tokenizer.model", config, text);
  }
  const fs::path json = folder / "tokenizer.json";
  if (fs::exists(json)) {
    throw kvcodec::unsupported(json.string() + ": tokenizers in JSON are not read" + kIdsInstead);
  }
  if (config.vocab_size != 256) {
    throw kvcodec::unsupported(kvcodec::bad_value(folder.string(), "vocab_size", config.vocab_size,
                                                  "256 (bytes) without a tokenizer.model") +
                               kIdsInstead);
  }
  return {ByteTokenizer(config.vocab_size).encode(text), -1};
}

}  // namespace llama
