#include "examples/llama/calibration.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>
#include <span>

#include "examples/llama/fake_quantize.hpp"
#include "examples/llama/sampler.hpp"
#include "examples/llama/session.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace llama {
namespace {

using Sequences = std::vector<std::vector<std::int32_t>>;
using Streams = std::vector<std::vector<float>>;  // [sequences] of [tokens, hidden_size]

constexpr ShiftRule kShiftRules[] = {ShiftRule::none, ShiftRule::middle, ShiftRule::mean};
constexpr float kClips[] = {1.0f,  0.96f, 0.92f, 0.88f, 0.84f, 0.8f,  0.76f,
                            0.72f, 0.68f, 0.64f, 0.6f,  0.56f, 0.52f, 0.48f};
constexpr float kWeightClips[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f};

// A second round starts from the first one's result; a third finds nothing worth its time.
constexpr int kRounds = 2;
constexpr double kTriesPerLayer = 40.0;  // for the progress display

// A channel that hardly moved during calibration must not be divided by almost nothing.
constexpr float kSmallestShare = 0x1p-10f;  // of the widest channel of its head

float as_f16(float x) {
  return to_f32(kvcodec::to_f16(kvcodec::clamp_finite(x, kvcodec::kF16Max)));
}

// Indices into the lists of candidates.
struct SideIndex {
  int shift = 0, alpha = 0, clip = 0;
  auto operator<=>(const SideIndex&) const = default;
};
struct Choice {
  SideIndex k, v;
  int weight = 0;
  auto operator<=>(const Choice&) const = default;
};

// What is known of the channels of K or V of one layer, [n_kv_heads, head_dim] each.
struct ChannelStats {
  std::vector<float> low, high;
  std::vector<double> sum;
  std::int64_t n = 0;

  void add(const float* x, std::int64_t n_rows, std::size_t width) {
    if (n == 0) {
      low.assign(width, std::numeric_limits<float>::infinity());
      high.assign(width, -std::numeric_limits<float>::infinity());
      sum.assign(width, 0.0);
    }
    n += n_rows;
    for (std::int64_t r = 0; r < n_rows; ++r, x += width) {
      for (std::size_t c = 0; c < width; ++c) {
        low[c] = std::min(low[c], x[c]);
        high[c] = std::max(high[c], x[c]);
        sum[c] += static_cast<double>(x[c]);
      }
    }
  }
  float mean_of(std::size_t c) const { return static_cast<float>(sum[c] / static_cast<double>(n)); }
};

struct LayerStats {
  ChannelStats k, v;
};

// Adds |a - b| over all values.
double total_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(std::abs(a[i] - b[i]));
  return sum;
}

// out [n] <- log softmax of x.
void log_softmax(std::span<const float> x, std::vector<double>& out) {
  const float top = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  out.resize(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    out[i] = static_cast<double>(x[i] - top);
    sum += std::exp(out[i]);
  }
  for (double& value : out) value -= std::log(sum);
}

class Calibrator {
 public:
  Calibrator(const Model& model, const Sequences& sequences, const CalibrationOptions& options)
      : model_(model),
        options_(options),
        quantized_(model),
        width_(static_cast<std::size_t>(model.config().n_kv_heads) *
               static_cast<std::size_t>(model.config().head_dim)) {
    for (const auto& tokens : sequences) {
      start_.push_back(model.embed(tokens));
      std::vector<std::int32_t> positions(tokens.size());
      std::iota(positions.begin(), positions.end(), 0);
      positions_.push_back(std::move(positions));
    }
    for (std::int32_t l = 0; l < n_layers(); ++l) quantize_weights(l, 0);
  }

  CalibrationResult run();

 private:
  std::int32_t n_layers() const { return model_.config().n_layers; }
  std::int32_t window(std::int32_t layer) const {
    return model_.config().window[static_cast<std::size_t>(layer)];
  }

  void quantize_weights(std::int32_t layer, int weight) {
    if (!options_.weights.quantized()) return;
    quantized_.quantize_layer(layer, model_, options_.weights.group, kWeightClips[weight]);
  }

