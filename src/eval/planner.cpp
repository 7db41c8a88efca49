#include "src/eval/planner.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/plan/allocate.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/eval/kv_eval.hpp"

namespace kvcodec::eval {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
/// Costs are whole numbers of this part of a bit per value: tiles are multiples of 16 bytes.
constexpr double kCostUnits = 4096.0;

enum Part : std::size_t { kKey, kValue, kPolicy };
constexpr std::array kParts = {"k", "v", "policy"};

/// A spec with what it costs. Index 0 of every part is f16, or keeping every token.
struct Candidate {
  std::string spec;
  double bits = 16.0;     ///< of a policy: share kept
  std::int32_t span = 1;  ///< heads per tile
};

/// Indices of candidates of one layer, by Part.
using LayerChoice = std::array<std::size_t, 3>;
using Setting = std::vector<LayerChoice>;

struct Window {
  std::int32_t recent = 32;
  std::int32_t sink = 0;
};

class Planner {
 public:
  Planner(const PlannerOptions& options, const Captured& captured, const Executor& executor,
          ProgressLine& progress)
      : options_(options),
        captured_(captured),
        executor_(executor),
        progress_(progress),
        shape_(captured.shape),
        n_layers_(static_cast<std::size_t>(captured.n_layers)),
        window_{options.recent.at(0), options.sink.at(0)} {
    find_candidates();
    for (std::size_t part = 0; part < 3; ++part) {
      errors_[part].assign(n_layers_, std::vector<double>(candidates_[part].size(), 0.0));
      losses_[part].assign(n_layers_, std::vector<double>(candidates_[part].size(), kInfinite));
      uniform_[part].assign(candidates_[part].size(), kInfinite);
    }
  }

  PlannerResult on_model(const Baseline& first, const Baseline& second) {
    first_ = &first;
    second_ = &second;
    expect_work();
    screen();
    measure_parts();
    return options_.max_kl ? for_quality() : for_budget();
  }

  PlannerResult on_captures() {
    expect_work();
    screen();
    for (std::size_t part : {kKey, kValue}) {
      for (std::size_t c = 0; c < candidates_[part].size(); ++c) {
        uniform_[part][c] = 0.0;
        for (std::size_t l = 0; l < n_layers_; ++l) {
          losses_[part][l][c] = errors_[part][l][c] * errors_[part][l][c];
          uniform_[part][c] += losses_[part][l][c];
        }
      }
    }
    for (auto& layer : losses_[kPolicy]) layer[0] = 0.0;
    uniform_[kPolicy][0] = 0.0;
    PlannerResult r;
    Setting found;
    if (options_.budget_bytes) {
      found = solve_window(r);
    } else {
      found = solve(*options_.budget_bits, r);
    }
    r.measured = r.predicted;
    return finish(found, r);
  }

 private:
  // ---- candidates ----

  void find_candidates() {
    const auto add = [&](std::size_t part, const std::string& spec) {
      for (const Candidate& c : candidates_[part]) {
        if (c.spec == spec) return;
      }
      try {
        add_candidate(part, spec);
      } catch (const error& e) {
        left_out_.push_back(std::string(kParts[part]) + "=" + spec + ": " + e.what());
      }
    };
    for (const std::size_t part : {kKey, kValue}) {
      add(part, "f16");
      for (const std::string& s : part == kKey ? options_.k : options_.v) add(part, s);
    }
    candidates_[kPolicy].push_back({"none", 1.0, 1});
    for (const std::string& s : options_.policies) add(kPolicy, s);
  }

  void add_candidate(std::size_t part, const std::string& spec) {
    const auto n_layers = static_cast<std::int32_t>(n_layers_);
    if (part == kPolicy) {
      const std::string plan =
          "kv=f16,policy=" + spec + ",sink=" + std::to_string(options_.policy_sink);
      const Memory m = measure_memory(plan, shape_, n_layers, kTileRows, 1);
      candidates_[part].push_back({spec, m.payload_bits / 16.0, 1});
      return;
    }
    // As make_cache_config reads it, and as a cache takes it.
    CacheConfig config = make_cache_config("kv=f16;" + std::string(kParts[part]) + "=" + spec,
                                           shape_, n_layers, kTileRows);
    const AnyCodec codec = part == kKey ? config.layers[0].k.codec : config.layers[0].v.codec;
    if (config.rope_frequencies.empty()) config.rope_frequencies = captured_.rope_frequencies;
    const Cache cache(std::move(config));
    const std::int32_t span = codec.head_span(shape_.head_dim);
    const double bits = 8.0 * static_cast<double>(codec.tile_bytes(shape_.head_dim)) /
                        static_cast<double>(kTileRows * shape_.head_dim * span);
    candidates_[part].push_back({spec, bits, span});
  }

