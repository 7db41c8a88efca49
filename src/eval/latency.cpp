#include "src/eval/latency.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <numeric>
#include <span>

#include "kvcodec/core/error.hpp"
#include "src/eval/percentile.hpp"

namespace kvcodec::eval {
namespace {

using output::Json;

// Steps before those that are timed: buffers grow and caches fill in them.
constexpr std::int64_t kWarmUp = 4;

template <class F>
double milliseconds(F&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

void check(const LatencyOptions& options, std::size_t text_size, std::int32_t max_position) {
  const auto fail = [](const char* name, std::int64_t value, const std::string& allowed) {
    throw invalid_argument(bad_value("latency", name, value, allowed));
  };
  if (text_size == 0) throw invalid_argument("latency: the text is empty");
  if (options.n_decoded < 1) fail("n_decoded", options.n_decoded, "1 and above");
  if (options.repeats < 1) fail("repeats", options.repeats, "1 and above");
  const std::int64_t longest = max_position - kWarmUp - options.n_decoded;
  for (const std::int64_t length : options.lengths) {
    if (length < 1 || length > longest) {
      fail("length", length, "1.." + std::to_string(longest) + " for this model");
    }
  }
}

}  // namespace

std::int64_t latency_tokens(const LatencyOptions& options, std::int64_t n_plans) {
  std::int64_t n = 0;
  for (const std::int64_t length : options.lengths) {
    n += options.repeats * length + kWarmUp + options.n_decoded;
  }
  return n * n_plans;
}

std::vector<Latency> measure_latency(const llama::Model& model,
                                     const std::vector<std::string>& plans,
                                     const std::vector<std::int32_t>& text,
                                     const LatencyOptions& options) {
  check(options, text.size(), model.config().max_position);
  std::vector<Latency> out(plans.size());
  if (options.lengths.empty()) return out;
  const std::int64_t n_steps = kWarmUp + options.n_decoded;
  const std::int64_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < longest + n_steps; ++i) {
    tokens.push_back(text[static_cast<std::size_t>(i) % text.size()]);
  }
  std::deque<llama::Engine> engines;
  for (const std::string& plan : plans) engines.emplace_back(model, plan, longest + n_steps);

  const std::int64_t total = latency_tokens(options, std::ssize(plans));
  std::int64_t done = 0;
  const auto count = [&](std::int64_t n) {
    done += n;
    if (options.progress) options.progress(done, total);
  };
  for (const std::int64_t length : options.lengths) {
    const auto prompt = std::span(tokens).first(static_cast<std::size_t>(length));
    std::vector<std::vector<double>> prefills(plans.size()), steps(plans.size());
    std::vector<llama::Session> sessions;
    for (std::int32_t repeat = 0; repeat < options.repeats; ++repeat) {
      sessions.clear();
      for (std::size_t p = 0; p < plans.size(); ++p) {
        sessions.push_back(engines[p].open());
        prefills[p].push_back(
            milliseconds([&] { sessions[p].prefill(prompt, options.chunk_size); }));
        count(length);
      }
    }
    for (std::int64_t i = 0; i < n_steps; ++i) {
      for (std::size_t p = 0; p < plans.size(); ++p) {
        const std::int32_t token = tokens[static_cast<std::size_t>(length + i)];
        const double ms = milliseconds([&] { sessions[p].step(token); });
        if (i >= kWarmUp) steps[p].push_back(ms);
        count(1);
      }
    }
    for (std::size_t p = 0; p < plans.size(); ++p) {
      out[p].prefill.push_back({length, percentile(prefills[p], 0.5)});
      out[p].decode.push_back({length, percentile(steps[p], 0.5), percentile(steps[p], 0.99)});
    }
  }
  return out;
}

Json ttft_json(const Latency& latency) {
  Json rows = Json::array();
  for (const PrefillTime& t : latency.prefill) {
    rows.push_back({{"tokens", t.tokens}, {"ms", t.ms}});
  }
  return rows;
}

Json decode_json(const Latency& latency) {
  Json rows = Json::array();
  for (const DecodeTime& t : latency.decode) {
    rows.push_back({{"context", t.context}, {"p50_ms", t.p50_ms}, {"p99_ms", t.p99_ms}});
  }
  return rows;
}

}  // namespace kvcodec::eval