  // Runs one layer on one stream with its own attention.
  void run_dense(const Model& model, std::int32_t layer, std::size_t s, std::vector<float>& hidden,
                 LayerStats* stats = nullptr);
  void run_quantized(std::int32_t layer, std::size_t s, std::vector<float>& hidden,
                     const RowQuantizer& k, const RowQuantizer& v);

  LayerStats collect(std::int32_t layer, const Streams& streams);
  RowQuantizer quantizer(const ChannelStats& stats, const SideIndex& index) const;
  void advance(std::int32_t layer, const LayerStats& stats, const Choice& choice, Streams& streams);
  double loss(std::int32_t layer, const LayerStats& stats, const Choice& choice);
  StreamReport report(const Streams& streams);
  StreamReport run_whole(const Choice& choice);

  Choice start_choice() const;
  Choice plain_choice() const;
  Choice search(std::int32_t layer, const LayerStats& stats, const Choice& from,
                LayerReport& report);
  void keep(const LayerStats& stats, const Choice& choice, kvcodec::Calibration& out) const;
  SideChoice describe(const SideIndex& index) const {
    return {kShiftRules[index.shift], options_.alphas[static_cast<std::size_t>(index.alpha)],
            kClips[index.clip]};
  }

  const Model& model_;
  const CalibrationOptions& options_;
  Model quantized_;  // the same with quantized weights, if they are
  std::size_t width_;
  Streams start_;                 // entering layer 0
  std::vector<Streams> targets_;  // [layers] of full-precision streams after each layer
  Streams inputs_;                // entering the layer under search, from quantized layers
  std::vector<std::vector<std::int32_t>> positions_;
  std::vector<float> past_k_, past_v_;
  Workspace work_;
};

void Calibrator::run_dense(const Model& model, std::int32_t layer, std::size_t s,
                           std::vector<float>& hidden, LayerStats* stats) {
  const auto attention = [&](const AttentionCall& call) {
    if (stats != nullptr) {
      stats->k.add(call.k, call.n, width_);
      stats->v.add(call.v, call.n, width_);
    }
    dense_attention(call, model.head_shape(), window(layer), model.executor());
  };
  model.run_layers(layer, layer + 1, hidden, positions_[s], attention, work_);
}

void Calibrator::run_quantized(std::int32_t layer, std::size_t s, std::vector<float>& hidden,
                               const RowQuantizer& k, const RowQuantizer& v) {
  const kvcodec::HeadShape shape = model_.head_shape();
  const auto attention = [&](const AttentionCall& call) {
    const std::size_t size = static_cast<std::size_t>(call.n) * width_;
    past_k_.resize(size);
    past_v_.resize(size);
    k.run(call.k, call.n, shape, past_k_.data(), model_.executor());
    v.run(call.v, call.n, shape, past_v_.data(), model_.executor());
    past_only_attention(call, shape, window(layer), past_k_.data(), past_v_.data(),
                        model_.executor());
  };
  quantized_.run_layers(layer, layer + 1, hidden, positions_[s], attention, work_);
}

LayerStats Calibrator::collect(std::int32_t layer, const Streams& streams) {
  LayerStats stats;
  for (std::size_t s = 0; s < streams.size(); ++s) {
    std::vector<float> hidden = streams[s];
    run_dense(quantized_, layer, s, hidden, &stats);
  }
  return stats;
}

RowQuantizer Calibrator::quantizer(const ChannelStats& stats, const SideIndex& index) const {
  const SideChoice choice = describe(index);
  RowQuantizer out;
  out.bits = options_.bits;
  out.group = options_.group;
  out.clip = choice.clip;
  std::vector<float> largest(width_);
  for (std::size_t c = 0; c < width_; ++c) {
    const float shift = choice.shift == ShiftRule::none   ? 0.0f
                        : choice.shift == ShiftRule::mean ? stats.mean_of(c)
                                                          : 0.5f * (stats.low[c] + stats.high[c]);
    out.shift.push_back(as_f16(shift));
    largest[c] = std::max(stats.high[c] - out.shift[c], out.shift[c] - stats.low[c]);
  }
  const auto d = static_cast<std::size_t>(model_.config().head_dim);
  for (std::size_t c = 0; c < width_; ++c) {
    const auto head = largest.begin() + static_cast<std::ptrdiff_t>(c / d * d);
    const float widest = *std::max_element(head, head + static_cast<std::ptrdiff_t>(d));
    const float size = std::max(largest[c], kSmallestShare * widest);
    const float scale = size > 0.0f ? as_f16(std::pow(size, choice.alpha)) : 1.0f;
    out.scale.push_back(scale > 0.0f ? scale : 1.0f);
  }
  return out;
}