  // ---- plans ----

  Json json_of(const Setting& setting, const Window& w) const {
    Json layers = Json::object();
    for (std::size_t l = 0; l < setting.size(); ++l) {
      Json layer = {{"k", candidates_[kKey][setting[l][kKey]].spec},
                    {"v", candidates_[kValue][setting[l][kValue]].spec}};
      if (setting[l][kPolicy] != 0) {
        layer["policy"] = candidates_[kPolicy][setting[l][kPolicy]].spec;
        layer["sink"] = options_.policy_sink;
      }
      layers[std::to_string(l)] = layer;
    }
    return {{"recent", w.recent}, {"sink", w.sink}, {"layers", layers}};
  }

  Setting all(const LayerChoice& choice) const { return Setting(n_layers_, choice); }

  double layer_bits(const LayerChoice& c) const {
    return (candidates_[kKey][c[kKey]].bits + candidates_[kValue][c[kValue]].bits) *
           candidates_[kPolicy][c[kPolicy]].bits;
  }
  double bits(const Setting& setting) const {
    double sum = 0.0;
    for (const LayerChoice& c : setting) sum += layer_bits(c);
    return sum / static_cast<double>(2 * setting.size());
  }
  bool fits_policy(const LayerChoice& c) const {
    return c[kPolicy] == 0 ||
           (candidates_[kKey][c[kKey]].span == 1 && candidates_[kValue][c[kValue]].span == 1);
  }
  /// Centers hold rows back while they are found.
  bool has_center(const LayerChoice& c) const {
    return candidates_[kKey][c[kKey]].spec.starts_with("mean") ||
           candidates_[kValue][c[kValue]].spec.starts_with("mean");
  }
  double loss(std::size_t layer, const LayerChoice& c) const {
    return losses_[kKey][layer][c[kKey]] + losses_[kValue][layer][c[kValue]] +
           losses_[kPolicy][layer][c[kPolicy]];
  }
  double predicted(const Setting& setting) const {
    double sum = 0.0;
    for (std::size_t l = 0; l < setting.size(); ++l) sum += loss(l, setting[l]);
    return sum;
  }

  // ---- measuring ----

  void expect_work() {
    double n = 0.0;
    for (const std::size_t part : {kKey, kValue}) {
      n += static_cast<double>(candidates_[part].size() *
                               (first_ == nullptr ? 1 : n_layers_ / 2 + 2));
    }
    n += static_cast<double>((candidates_[kPolicy].size() - 1) * (n_layers_ + 1));
    progress_.expect(n + static_cast<double>(options_.n_refine + options_.n_uniform + 3));
  }

  double kl(const Baseline& baseline, const Setting& setting, const Window& w,
            const std::string& what) {
    progress_.begin_part(1.0);
    progress_.show(what, 0, 1);
    ++n_runs_;
    return baseline.score(json_of(setting, w).dump()).kl_mean;
  }

  /// Errors of attention outputs with one candidate on one side of all layers.
  void screen() {
    const auto n_heads = static_cast<std::size_t>(shape_.n_q_heads);
    for (const std::size_t part : {kKey, kValue}) {
      for (std::size_t c = 1; c < candidates_[part].size(); ++c) {
        LayerChoice choice{};
        choice[part] = c;
        progress_.begin_part(1.0);
        progress_.show("screen", static_cast<std::int64_t>(c), std::ssize(candidates_[part]));
        const KvResult r =
            eval_captured(captured_, json_of(all(choice), window_).dump(), executor_);
        for (std::size_t l = 0; l < n_layers_; ++l) {
          double square = 0.0;
          for (std::size_t h = l * n_heads; h < (l + 1) * n_heads; ++h) {
            square += r.heads[h].out * r.heads[h].out;
          }
          errors_[part][l][c] = std::sqrt(square / static_cast<double>(n_heads));
        }
      }
    }
  }

  bool survives(std::size_t part, std::size_t layer, std::size_t c) const {
    const std::vector<double>& errors = errors_[part][layer];
    const std::vector<Candidate>& all_of = candidates_[part];
    for (std::size_t other = 1; other < all_of.size(); ++other) {
      if (all_of[other].bits <= all_of[c].bits && errors[other] * options_.slack < errors[c]) {
        return false;
      }
    }
    return true;
  }

