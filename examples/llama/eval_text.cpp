#include "examples/llama/eval_text.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/config.hpp"

namespace llama {
namespace {

class Timer {
 public:
  explicit Timer(Cost& cost) : cost_(cost), start_(std::chrono::steady_clock::now()) {}
  ~Timer() {
    const auto end = std::chrono::steady_clock::now();
    cost_.seconds += std::chrono::duration<double>(end - start_).count();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  Cost& cost_;
  std::chrono::steady_clock::time_point start_;
};

template <class T>
std::span<const T> first(const std::vector<T>& all, std::int64_t limit) {
  const auto n = limit > 0 ? std::min(all.size(), static_cast<std::size_t>(limit)) : all.size();
  return std::span<const T>(all).first(n);
}

std::int64_t size_of(const std::string& text) { return static_cast<std::int64_t>(text.size()); }

// Classes of the held-out bytes, and the sums over them.
class Scorer {
 public:
  Scorer(const EvalData& data, Perplexity& out) : out_(out), kinds_(data.heldout.size(), '\0') {
    mark(data.filler, 'f');
    mark(data.answers, 'a');
  }

  // `logits` predicted byte `at`, which turned out to be `token`.
  void add(std::span<const float> logits, std::int64_t at, std::int32_t token) {
    const double bits = surprise_bits(logits, token);
    const char kind = kinds_[static_cast<std::size_t>(at)];
    add(out_.all, bits);
    if (kind == 'f') add(out_.filler, bits);
    if (kind == 'a') add(out_.answers, bits);
    if (argmax(logits) == token) ++out_.n_top1;
  }

 private:
  static void add(Surprise& sum, double bits) {
    sum.bits += bits;
    ++sum.n;
  }

  void mark(const std::vector<ByteRange>& ranges, char kind) {
    for (const ByteRange& r : ranges) {
      std::fill(kinds_.begin() + r.begin, kinds_.begin() + r.end, kind);
    }
  }

  Perplexity& out_;
  std::vector<char> kinds_;
};

// run(tokens, take, out) runs one document of tokens and hands its logits to take.
template <class Run>
Perplexity score_documents(const EvalData& data, const EvalOptions& options, std::int32_t vocab,
                           Run run) {
  Perplexity out;
  Scorer scorer(data, out);
  const ByteTokenizer tokenizer(vocab);
  const auto documents = first(data.documents, options.max_documents);
  std::int64_t total = 0;
  for (const ByteRange& d : documents) total += d.end - d.begin - 1;
  std::int64_t done = 0;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::int64_t begin = documents[i].begin;
    const auto tokens = tokenizer.encode(text_of(data, documents[i]));
    const auto take = [&](std::int64_t at, std::span<const float> logits) {
      const std::int64_t rows = std::ssize(logits) / vocab;
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto row =
            logits.subspan(static_cast<std::size_t>(r * vocab), static_cast<std::size_t>(vocab));
        const std::int64_t next = at + r + 1;
        scorer.add(row, begin + next, tokens[static_cast<std::size_t>(next)]);
      }
      if (options.logits) options.logits(i, at, logits);
      done += rows;
      if (options.progress) options.progress(done, total);
    };
    run(tokens, take, out);
  }
  return out;
}

void keep_largest(kvcodec::CacheBytes& to, const kvcodec::CacheBytes& from) {
  if (from.n_values > to.n_values) to = from;
}

void check_chunk_size(std::int64_t chunk_size) {
  if (chunk_size < 1) {
    throw kvcodec::invalid_argument(
        kvcodec::bad_value("evaluation", "chunk_size", chunk_size, "1 and above"));
  }
}

// One question in progress, in its own fork.
struct Asked {
  Session session;
  Answer answer;
  std::vector<std::int32_t> pending;  // tokens to run next
};

// Runs all questions to their end, one pass of the model for all of them at a time.
void answer_all(Engine& engine, std::vector<Asked>& asked, Recall& out) {
  const auto vocab = static_cast<std::size_t>(engine.model().config().vocab_size);
  const ByteTokenizer tokenizer(engine.model().config().vocab_size);
  Timer timer(out.answering);
  while (true) {
    std::vector<Chunk> chunks;
    std::vector<Asked*> open;
    for (Asked& a : asked) {
      if (a.answer.given.size() == a.answer.question.answer.size()) continue;
      chunks.push_back({a.session.id(), a.pending});
      open.push_back(&a);
      out.answering.n_tokens += static_cast<std::int64_t>(a.pending.size());
    }
    if (open.empty()) return;
    const std::span<const float> logits = engine.run(chunks, Logits::last);
    for (std::size_t i = 0; i < open.size(); ++i) {
      const std::int32_t token = argmax(logits.subspan(i * vocab, vocab));
      open[i]->pending.assign(1, token);
      open[i]->answer.given += tokenizer.decode(open[i]->pending);
    }
  }
}

}  // namespace