void Calibrator::advance(std::int32_t layer, const LayerStats& stats, const Choice& choice,
                         Streams& streams) {
  const RowQuantizer k = quantizer(stats.k, choice.k), v = quantizer(stats.v, choice.v);
  for (std::size_t s = 0; s < streams.size(); ++s) run_quantized(layer, s, streams[s], k, v);
}

double Calibrator::loss(std::int32_t layer, const LayerStats& stats, const Choice& choice) {
  quantize_weights(layer, choice.weight);
  const RowQuantizer k = quantizer(stats.k, choice.k), v = quantizer(stats.v, choice.v);
  const std::int32_t last = std::min(layer + options_.k, n_layers() - 1);
  double sum = 0.0, n_values = 0.0;
  for (std::size_t s = 0; s < inputs_.size(); ++s) {
    std::vector<float> hidden = inputs_[s];
    for (std::int32_t l = layer; l <= last; ++l) {
      if (l == layer) run_quantized(l, s, hidden, k, v);
      else run_dense(model_, l, s, hidden);
      if (options_.last_only && l != last) continue;
      sum += total_difference(hidden, targets_[static_cast<std::size_t>(l)][s]);
      n_values += static_cast<double>(hidden.size());
    }
  }
  return sum / n_values;
}

StreamReport Calibrator::report(const Streams& streams) {
  constexpr std::int64_t kRows = 128;
  StreamReport out;
  double n_values = 0.0, n_rows = 0.0;
  std::vector<double> wanted, got;
  std::vector<float> exact;
  const auto vocab = static_cast<std::size_t>(model_.config().vocab_size);
  for (std::size_t s = 0; s < streams.size(); ++s) {
    const std::vector<float>& target = targets_.back()[s];
    out.hidden_error += total_difference(streams[s], target);
    n_values += static_cast<double>(target.size());
    const std::int64_t n = std::ssize(positions_[s]);
    for (std::int64_t first = 0; first < n; first += kRows) {
      std::vector<std::int64_t> rows(static_cast<std::size_t>(std::min(kRows, n - first)));
      std::iota(rows.begin(), rows.end(), first);
      const auto full = model_.logits(target, rows, work_);
      exact.assign(full.begin(), full.end());
      const auto logits = model_.logits(streams[s], rows, work_);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        log_softmax(std::span(exact).subspan(r * vocab, vocab), wanted);
        log_softmax(logits.subspan(r * vocab, vocab), got);
        for (std::size_t i = 0; i < vocab; ++i) {
          out.kl_bits += std::exp(wanted[i]) * (wanted[i] - got[i]) / std::numbers::ln2;
        }
      }
      n_rows += static_cast<double>(rows.size());
    }
  }
  out.hidden_error /= n_values;
  out.kl_bits /= n_rows;
  return out;
}

// Every layer with the same choice; shifts and scales still follow each layer's own channels.
StreamReport Calibrator::run_whole(const Choice& choice) {
  Streams streams = start_;
  for (std::int32_t l = 0; l < n_layers(); ++l) advance(l, collect(l, streams), choice, streams);
  return report(streams);
}

Choice Calibrator::start_choice() const {
  // The published best clips of Gaussian groups of 128, and the middle of the usual exponents.
  const float clip = options_.bits == 2   ? 0.58f
                     : options_.bits == 3 ? 0.8f
                     : options_.bits == 4 ? 0.92f
                                          : 1.0f;
  const auto nearest = [](std::span<const float> list, float value) {
    const auto closer = [value](float a, float b) {
      return std::abs(a - value) < std::abs(b - value);
    };
    return static_cast<int>(std::min_element(list.begin(), list.end(), closer) - list.begin());
  };
  const SideIndex side{1, nearest(options_.alphas, 0.7f), nearest(kClips, clip)};
  return {side, side, 0};
}