  /// Divergences with one candidate in one layer, and in all of them.
  void measure_parts() {
    for (std::size_t part = 0; part < 3; ++part) {
      uniform_[part][0] = 0.0;
      for (std::size_t l = 0; l < n_layers_; ++l) losses_[part][l][0] = 0.0;
      for (std::size_t c = 1; c < candidates_[part].size(); ++c) {
        LayerChoice choice{};
        choice[part] = c;
        const std::string what = std::string(kParts[part]) + "=" + candidates_[part][c].spec;
        uniform_[part][c] = kl(*first_, all(choice), window_, what);
        for (std::size_t l = 0; l < n_layers_; ++l) {
          if (part != kPolicy && !survives(part, l, c)) continue;
          Setting setting = all({});
          setting[l] = choice;
          losses_[part][l][c] = kl(*first_, setting, window_, what);
        }
      }
    }
  }

  // ---- solving ----

  /// Calls visit with every choice whose parts go together.
  template <class Visit>
  void each_choice(const Visit& visit) const {
    for (std::size_t k = 0; k < candidates_[kKey].size(); ++k) {
      for (std::size_t v = 0; v < candidates_[kValue].size(); ++v) {
        for (std::size_t p = 0; p < candidates_[kPolicy].size(); ++p) {
          const LayerChoice c = {k, v, p};
          if (fits_policy(c)) visit(c);
        }
      }
    }
  }

  /// Choices of every layer that have a loss.
  std::vector<std::vector<LayerChoice>> layer_choices() const {
    std::vector<std::vector<LayerChoice>> choices(n_layers_);
    for (std::size_t l = 0; l < n_layers_; ++l) {
      each_choice([&](const LayerChoice& c) {
        if (no_centers_ && has_center(c)) return;
        if (std::isfinite(loss(l, c))) choices[l].push_back(c);
      });
    }
    return choices;
  }

  template <class Solve>
  Setting solve_with(PlannerResult& r, const Solve& solve) const {
    const std::vector<std::vector<LayerChoice>> choices = layer_choices();
    std::vector<std::vector<Choice>> slots(n_layers_);
    for (std::size_t l = 0; l < n_layers_; ++l) {
      for (const LayerChoice& c : choices[l]) {
        slots[l].push_back(
            {static_cast<std::int64_t>(std::ceil(layer_bits(c) * kCostUnits - 1e-6)), loss(l, c)});
      }
    }
    const Allocation found = solve(slots);
    Setting setting(n_layers_);
    for (std::size_t l = 0; l < n_layers_; ++l) {
      setting[l] = choices[l][static_cast<std::size_t>(found.chosen[l])];
    }
    r.exact = found.exact;
    r.predicted = predicted(setting);
    return setting;
  }

  /// Bits per value of the smallest plan there is.
  double least_bits() const {
    double least = 0.0;
    for (const auto& layer : layer_choices()) {
      double own = kInfinite;
      for (const LayerChoice& c : layer) own = std::min(own, layer_bits(c));
      least += own / static_cast<double>(2 * n_layers_);
    }
    return least;
  }

  Setting solve(double most_bits, PlannerResult& r) const {
    const double least = least_bits();
    if (most_bits < least) {
      throw invalid_argument(bad_value("plan", "budget", most_bits,
                                       std::to_string(least) + " bits per value and above"));
    }
    const double units = most_bits * kCostUnits * static_cast<double>(2 * n_layers_);
    return solve_with(r, [&](const auto& slots) {
      return allocate_for_budget(slots, static_cast<std::int64_t>(std::floor(units + 1e-6)));
    });
  }

  /// Of one sequence of the context.
  CacheBytes bytes_of(const std::string& plan) const {
    return filled_bytes(plan, shape_, static_cast<std::int32_t>(n_layers_), options_.context);
  }

  /// What windows and bookkeeping leave of the bytes; below 0: they do not fit.
  double bits_within(std::int64_t bytes, const Window& w) const {
    const CacheBytes f16 = bytes_of(json_of(all({}), w).dump());
    const auto fixed = static_cast<double>(f16.window + f16.tables);
    if (f16.payload == 0) return 16.0;  // everything is in the window
    const double left = (static_cast<double>(bytes) - fixed) / static_cast<double>(f16.payload);
    return std::min(16.0, 16.0 * left);
  }

  // ---- budgets ----

