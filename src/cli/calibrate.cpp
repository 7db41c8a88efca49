// kvcodec calibrate: static shifts, scales and clip factors for a model, from text that the model
// itself writes.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "examples/llama/calibration.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/core/options.hpp"
#include "src/cli/commands.hpp"
#include "src/output/output.hpp"

namespace kvcodec::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string out;
  std::string alphas;
  std::string weights = "f32";
  std::string json;
  llama::SampledText text;
  llama::CalibrationOptions calibration;
  bool no_crr = false;
  int threads = 0;
};

std::vector<float> parse_alphas(const std::string& text) {
  std::vector<float> alphas;
  for (const std::string& part : split_options(text, ',')) {
    float alpha = 0.0f;
    if (!parse_float(part, 0.0f, 1.0f, alpha)) {
      throw invalid_argument(
          bad_value("calibrate", "--alpha-grid", text, "numbers in 0..1, as in 0,0.5,0.7,1"));
    }
    alphas.push_back(alpha);
  }
  return alphas;
}

std::string made_by(const Options& o, const llama::CalibrationResult& result) {
  std::string text = format(
      "kvcodec %s calibrate: %lld tokens sampled from the model (temperature 1, seed %llu, "
      "start token %d)",
      KVCODEC_VERSION, static_cast<long long>(result.n_tokens),
      static_cast<unsigned long long>(o.text.seed), o.text.start_token);
  if (!o.calibration.search) return text + ", closed-form start without a search";
  const char* options_text =
      o.calibration.last_only ? ", search by the mean absolute error %d layers further on"
                              : ", search by the mean absolute error over a layer and %d behind it";
  return text + format(options_text, o.calibration.k);
}

std::string choice_text(const llama::SideChoice& c) {
  return std::string(to_string(c.shift)) + " " + format_float(c.alpha) + " " + format_float(c.clip);
}

Json choice_json(const llama::SideChoice& c) {
  return {{"shift", to_string(c.shift)},
          {"alpha", static_cast<double>(c.alpha)},
          {"clip", static_cast<double>(c.clip)}};
}

Json stream_json(const llama::StreamReport& r) {
  return {{"hidden_error", r.hidden_error}, {"kl_bits", r.kl_bits}};
}

void print_layers(const llama::CalibrationResult& result, bool weights) {
  std::vector<std::vector<std::string>> rows = {
      {"layer", "plain", "start", "found", "tried", "k: shift alpha clip", "v: shift alpha clip"}};
  if (weights) rows[0].push_back("weight clip");
  for (std::size_t i = 0; i < result.layers.size(); ++i) {
    const llama::LayerReport& l = result.layers[i];
    rows.push_back({std::to_string(i), format("%.5g", l.plain), format("%.5g", l.initial),
                    format("%.5g", l.final), std::to_string(l.n_tried), choice_text(l.k),
                    choice_text(l.v)});
    if (weights) rows.back().push_back(format_float(l.weight_clip));
  }
  std::printf("%s", to_table(rows).c_str());
}

void print_streams(const llama::CalibrationResult& result) {
  std::vector<std::vector<std::string>> rows = {{"all layers quantized", "plain", "start", "found"},
                                                {"hidden error"},
                                                {"KL, bits per token"}};
  for (const auto* r : {&result.plain, &result.initial, &result.final}) {
    rows[1].push_back(format("%.5g", r->hidden_error));
    rows[2].push_back(format("%.3g", r->kl_bits));
  }
  std::printf("\n%s", to_table(rows).c_str());
}

Json to_json(const llama::CalibrationResult& result) {
  Json layers = Json::array();
  for (const llama::LayerReport& l : result.layers) {
    layers.push_back({{"loss_plain", l.plain},
                      {"loss_start", l.initial},
                      {"loss_found", l.final},
                      {"tried", l.n_tried},
                      {"k", choice_json(l.k)},
                      {"v", choice_json(l.v)},
                      {"weight_clip", static_cast<double>(l.weight_clip)}});
  }
  return {{"layers", layers},
          {"plain", stream_json(result.plain)},
          {"start", stream_json(result.initial)},
          {"found", stream_json(result.final)}};
}

