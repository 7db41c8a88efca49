// Continues a prompt with a byte-level model whose KV cache is compressed.
//
//   llama --model examples/models/tiny-llama --prompt "QXM=7312. QXM?" --plan kv=nqsym:g64
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "examples/llama/eval_text.hpp"
#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/executor.hpp"
#include "kvcodec/plan/plan.hpp"

namespace {

struct Arguments {
  std::string model;
  std::string prompt;
  std::string plan = "kv=nqsym:g64,recent=32,sink=4";
  std::int64_t max_tokens = 96;
  llama::SamplerOptions sampler;
};

void parse(CLI::App& app, Arguments& a) {
  app.add_option("--model", a.model, "Hugging Face folder of a model with 256 tokens")->required();
  app.add_option("--prompt", a.prompt, "text to continue")->required();
  app.add_option("--plan", a.plan, "how to store the cache\n" + kvcodec::plan_help())
      ->capture_default_str();
  app.add_option("--max-tokens", a.max_tokens, "tokens to generate")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--temperature", a.sampler.temperature, "0: always the most likely token")
      ->capture_default_str();
  app.add_option("--seed", a.sampler.seed, "of the sampling")->capture_default_str();
}

int run(const Arguments& a) {
  kvcodec::ThreadPool pool;
  const llama::Model model = llama::Model::load(a.model, pool.executor());
  const llama::ByteTokenizer tokenizer(model.config().vocab_size);
  const auto prompt = tokenizer.encode(a.prompt);
  llama::Engine engine(model, a.plan, std::ssize(prompt) + a.max_tokens);
  const llama::Generated out =
      llama::generate(engine, prompt, a.max_tokens, llama::Sampler(a.sampler));
  const std::string text = tokenizer.decode(out.tokens);
  std::printf("%s%s\n", a.prompt.c_str(), text.c_str());
  std::fprintf(stderr, "prompt: %lld tokens, %.0f tokens/s; generated: %.0f tokens/s\n",
               static_cast<long long>(out.prefill.n_tokens), out.prefill.tokens_per_second(),
               out.decode.tokens_per_second());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Continues a prompt with a model whose KV cache is compressed.");
  parse(app, arguments);
  CLI11_PARSE(app, argc, argv);
  try {
    return run(arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "llama: %s\n", e.what());
    return 2;
  }
}
