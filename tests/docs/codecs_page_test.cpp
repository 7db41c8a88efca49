// docs/codecs.md is what `kvcodec list --markdown` prints, and the pages that describe bytes know
// every codec.
#include <gtest/gtest.h>

#include "kvcodec/codec/builtin.hpp"
#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

std::string text_of(const std::string& page) {
  std::string text;
  for (const std::string& line : read_lines(repository() / page)) text += line + "\n";
  return text;
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  char piece[4096];
  while (pipe != nullptr && std::fgets(piece, sizeof piece, pipe) != nullptr) text += piece;
  if (pipe != nullptr) pclose(pipe);
  return text;
}

TEST(CodecsPage, IsWhatTheCommandPrints) {
  const std::string printed = output_of(std::string(KVCODEC_COMMAND) + " list --markdown");
  ASSERT_NE(printed, "") << KVCODEC_COMMAND;
  EXPECT_EQ(text_of("docs/codecs.md"), printed)
      << "write it anew: kvcodec list --markdown > docs/codecs.md";
}

TEST(CodecsPage, FormatsPageKnowsEveryCodec) {
  const std::string formats = text_of("docs/formats.md");
  BuiltinCodecs::for_each([&]<class C>() {
    EXPECT_NE(formats.find("| `" + std::string(C::family) + "` |"), std::string::npos) << C::family;
  });
}

}  // namespace
}  // namespace kvcodec::docs_test