int calibrate(Options options) {
  const auto start = std::chrono::steady_clock::now();
  if (!options.alphas.empty()) options.calibration.alphas = parse_alphas(options.alphas);
  options.calibration.weights = llama::parse_weight_format(options.weights);
  options.calibration.search = !options.no_crr;
  check_writable(options.json);
  if (!fs::is_directory(fs::absolute(options.out).parent_path()) || fs::is_directory(options.out)) {
    throw invalid_argument(bad_value("calibrate", "-o", options.out, "a file in a folder"));
  }
  ThreadPool pool(options.threads);
  const llama::Model model = llama::Model::load(options.model, pool.executor());

  ProgressLine progress;
  progress.show("sampling text", 0, 1);
  const auto text = llama::sample_text(model, options.text);
  options.calibration.progress = [&](int per_mille) {
    progress.show("calibrating", per_mille, 1000);
  };
  llama::CalibrationResult result = llama::calibrate(model, text, options.calibration);
  progress.clear();
  fs::path folder(options.model);
  if (!folder.has_filename()) folder = folder.parent_path();
  result.calibration.model = folder.filename().string();
  result.calibration.made_by = made_by(options, result);
  write_calibration(result.calibration, options.out);

  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("Mean absolute error of the hidden states behind each layer.\n");
  print_layers(result, options.calibration.weights.quantized());
  print_streams(result);
  std::printf("\n%s: %s in %.0f s\n", options.out.c_str(), result.calibration.made_by.c_str(),
              seconds.count());
  Json json = {{"command", "calibrate"},           {"version", KVCODEC_VERSION},
               {"model", options.model},           {"made_by", result.calibration.made_by},
               {"bits", options.calibration.bits}, {"group", options.calibration.group},
               {"k", options.calibration.k},       {"weights", options.calibration.weights.name()},
               {"n_tokens", result.n_tokens},      {"isa", cpu_isa()},
               {"threads", pool.n_threads()},      {"seconds", seconds.count()}};
  json.update(to_json(result));
  write_json(options.json, json);
  return 0;
}

}  // namespace

void add_calibrate(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("calibrate", "Finds static shifts and scales (WKVQuant) for a model");
  llama::CalibrationOptions& c = options->calibration;
  sub->add_option("--model", options->model, "Hugging Face folder of the model")->required();
  sub->add_option("-o,--out", options->out, "calibration file to write")->required();
  sub->add_option("--bits", c.bits, "of codes of K and V: 2, 3, 4 or 8")->capture_default_str();
  sub->add_option("--group", c.group, "channels that share a step: 32, 64 or 128")
      ->capture_default_str();
  sub->add_option("--k", c.k, "layers behind the quantized one that are looked at")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  sub->add_flag("--last-only", c.last_only, "look at the last of them only");
  sub->add_flag("--no-crr", options->no_crr, "keep the closed-form start, no search");
  sub->add_option("--alpha-grid", options->alphas, "exponents of the scale, e.g. 0,0.5,0.7,0.85,1");
  sub->add_option("--weights", options->weights, "f32, or the 4-bit form it will run with: w4:g128")
      ->capture_default_str();
  sub->add_option("--tokens", options->text.n_tokens, "tokens of text to sample from the model")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  sub->add_option("--length", options->text.length, "tokens of one sampled text at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--start-token", options->text.start_token, "first token of every text")
      ->capture_default_str();
  sub->add_option("--seed", options->text.seed, "of the sampling")->capture_default_str();
  sub->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--json", options->json, "also write the losses to this file");
  sub->callback([options, &run] { run = [options] { return calibrate(*options); }; });
}

}  // namespace kvcodec::cli
