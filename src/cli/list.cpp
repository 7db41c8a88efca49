// kvcodec list: every codec and transform that a plan can name, with sizes and expected loss.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/plan/plan.hpp"
#include "kvcodec/policy/builtin.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "src/cli/commands.hpp"
#include "src/output/output.hpp"

namespace kvcodec::cli {
namespace {

constexpr int kHeadDim = 128;

struct Options {
  bool markdown = false;
  std::string json;
};

double bits_per_value(const AnyCodec& codec) {
  return 8.0 * static_cast<double>(codec.tile_bytes(kHeadDim)) /
         static_cast<double>(kTileRows * codec.head_span(kHeadDim) * kHeadDim);
}

std::vector<std::vector<std::string>> codec_rows(const char* quote) {
  std::vector<std::vector<std::string>> rows;
  BuiltinCodecs::for_each([&]<class C>() {
    const AnyCodec codec = C{};
    const LossBounds loss = codec.loss(kHeadDim);
    rows.push_back({quote + std::string(C::family) + quote, codec.name(),
                    format("%.4g", bits_per_value(codec)),
                    format("%.3g..%.3g", loss.low, loss.high),
                    codec.row_independent() ? "yes" : "no", codec.bit_exact() ? "yes" : "no",
                    C::options_help});
  });
  return rows;
}

const std::vector<std::string> kHeads = {
    "codec", "default", "bits per value", "relative MSE", "row by row", "bit-exact", "options"};

/// The page docs/codecs.md; a test compares the two.
void print_markdown() {
  std::printf("# Codecs\n\nWritten by `kvcodec list --markdown`; a test compares.\n\n");
  std::printf(
      "At head_dim %d. Relative MSE: the bounds that tests hold Gaussian rows to, from both "
      "sides.\nRow by row: a cache can be truncated at any token.\n\n",
      kHeadDim);
  const auto line = [](const std::vector<std::string>& cells) {
    for (const std::string& cell : cells) std::printf("| %s ", cell.c_str());
    std::printf("|\n");
  };
  line(kHeads);
  line(std::vector<std::string>(kHeads.size(), "---"));
  for (const auto& row : codec_rows("`")) line(row);
  std::printf("\n## Transforms\n\nIn front of a codec: `k=hadamard+nqkv:g64`.\n\n");
  line({"transform", "options"});
  line({"---", "---"});
  BuiltinTransforms::for_each([&]<class T>() {
    line({"`" + std::string(T::family) + "`", T::options_help});
  });
  line({"`mean`", "n<rows>: mean of the first rows, subtracted and added back exactly"});
  std::printf("\n## Codecs of a cache alone\n\nTheir tables grow with a sequence.\n\n");
  line({"codec", "options"});
  line({"---", "---"});
  line({"`" + std::string(Codebook::family) + "`", Codebook::options_help});
  std::printf("\n## Policies\n\nWhich tokens stay: `policy=lagkv:l128:r0.5`.\n\n");
  line({"policy", "options"});
  line({"---", "---"});
  BuiltinPolicies::for_each([&]<class P>() {
    line({"`" + std::string(P::family) + "`", P::options_help});
  });
}

int list(const Options& options) {
  check_writable(options.json);
  if (options.markdown) {
    print_markdown();
  } else {
    auto rows = codec_rows("");
    rows.insert(rows.begin(), kHeads);
    std::printf("%s\n%s", to_table(rows).c_str(), plan_help().c_str());
  }
  Json codecs = Json::array();
  BuiltinCodecs::for_each([&]<class C>() {
    const AnyCodec codec = C{};
    codecs.push_back({{"family", C::family},
                      {"default", codec.name()},
                      {"bits_per_value", bits_per_value(codec)},
                      {"loss_low", codec.loss(kHeadDim).low},
                      {"loss_high", codec.loss(kHeadDim).high}});
  });
  write_json(options.json, {{"head_dim", kHeadDim}, {"codecs", codecs}});
  return 0;
}

}  // namespace

void add_list(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("list", "Lists codecs, transforms and plan keys");
  sub->add_flag("--markdown", options->markdown, "as the page docs/codecs.md");
  sub->add_option("--json", options->json, "also write the codecs to this file");
  sub->callback([options, &run] { run = [options] { return list(*options); }; });
}

}  // namespace kvcodec::cli
