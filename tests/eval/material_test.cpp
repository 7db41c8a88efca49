// What is scored and asked: token documents, tokenizers, retrieval contexts in a text's own style.
#include <cstring>
#include <fstream>
#include <functional>

#include "examples/llama/text_tokens.hpp"
#include "kvcodec/core/error.hpp"
#include "src/eval/documents.hpp"
#include "src/eval/retrieval.hpp"
#include "src/verify/npy.hpp"
#include "tests/eval/model_fixture.hpp"

namespace kvcodec::eval {
namespace {

namespace fs = std::filesystem;

llama::EvalData shipped_text() {
  return llama::read_eval(fs::path(KVCODEC_SOURCE_DIR) / "examples/models/tiny-llama");
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Retrieval, WritesFactsWhereTheyAreAsked) {
  const llama::EvalData data = shipped_text();
  RetrievalOptions options;
  options.lengths = {512, 1024};
  options.depths = {0.0, 0.5, 1.0};
  options.contexts = 2;
  const auto tasks = make_retrieval(data, options);
  ASSERT_EQ(tasks.size(), 2u * (3u + 2u));
  for (const RetrievalTask& task : tasks) {
    ASSERT_EQ(task.data.recall.size(), 2u);
    EXPECT_NE(task.data.recall[0].context, task.data.recall[1].context);
    for (const llama::RecallContext& c : task.data.recall) {
      const auto size = static_cast<std::int64_t>(c.context.size());
      EXPECT_LE(size, task.length);
      EXPECT_GT(size, task.length - 80) << task.task << ": a sentence fits in what is left";
      const std::size_t n_facts = count_of(c.context, "=");
      EXPECT_EQ(c.questions.size(), task.task == "needle"         ? 1u
                                    : task.task == "multi_needle" ? 8u
                                                                  : 24u);
      const std::size_t room = (static_cast<std::size_t>(task.length) - 1) / 10;
      EXPECT_EQ(n_facts, task.task == "key_value" ? room : c.questions.size());
      for (const llama::Question& q : c.questions) {
        const std::string fact = q.key + "=" + q.answer + ". ";
        EXPECT_EQ(q.prompt, q.key + "?");
        EXPECT_EQ(count_of(c.context, q.key + "="), 1u) << "keys are distinct";
        EXPECT_EQ(c.context.find(fact), c.context.size() - static_cast<std::size_t>(q.distance));
        const double depth = 1.0 - static_cast<double>(q.distance) / static_cast<double>(size);
        EXPECT_NEAR(depth, task.depth.value_or(depth), 80.0 / static_cast<double>(task.length));
      }
    }
  }
  EXPECT_EQ(make_retrieval(data, options)[3].data.recall[0].context,
            tasks[3].data.recall[0].context);
  options.seed = 2;
  EXPECT_NE(make_retrieval(data, options)[3].data.recall[0].context,
            tasks[3].data.recall[0].context);
  options.lengths = {100};
  EXPECT_NE(message_of([&] { make_retrieval(data, options); }).find("length = 100"),
            std::string::npos);
  options.lengths = {512};
  options.depths = {1.5};
  EXPECT_THROW(make_retrieval(data, options), invalid_argument);
  EXPECT_TRUE(make_retrieval(llama::EvalData(), options).empty());
}

TEST(Retrieval, BinsHoldEveryQuestionOnce) {
  llama::EvalData data;
  data.recall.push_back({std::string(1000, 'x'), {}});
  llama::Recall recall;
  for (const std::int64_t distance : {1, 127, 128, 400, 999, 1000}) {
    recall.answers.push_back({{"K", "K?", "12", distance}, distance == 400 ? "13" : "12", 0});
  }
  const auto near = recall_by_distance(recall);
  ASSERT_EQ(near.size(), 4u);
  EXPECT_EQ(near[0].asked, 2);
  EXPECT_EQ(near[1].asked, 1);
  EXPECT_EQ(near[2].asked, 1);
  EXPECT_EQ(near[2].right, 0);
  EXPECT_EQ(near[3].from, 512);
  EXPECT_EQ(near[3].asked, 2);
  const auto deep = recall_by_depth(recall, data);
  ASSERT_EQ(deep.size(), 3u);
  EXPECT_EQ(deep[0].asked, 2);
  EXPECT_EQ(deep[1].from, 0.6);
  EXPECT_EQ(deep[1].right, 0);
  EXPECT_EQ(deep[2].asked, 3);
}

TEST(Documents, AreAsLongAsAllowed) {
  const std::vector<std::int32_t> ids = {0, 1, 2, 3, 4, 5, 6};
  EXPECT_EQ(split_documents(ids, 3), (Documents{{0, 1, 2}, {3, 4, 5}}))
      << "one token predicts none";
  EXPECT_EQ(split_documents(ids, 4), (Documents{{0, 1, 2, 3}, {4, 5, 6}}));
}

class Material : public RandomModel {
 protected:
  void TearDown() override {
    for (const char* name : {"tokenizer.model", "tokenizer.json"}) fs::remove(folder() / name);
  }
  static llama::Config with_vocabulary(std::int32_t size) {
    llama::Config config = model().config();
    config.vocab_size = size;
    return config;
  }
};

TEST_F(Material, TokenFilesHoldOneSequenceOrRows) {
  const fs::path file = folder() / "ids.npy";
  const std::vector<std::int32_t> ids = tokens(1200, 3);
  golden::write_npy(file, golden::make_array<std::int32_t>("i4", {1200}, ids));
  const Documents split = read_tokens(file, model().config());
  ASSERT_EQ(split.size(), 3u) << "the model takes 512";
  EXPECT_EQ(split[2].size(), 1200u - 1024u);
  golden::write_npy(file, golden::make_array<std::int32_t>("i4", {4, 300}, ids));
  const Documents rows = read_tokens(file, model().config());
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[3].front(), ids[900]);
  golden::write_npy(file, golden::make_array<std::int32_t>("i4", {2, 600}, ids));
  EXPECT_NE(message_of([&] { read_tokens(file, model().config()); }).find("shape = [2, 600]"),
            std::string::npos);
  golden::write_npy(file, golden::make_array<std::int32_t>("i4", {1}, {{5}}));
  EXPECT_THROW(read_tokens(file, model().config()), invalid_argument);
}

TEST_F(Material, TokenizersThatAreNotReadSayWhatToDo) {
  EXPECT_EQ(llama::encode_text(folder(), with_vocabulary(256), "aB").ids,
            (std::vector<std::int32_t>{97, 66}));
  const std::string other =
      message_of([&] { llama::encode_text(folder(), with_vocabulary(300), "a"); });
  EXPECT_NE(other.find("vocab_size = 300"), std::string::npos) << other;
  EXPECT_NE(other.find("--tokens"), std::string::npos) << other;
  std::ofstream(folder() / "tokenizer.json") << "{}";
  const std::string json =
      message_of([&] { llama::encode_text(folder(), with_vocabulary(256), "a"); });
  EXPECT_NE(json.find("tokenizer.json"), std::string::npos) << json;
  EXPECT_NE(json.find("--tokens"), std::string::npos) << json;
}

/// A protobuf field that holds bytes.
std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) +
         std::string(1, static_cast<char>(bytes.size())) + bytes;
}