  PlannerResult for_budget() {
    PlannerResult r;
    Setting setting = solve_window(r);
    r.measured = kl(*first_, setting, window_, "whole plan");
    r.solver_second = r.second = kl(*second_, setting, window_, "whole plan");
    set_uniform(r);
    for (std::size_t i = 0; i < uniform_choices_.size() && std::ssize(r.uniform) > 0; ++i) {
      if (static_cast<std::int32_t>(i) >= options_.n_uniform) break;
      const Setting candidate = all(uniform_choices_[i]);
      const double own = kl(*second_, candidate, window_, "uniform");
      r.uniform[i].kl = own;
      if (own < r.second && has_losses(candidate)) {
        r.second = own;
        setting = candidate;
      }
    }
    refine(setting, r);
    return finish(setting, r);
  }

  /// Solves under every window that is allowed and keeps the one that diverges least as a whole.
  Setting solve_window(PlannerResult& r) {
    if (!options_.budget_bytes) {
      most_bits_ = *options_.budget_bits;
      return solve(most_bits_, r);
    }
    Setting best;
    double least = kInfinite;
    Window found = window_;
    const auto consider = [&](const Window& w, bool no_centers) {
      no_centers_ = no_centers;
      PlannerResult own;
      Setting setting;
      const double most = fitting_bits(w, own, setting);
      if (setting.empty()) return;
      const double whole = first_ == nullptr ? own.predicted : kl(*first_, setting, w, "window");
      if (whole >= least) return;
      least = whole;
      best = setting;
      found = w;
      most_bits_ = most;
      r.exact = own.exact;
      r.predicted = own.predicted;
    };
    // The bytes that centers hold back lower the bits of all layers, so both ways are tried.
    for (const std::int32_t recent : options_.recent) {
      for (const std::int32_t sink : options_.sink) {
        for (const bool no_centers : {false, true}) consider({recent, sink}, no_centers);
      }
    }
    no_centers_ = false;
    if (best.empty()) {
      throw invalid_argument(bad_value(
          "plan", "--budget", *options_.budget_bytes,
          "more bytes: windows, centers and lags of the smallest plan do not fit with it"));
    }
    window_ = found;
    return best;
  }

  /// Centers and policies hold rows back, so the bytes of the solution decide. Leaves `setting` empty
  /// where nothing fits.
  double fitting_bits(const Window& w, PlannerResult& r, Setting& setting) const {
    double most = bits_within(*options_.budget_bytes, w);
    for (const double least = least_bits(); most >= least;) {
      setting = solve(most, r);
      if (fits_bytes(setting, w)) return most;
      most = bits(setting) - 1.0 / kCostUnits;
    }
    setting.clear();
    return most;
  }

  bool fits_bytes(const Setting& setting, const Window& w) const {
    return bytes_of(json_of(setting, w).dump()).total() <= *options_.budget_bytes;
  }
  bool fits(const Setting& setting) const {
    if (bits(setting) > most_bits_ + 1e-9) return false;
    return !options_.budget_bytes || fits_bytes(setting, window_);
  }
  bool has_losses(const Setting& setting) const { return std::isfinite(predicted(setting)); }

  // ---- uniform settings ----

  void set_uniform(PlannerResult& r) {
    std::vector<std::pair<double, LayerChoice>> order;
    each_choice([&](const LayerChoice& c) {
      if (!fits(all(c))) return;
      order.emplace_back(
          uniform_[kKey][c[kKey]] + uniform_[kValue][c[kValue]] + uniform_[kPolicy][c[kPolicy]], c);
    });
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [loss, c] : order) {
      r.uniform.push_back({uniform_text(c), layer_bits(c) / 2.0, loss, {}});
      uniform_choices_.push_back(c);
    }
  }

  std::string uniform_text(const LayerChoice& c) const {
    std::string text = "k=" + candidates_[kKey][c[kKey]].spec +
                       ",v=" + candidates_[kValue][c[kValue]].spec +
                       ",recent=" + std::to_string(window_.recent);
    if (c[kPolicy] != 0) {
      return text + ",policy=" + candidates_[kPolicy][c[kPolicy]].spec +
             ",sink=" + std::to_string(options_.policy_sink);
    }
    return text + ",sink=" + std::to_string(window_.sink);
  }

  // ---- refinement ----

  struct Move {
    double loss;
    Setting setting;
  };