double surprise_bits(std::span<const float> logits, std::int32_t token) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - top));
  const auto own = static_cast<double>(logits[static_cast<std::size_t>(token)] - top);
  return (std::log(sum) - own) / std::numbers::ln2;
}

double Perplexity::perplexity() const noexcept { return std::exp2(all.bits_per_byte()); }

double Recall::accuracy() const noexcept {
  return answers.empty() ? 0.0
                         : static_cast<double>(n_correct) / static_cast<double>(answers.size());
}

CacheNeeds cache_needs(const EvalData& data, const EvalOptions& options) {
  CacheNeeds needs{1, 1};
  for (const ByteRange& d : first(data.documents, options.max_documents)) {
    needs.max_tokens = std::max(needs.max_tokens, d.end - d.begin);
  }
  for (const GenerationPrompt& g : data.generation) {
    needs.max_tokens = std::max(needs.max_tokens, size_of(g.prompt) + g.n_bytes);
  }
  for (const RecallContext& c : first(data.recall, options.max_contexts)) {
    const auto n = std::min<std::int64_t>(options.batch, std::ssize(c.questions));
    std::int64_t longest = 0;
    for (const Question& q : c.questions) {
      longest = std::max(longest, size_of(q.prompt) + size_of(q.answer));
    }
    // A fork shares the context but encodes what follows, and at worst one tile more, by itself.
    const std::int64_t own = (longest / kvcodec::kTileRows + 2) * kvcodec::kTileRows;
    needs.max_tokens = std::max(needs.max_tokens, size_of(c.context) + n * own);
    needs.max_sequences = std::max(needs.max_sequences, static_cast<std::int32_t>(n) + 1);
  }
  return needs;
}

DocumentPasses::DocumentPasses(Engine& engine, std::span<const std::int32_t> tokens,
                               std::int64_t chunk_size)
    : session_(engine.open()),
      tokens_(tokens),
      chunk_size_(chunk_size),
      n_(std::max<std::int64_t>(0, std::ssize(tokens) - 1)) {
  check_chunk_size(chunk_size);
  prompt_ = n_ / 2 / chunk_size * chunk_size;
}

std::span<const float> DocumentPasses::next() {
  if (done()) return {};
  const std::int64_t rows = std::min(chunk_size_, n_ - position_);
  Chunk chunk{session_.id(),
              tokens_.subspan(static_cast<std::size_t>(position_), static_cast<std::size_t>(rows))};
  if (position_ < prompt_) chunk.prompt_left = prompt_ - position_ - rows;
  Engine& engine = session_.engine();
  const Timer timer(cost_);
  const std::span<const float> logits = engine.run({&chunk, 1}, Logits::all);
  if (chunk.prompt_left == 0) engine.cache().end_prompt(session_.id());
  position_ += rows;
  cost_.n_tokens += rows;
  return logits;
}

kvcodec::CacheBytes DocumentPasses::bytes() const {
  return session_.engine().cache().bytes(session_.id());
}