// Neither shift nor scale. Without an exponent 0 on the list, the smallest comes closest.
Choice Calibrator::plain_choice() const {
  const auto smallest = std::min_element(options_.alphas.begin(), options_.alphas.end());
  SideIndex side = start_choice().k;
  side.shift = 0;
  side.alpha = static_cast<int>(smallest - options_.alphas.begin());
  return {side, side, 0};
}

Choice Calibrator::search(std::int32_t layer, const LayerStats& stats, const Choice& from,
                          LayerReport& report) {
  std::map<Choice, double> known;
  Choice best = from;
  const auto loss_of = [&](const Choice& choice) {
    const auto found = known.find(choice);
    if (found != known.end()) return found->second;
    if (options_.progress) {
      const double share = std::min(1.0, static_cast<double>(known.size()) / kTriesPerLayer);
      options_.progress(static_cast<int>(1000.0 * (layer + share) / n_layers()));
    }
    return known[choice] = loss(layer, stats, choice);
  };
  report.plain = loss_of(plain_choice());
  double least = report.initial = loss_of(from);
  // Moves to `index` of one member if that is better.
  const auto consider = [&](auto member, int index) {
    Choice choice = best;
    member(choice) = index;
    const double value = loss_of(choice);
    if (value >= least) return false;
    least = value;
    best = choice;
    return true;
  };
  const auto sweep = [&](auto member, int n) {
    for (int i = 0; i < n; ++i) consider(member, i);
  };
  // Clips have one best value and a slope towards it.
  const auto climb = [&](auto member, int n) {
    for (const int step : {1, -1}) {
      for (int i = member(best) + step; i >= 0 && i < n && consider(member, i);) i += step;
    }
  };
  const int n_alphas = static_cast<int>(options_.alphas.size());
  for (int round = 0; options_.search && round < kRounds; ++round) {
    const Choice before = best;
    for (SideIndex Choice::*side : {&Choice::k, &Choice::v}) {
      sweep([side](Choice& c) -> int& { return (c.*side).shift; }, std::ssize(kShiftRules));
      sweep([side](Choice& c) -> int& { return (c.*side).alpha; }, n_alphas);
      climb([side](Choice& c) -> int& { return (c.*side).clip; }, std::ssize(kClips));
    }
    if (options_.weights.quantized()) {
      climb([](Choice& c) -> int& { return c.weight; }, std::ssize(kWeightClips));
    }
    if (best == before) break;
  }
  report.final = least;
  report.n_tried = std::ssize(known);
  return best;
}

void Calibrator::keep(const LayerStats& stats, const Choice& choice,
                      kvcodec::Calibration& out) const {
  const auto append = [](const RowQuantizer& from, kvcodec::SideCalibration& side) {
    side.shift.insert(side.shift.end(), from.shift.begin(), from.shift.end());
    side.scale.insert(side.scale.end(), from.scale.begin(), from.scale.end());
    side.clip.push_back(from.clip);
  };
  append(quantizer(stats.k, choice.k), out.k);
  append(quantizer(stats.v, choice.v), out.v);
  if (options_.weights.quantized()) out.weight_clip.push_back(kWeightClips[choice.weight]);
}