  /// Settings that differ in one part of one layer, or in two parts of any layers.
  std::vector<Move> moves(const Setting& from) const {
    std::vector<Move> found;
    const auto changes = [&](const Setting& base, std::size_t first, const auto& visit) {
      for (std::size_t at = first; at < 3 * n_layers_; ++at) {
        const std::size_t l = at / 3, part = at % 3;
        for (std::size_t c = 0; c < candidates_[part].size(); ++c) {
          if (c == base[l][part] || !std::isfinite(losses_[part][l][c])) continue;
          Setting next = base;
          next[l][part] = c;
          if (fits_policy(next[l])) visit(at, next);
        }
      }
    };
    const double limit = predicted(from) * 1.25;
    const auto note = [&](const Setting& s) {
      const double loss = predicted(s);
      if (loss <= limit && bits(s) <= most_bits_ + 1e-9) found.push_back({loss, s});
    };
    changes(from, 0, [&](std::size_t at, const Setting& one) {
      note(one);
      changes(one, at + 1, [&](std::size_t, const Setting& two) { note(two); });
    });
    std::stable_sort(found.begin(), found.end(),
                     [](const Move& a, const Move& b) { return a.loss < b.loss; });
    return found;
  }

  void refine(Setting& setting, PlannerResult& r) {
    std::set<Setting> tried = {setting};
    std::int32_t left = options_.n_refine;
    while (left > 0) {
      bool better = false;
      for (const Move& move : moves(setting)) {
        if (left == 0 || better) break;
        if (!tried.insert(move.setting).second || !fits(move.setting)) continue;
        --left;
        const double own = kl(*second_, move.setting, window_, "changes");
        if (own >= r.second) continue;
        r.second = own;
        setting = move.setting;
        ++r.n_moves;
        better = true;
      }
      if (!better) return;
    }
  }

  // ---- quality floor ----

  /// The cheapest plan whose measured divergence meets the floor on both sets of documents.
  PlannerResult for_quality() {
    constexpr int kRounds = 8;
    const double floor = *options_.max_kl;
    double target = floor;
    PlannerResult r;
    Setting setting;
    for (int round = 0; round < kRounds; ++round) {
      if (round + 1 == kRounds) target = 0.0;  // f16 everywhere loses nothing
      setting = solve_with(r, [&](const auto& slots) { return allocate_for_loss(slots, target); });
      r.measured = kl(*first_, setting, window_, "whole plan");
      r.solver_second = r.second = kl(*second_, setting, window_, "whole plan");
      const double worst = std::max(r.measured, r.second);
      if (worst <= floor) break;
      target *= 0.9 * floor / worst;
    }
    most_bits_ = bits(setting);
    set_uniform(r);
    return finish(setting, r);
  }

  // ---- results ----

  PlannerResult finish(const Setting& setting, PlannerResult& r) const {
    r.plan = json_of(setting, window_);
    r.bits = bits(setting);
    r.bytes = bytes_of(r.plan.dump()).total();
    r.n_runs = n_runs_;
    r.left_out = left_out_;
    for (std::size_t part = 0; part < 3; ++part) {
      for (std::size_t c = 0; c < candidates_[part].size(); ++c) {
        if (part == kPolicy && c == 0) continue;
        for (std::size_t l = 0; l < n_layers_; ++l) {
          Sensitivity s{static_cast<std::int32_t>(l), kParts[part],
                        candidates_[part][c].spec,    candidates_[part][c].bits,
                        errors_[part][l][c],          {}};
          if (std::isfinite(losses_[part][l][c])) s.kl = losses_[part][l][c];
          r.sensitivities.push_back(s);
        }
      }
    }
    return r;
  }

  const PlannerOptions& options_;
  const Captured& captured_;
  const Executor& executor_;
  ProgressLine& progress_;
  HeadShape shape_;
  std::size_t n_layers_;
  Window window_;
  const Baseline* first_ = nullptr;
  const Baseline* second_ = nullptr;
  std::vector<Candidate> candidates_[3];
  std::vector<std::vector<double>> errors_[3], losses_[3];  // [part][layer][candidate]
  std::vector<double> uniform_[3];                          // [part][candidate], all layers
  std::vector<LayerChoice> uniform_choices_;
  std::vector<std::string> left_out_;
  double most_bits_ = 16.0;
  bool no_centers_ = false;  ///< leaves choices with a center out of the solver
  std::int64_t n_runs_ = 0;
};

}  // namespace

PlannerResult plan_model(const PlannerOptions& options, const Baseline& first,
                         const Baseline& second, const Captured& captured, const Executor& executor,
                         ProgressLine& progress) {
  check(options);
  return Planner(options, captured, executor, progress).on_model(first, second);
}

PlannerResult plan_captured(const PlannerOptions& options, const Captured& captured,
                            const Executor& executor, ProgressLine& progress) {
  check(options);
  if (options.max_kl || !options.policies.empty()) {
    throw invalid_argument("plan: --max-kl and --evict need --model: captured rows have no logits");
  }
  return Planner(options, captured, executor, progress).on_captures();
}

}  // namespace kvcodec::eval
