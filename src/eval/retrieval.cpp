#include "src/eval/retrieval.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <span>

#include "kvcodec/core/error.hpp"

namespace kvcodec::eval {
namespace {

using output::Json;

// The classes of docs/model.md, which its scores are given for.
constexpr double kDistances[] = {0, 128, 256, 512, 1024, 1536, 2304, 4096, 8192, 16384, 32768};
constexpr int kDepthBins = 5;

double depth_of(const llama::Answer& answer, const llama::EvalData& data) {
  const auto length =
      static_cast<double>(data.recall[static_cast<std::size_t>(answer.context)].context.size());
  return std::clamp(1.0 - static_cast<double>(answer.question.distance) / length, 0.0, 1.0);
}

void count(RecallBin& bin, const llama::Answer& answer) {
  ++bin.asked;
  bin.right += answer.correct() ? 1 : 0;
}

/// To three digits: sums of fifths are not exact.
double middle(const RecallBin& bin) { return std::round(500.0 * (bin.from + bin.to)) / 1000.0; }

std::vector<RecallBin> without_empty(std::vector<RecallBin> bins) {
  std::erase_if(bins, [](const RecallBin& b) { return b.asked == 0; });
  return bins;
}

std::string fact_text(const std::string& key, const std::string& value) {
  return key + "=" + value + ".";
}

/// Draws facts and filler. The same seed gives the same text everywhere.
class Writer {
 public:
  Writer(const llama::EvalData& data, std::uint64_t seed) : random_(seed) {
    for (const llama::ByteRange& r : data.filler) {
      std::string text(text_of(data, r));
      if (!text.ends_with(' ')) text += ' ';
      sentences_.push_back(std::move(text));
    }
    for (const llama::RecallContext& c : data.recall) {
      for (const llama::Question& q : c.questions) {
        const bool in_style = q.prompt == q.key + "?" &&
                              c.context.find(fact_text(q.key, q.answer)) != std::string::npos;
        if (q.key.empty() || !in_style) continue;
        learn(q.key, keys_);
        learn(q.answer, values_);
      }
    }
  }

  bool can_write() const { return !sentences_.empty() && !keys_.empty() && !values_.empty(); }

  const std::string& sentence() { return sentences_[below(sentences_.size())]; }

  /// A fact with a key that this writer did not use before; distance is left open.
  llama::Question fact() {
    std::string key;
    do {
      key = draw(keys_);
    } while (!used_.insert(key).second && used_.size() < n_keys());
    return {key, key + "?", draw(values_), 0};
  }

  void forget_keys() { used_.clear(); }

  std::size_t n_keys() const {
    std::size_t n = 1;
    for (const std::string& letters : keys_) {
      n = std::min<std::size_t>(n * letters.size(), 1u << 30);
    }
    return n;
  }

  std::size_t fact_size() const { return keys_.size() + values_.size() + 3; }  // "=", ". "

 private:
  /// Adds the letters of a word, place by place; words of other lengths than the first are left out.
  static void learn(const std::string& word, std::vector<std::string>& letters) {
    if (letters.empty()) letters.resize(word.size());
    if (word.size() != letters.size()) return;
    for (std::size_t i = 0; i < word.size(); ++i) {
      if (letters[i].find(word[i]) == std::string::npos) letters[i] += word[i];
    }
  }

  std::string draw(const std::vector<std::string>& letters) {
    std::string word;
    for (const std::string& choice : letters) word += choice[below(choice.size())];
    return word;
  }

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

  std::mt19937_64 random_;
  std::vector<std::string> sentences_;
  std::vector<std::string> keys_, values_;  // per place, the letters seen there
  std::set<std::string> used_;
};

/// Filler of `length` bytes with facts behind the given shares of it; distances are filled in.
llama::RecallContext write_haystack(Writer& writer, std::int64_t length,
                                    std::span<const double> depths) {
  llama::RecallContext out;
  out.context = "\n";
  const auto room =
      static_cast<double>(length) - static_cast<double>(writer.fact_size() * depths.size()) - 1.0;
  std::size_t n_filler = 0;
  // Whole sentences up to where a fact is due; one that would reach further is left out and another
  // one drawn, a few times.
  const auto fill = [&](double until) {
    for (int tries = 0; tries < 20 && static_cast<double>(n_filler) < until;) {
      const std::string& s = writer.sentence();
      if (static_cast<double>(n_filler + s.size()) > until) {
        ++tries;
        continue;
      }
      out.context += s;
      n_filler += s.size();
    }
  };
  std::vector<std::size_t> starts;
  for (const double depth : depths) {
    fill(depth * room);
    llama::Question q = writer.fact();
    starts.push_back(out.context.size());
    out.context += fact_text(q.key, q.answer) + " ";
    out.questions.push_back(std::move(q));
  }
  fill(room);
  for (std::size_t i = 0; i < starts.size(); ++i) {
    out.questions[i].distance = static_cast<std::int64_t>(out.context.size() - starts[i]);
  }
  return out;
}

llama::RecallContext write_pairs(Writer& writer, std::int64_t length, std::int32_t n_asked) {
  llama::RecallContext out;
  out.context = "\n";
  std::vector<llama::Question> facts;
  std::vector<std::size_t> starts;
  while (out.context.size() + writer.fact_size() <= static_cast<std::size_t>(length)) {
    facts.push_back(writer.fact());
    starts.push_back(out.context.size());
    out.context += fact_text(facts.back().key, facts.back().answer) + " ";
  }
  const std::size_t n = std::min(facts.size(), static_cast<std::size_t>(n_asked));
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t which = (2 * i + 1) * facts.size() / (2 * n);
    out.questions.push_back(facts[which]);
    out.questions.back().distance = static_cast<std::int64_t>(out.context.size() - starts[which]);
  }
  return out;
}

void check(const RetrievalOptions& options, const Writer& writer) {
  const auto fail = [](const char* name, const auto& value, const std::string& allowed) {
    throw invalid_argument(bad_value("retrieval", name, value, allowed));
  };
  if (options.needles < 1) fail("needles", options.needles, "1 and above");
  if (options.pairs < 1) fail("pairs", options.pairs, "1 and above");
  if (options.contexts < 1) fail("contexts", options.contexts, "1 and above");
  for (const double depth : options.depths) {
    if (!(depth >= 0.0 && depth <= 1.0)) fail("depth", depth, "0..1");
  }
  const auto fact = static_cast<std::int64_t>(writer.fact_size());
  const std::int64_t least = 2 * fact * options.needles;
  const std::int64_t most = fact * static_cast<std::int64_t>(writer.n_keys() / 2);
  for (const std::int64_t length : options.lengths) {
    if (length < least || length > most) {
      fail("length", length, std::to_string(least) + ".." + std::to_string(most));
    }
  }
}

}  // namespace