CalibrationResult Calibrator::run() {
  CalibrationResult result;
  for (const auto& positions : positions_) result.n_tokens += std::ssize(positions);
  Streams streams = start_;
  for (std::int32_t l = 0; l < n_layers(); ++l) {
    for (std::size_t s = 0; s < streams.size(); ++s) run_dense(model_, l, s, streams[s]);
    targets_.push_back(streams);
  }
  const Choice start = start_choice();
  result.plain = run_whole(plain_choice());
  result.initial = run_whole(start);

  kvcodec::Calibration& found = result.calibration;
  found.n_layers = n_layers();
  found.n_kv_heads = model_.config().n_kv_heads;
  found.head_dim = model_.config().head_dim;
  for (kvcodec::SideCalibration* side : {&found.k, &found.v}) {
    side->bits = options_.bits;
    side->group = options_.group;
  }
  if (options_.weights.quantized()) found.weights = options_.weights.name();
  inputs_ = start_;
  for (std::int32_t l = 0; l < n_layers(); ++l) {
    LayerReport report;
    const LayerStats stats = collect(l, inputs_);
    const Choice choice = search(l, stats, start, report);
    quantize_weights(l, choice.weight);
    advance(l, stats, choice, inputs_);
    keep(stats, choice, found);
    report.k = describe(choice.k);
    report.v = describe(choice.v);
    report.weight_clip = kWeightClips[choice.weight];
    result.layers.push_back(report);
  }
  result.final = this->report(inputs_);
  return result;
}

void check_options(const Model& model, const Sequences& sequences,
                   const CalibrationOptions& options) {
  const auto fail = [](const char* name, const auto& value, const std::string& allowed) {
    throw kvcodec::invalid_argument(kvcodec::bad_value("calibrate", name, value, allowed));
  };
  kvcodec::check(model.head_shape());
  const int bits = options.bits, group = options.group;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) fail("bits", bits, "2, 3, 4 or 8");
  if (group != 32 && group != 64 && group != 128) fail("group", group, "32, 64 or 128");
  if (options.k < 0) fail("k", options.k, "0 and above");
  if (options.alphas.empty()) fail("alphas", "", "at least one exponent in 0..1");
  for (const float alpha : options.alphas) {
    if (!(alpha >= 0.0f && alpha <= 1.0f)) {
      fail("alphas", kvcodec::format_float(alpha), "exponents in 0..1");
    }
  }
  check(options.weights, model.config().n_layers);
  if (!options.weights.clip.empty()) fail("weights.clip.size()", options.weights.clip.size(), "0");
  if (model.quantizes_weights()) fail("model", "4-bit weights", "weights in f32");
  if (sequences.empty()) fail("sequences.size()", 0, "at least one");
  for (const auto& tokens : sequences) {
    if (tokens.empty() || std::ssize(tokens) > model.config().max_position) {
      fail("sequence length", tokens.size(), "1.." + std::to_string(model.config().max_position));
    }
  }
}

}  // namespace

const char* to_string(ShiftRule rule) noexcept {
  switch (rule) {
    case ShiftRule::none: return "none";
    case ShiftRule::middle: return "middle";
    default: return "mean";
  }
}

Sequences sample_text(const Model& model, const SampledText& options) {
  const auto fail = [](const char* name, std::int64_t value, const std::string& allowed) {
    throw kvcodec::invalid_argument(kvcodec::bad_value("sample_text", name, value, allowed));
  };
  const std::int64_t vocab = model.config().vocab_size;
  if (options.n_tokens < 1) fail("n_tokens", options.n_tokens, "1 and above");
  if (options.length < 1) fail("length", options.length, "1 and above");
  if (options.start_token < 0 || options.start_token >= vocab) {
    fail("start_token", options.start_token, "0.." + std::to_string(vocab - 1));
  }
  const std::int64_t longest = std::min<std::int64_t>(
      {options.n_tokens, options.length, std::int64_t{model.config().max_position}});
  Engine engine(model, "kv=f32", longest);
  Sampler sampler({.temperature = 1.0f, .seed = options.seed});
  Sequences out;
  for (std::int64_t rest = options.n_tokens; rest > 0; rest -= std::ssize(out.back())) {
    Session session = engine.open();
    std::vector<std::int32_t> tokens = {options.start_token};
    while (std::ssize(tokens) < std::min(longest, rest)) {
      tokens.push_back(sampler.next(session.step(tokens.back())));
    }
    out.push_back(std::move(tokens));
  }
  return out;
}

CalibrationResult calibrate(const Model& model, const Sequences& sequences,
                            const CalibrationOptions& options) {
  check_options(model, sequences, options);
  return Calibrator(model, sequences, options).run();
}

}  // namespace llama