Perplexity measure_perplexity(Engine& engine, const EvalData& data, const EvalOptions& options) {
  check_chunk_size(options.chunk_size);
  return score_documents(
      data, options, engine.model().config().vocab_size,
      [&](std::span<const std::int32_t> tokens, const TakeLogits& take, Perplexity& out) {
        DocumentPasses passes(engine, tokens, options.chunk_size);
        while (!passes.done()) {
          const std::int64_t first = passes.position();
          take(first, passes.next());
        }
        out.cost.n_tokens += passes.cost().n_tokens;
        out.cost.seconds += passes.cost().seconds;
        keep_largest(out.bytes, passes.bytes());
      });
}

Perplexity measure_perplexity(const Model& model, const EvalData& data,
                              const EvalOptions& options) {
  return score_documents(
      data, options, model.config().vocab_size,
      [&](std::span<const std::int32_t> tokens, const TakeLogits& take, Perplexity& out) {
        std::vector<float> logits;
        {
          Timer timer(out.cost);
          logits = model.forward_dense(tokens.first(tokens.size() - 1));
        }
        out.cost.n_tokens += std::ssize(tokens) - 1;
        take(0, logits);
      });
}

Recall measure_recall(Engine& engine, const EvalData& data, const EvalOptions& options) {
  check_chunk_size(options.chunk_size);
  Recall out;
  const ByteTokenizer tokenizer(engine.model().config().vocab_size);
  const auto contexts = first(data.recall, options.max_contexts);
  const auto batch = static_cast<std::size_t>(
      std::clamp(std::min(options.batch, engine.cache().config().max_sequences - 1), 1, 1 << 20));
  std::int64_t total = 0;
  for (const RecallContext& c : contexts) total += size_of(c.context);
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const RecallContext& c = contexts[i];
    Session session = engine.open();
    {
      Timer timer(out.prefill);
      session.prefill(tokenizer.encode(c.context), options.chunk_size, Logits::none);
    }
    out.prefill.n_tokens += size_of(c.context);
    keep_largest(out.bytes, engine.cache().bytes(session.id()));
    for (std::size_t from = 0; from < c.questions.size(); from += batch) {
      std::vector<Asked> asked;
      for (std::size_t q = from; q < std::min(from + batch, c.questions.size()); ++q) {
        asked.push_back({session.fork(),
                         {c.questions[q], "", static_cast<std::int32_t>(i)},
                         tokenizer.encode(c.questions[q].prompt)});
      }
      answer_all(engine, asked, out);
      for (Asked& a : asked) {
        out.n_correct += a.answer.correct() ? 1 : 0;
        out.answers.push_back(std::move(a.answer));
      }
    }
    if (options.progress) options.progress(out.prefill.n_tokens, total);
  }
  return out;
}

Generated generate(Engine& engine, const std::vector<std::int32_t>& prompt, std::int64_t n_new,
                   Sampler sampler, std::int64_t chunk_size) {
  if (prompt.empty()) throw kvcodec::invalid_argument("generate: the prompt is empty");
  Generated out;
  Session session = engine.open();
  std::span<const float> logits;
  {
    Timer timer(out.prefill);
    logits = session.prefill(prompt, chunk_size);
  }
  out.prefill.n_tokens = std::ssize(prompt);
  for (std::int64_t i = 0; i < n_new; ++i) {
    Timer timer(out.decode);
    if (i > 0) {
      logits = session.step(out.tokens.back());
      ++out.decode.n_tokens;
    }
    out.tokens.push_back(sampler.next(logits));
  }
  return out;
}

Generated generate(const Model& model, const std::vector<std::int32_t>& prompt, std::int64_t n_new,
                   Sampler sampler) {
  Generated out;
  std::vector<std::int32_t> tokens = prompt;
  for (std::int64_t i = 0; i < n_new; ++i) {
    Timer timer(out.decode);
    out.tokens.push_back(sampler.next(model.forward_dense_last(tokens)));
    tokens.push_back(out.tokens.back());
    ++out.decode.n_tokens;
  }
  return out;
}

}  // namespace llama