std::vector<RecallBin> recall_by_distance(const llama::Recall& recall) {
  std::vector<RecallBin> bins;
  for (std::size_t i = 0; i + 1 < std::size(kDistances); ++i) {
    bins.push_back({kDistances[i], kDistances[i + 1]});
  }
  bins.push_back({bins.back().to, std::numeric_limits<std::int32_t>::max()});
  for (const llama::Answer& a : recall.answers) {
    const auto distance = static_cast<double>(a.question.distance);
    for (RecallBin& bin : bins) {
      if (distance >= bin.from && distance < bin.to) count(bin, a);
    }
  }
  return without_empty(bins);
}

std::vector<RecallBin> recall_by_depth(const llama::Recall& recall, const llama::EvalData& data) {
  std::vector<RecallBin> bins;
  for (int i = 0; i < kDepthBins; ++i) {
    bins.push_back({static_cast<double>(i) / kDepthBins, static_cast<double>(i + 1) / kDepthBins});
  }
  for (const llama::Answer& a : recall.answers) {
    const int bin = std::min(kDepthBins - 1, static_cast<int>(depth_of(a, data) * kDepthBins));
    count(bins[static_cast<std::size_t>(bin)], a);
  }
  return without_empty(bins);
}

std::vector<RetrievalTask> make_retrieval(const llama::EvalData& data,
                                          const RetrievalOptions& options) {
  Writer writer(data, options.seed);
  if (!writer.can_write()) return {};
  check(options, writer);
  std::vector<RetrievalTask> tasks;
  const auto add = [&](const char* name, std::int64_t length, std::optional<double> depth,
                       auto write) {
    RetrievalTask task{name, length, depth, {}};
    for (std::int32_t i = 0; i < options.contexts; ++i) {
      writer.forget_keys();
      task.data.recall.push_back(write());
    }
    tasks.push_back(std::move(task));
  };
  std::vector<double> spread;
  for (std::int32_t i = 0; i < options.needles; ++i) {
    spread.push_back((i + 0.5) / options.needles);
  }
  for (const std::int64_t length : options.lengths) {
    for (const double depth : options.depths) {
      add("needle", length, depth, [&] { return write_haystack(writer, length, {&depth, 1}); });
    }
    add("multi_needle", length, {}, [&] { return write_haystack(writer, length, spread); });
    add("key_value", length, {}, [&] { return write_pairs(writer, length, options.pairs); });
  }
  return tasks;
}

std::vector<RetrievalScore> measure_retrieval(llama::Engine& engine,
                                              const std::vector<RetrievalTask>& tasks,
                                              const llama::EvalOptions& options) {
  llama::EvalOptions own = options;
  own.max_contexts = 0;
  own.progress = {};
  std::vector<RetrievalScore> scores;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const RetrievalTask& task = tasks[i];
    const llama::Recall recall = llama::measure_recall(engine, task.data, own);
    if (task.task == "key_value") {
      for (const RecallBin& bin : recall_by_depth(recall, task.data)) {
        scores.push_back({task.task, task.length, middle(bin), bin.right, bin.asked});
      }
    } else {
      scores.push_back(
          {task.task, task.length, task.depth, recall.n_correct, std::ssize(recall.answers)});
    }
    if (options.progress) options.progress(static_cast<std::int64_t>(i) + 1, std::ssize(tasks));
  }
  return scores;
}

Json to_json(const std::vector<RecallBin>& bins) {
  Json rows = Json::array();
  for (const RecallBin& b : bins) {
    rows.push_back({{"from", b.from}, {"to", b.to}, {"right", b.right}, {"asked", b.asked}});
  }
  return rows;
}

Json to_json(const std::vector<RetrievalScore>& scores) {
  Json rows = Json::array();
  for (const RetrievalScore& s : scores) {
    rows.push_back({{"task", s.task},
                    {"length", s.length},
                    {"depth", s.depth ? Json(*s.depth) : Json(nullptr)},
                    {"right", s.right},
                    {"asked", s.asked}});
  }
  return rows;
}

}  // namespace kvcodec::eval