/// A piece of a SentencePiece model: text, score, kind (1 normal, 2 unknown, 3 control).
std::string piece(const std::string& text, float score, int kind) {
  std::string bits(4, '\0');
  std::memcpy(bits.data(), &score, 4);
  return field(1, field(1, text) + '\x15' + bits + '\x18' + static_cast<char>(kind));
}

TEST_F(Material, SentencePieceModelsAreReadWhereTheLibraryIs) {
  const std::string space = "\xe2\x96\x81";  // what SentencePiece writes for a space
  std::ofstream(folder() / "tokenizer.model", std::ios::binary)
      << piece("<unk>", 0, 2) << piece("<s>", 0, 3) << piece("</s>", 0, 3) << piece(space, -3, 1)
      << piece("a", -2, 1) << piece("b", -2, 1) << piece("ab", -1, 1)
      << piece(space + "ab", -1.5f, 1);
  if (!llama::has_sentencepiece()) {
    const std::string text =
        message_of([&] { llama::encode_text(folder(), with_vocabulary(8), "ab"); });
    EXPECT_NE(text.find("libsentencepiece-dev"), std::string::npos) << text;
    EXPECT_NE(text.find("--tokens"), std::string::npos) << text;
    return;
  }
  const llama::TextTokens got = llama::encode_text(folder(), with_vocabulary(8), "ab baab");
  EXPECT_EQ(got.ids, (std::vector<std::int32_t>{7, 3, 5, 4, 6}));
  EXPECT_EQ(got.begin, 1);
  std::ofstream(folder() / "text.txt") << std::string(600, 'a');
  const Documents documents = read_text(folder() / "text.txt", folder(), with_vocabulary(8));
  ASSERT_EQ(documents.size(), 2u) << "the model takes 512";
  EXPECT_EQ(documents[0].size(), 512u);
  EXPECT_EQ(documents[1].size(), 601u - 511u + 1u);
  EXPECT_EQ(documents[1].front(), 1) << "every document begins with <s>";
  EXPECT_NE(message_of([&] {
              llama::encode_text(folder(), with_vocabulary(7), "a");
            }).find("vocab_size = 7"),
            std::string::npos);
  std::ofstream(folder() / "tokenizer.model", std::ios::binary) << "no model";
  EXPECT_THROW(llama::encode_text(folder(), with_vocabulary(8), "ab"), corrupt_data);
}

}  // namespace
}  // namespace kvcodec::eval
