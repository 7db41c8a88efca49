#include "examples/llama/eval_data.hpp"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw kvcodec::invalid_argument("evaluation data: cannot read " + path.string() +
                                    ", expected: a model folder with eval.json and its text");
  }
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<ByteRange> read_ranges(const json& root, const char* name, std::size_t text_size) {
  std::vector<ByteRange> out;
  std::int64_t previous = 0;
  for (const json& item : root.value(name, json::array())) {
    const ByteRange range{item.at(0).get<std::int64_t>(), item.at(1).get<std::int64_t>()};
    if (range.begin < previous || range.end <= range.begin ||
        range.end > static_cast<std::int64_t>(text_size)) {
      throw kvcodec::corrupt_data(std::string(name) + " has " + item.dump() +
                                  ", allowed: rising ranges within " + std::to_string(text_size) +
                                  " bytes");
    }
    previous = range.end;
    out.push_back(range);
  }
  return out;
}

std::string required_text(const json& object, const char* name) {
  std::string text = object.at(name).get<std::string>();
  if (text.empty()) throw kvcodec::corrupt_data(std::string(name) + " is empty");
  return text;
}

RecallContext read_recall(const json& item) {
  RecallContext out;
  out.context = required_text(item, "context");
  for (const json& q : item.at("questions")) {
    out.questions.push_back({q.value("key", ""), required_text(q, "prompt"),
                             required_text(q, "answer"), q.value("distance", std::int64_t{0})});
  }
  return out;
}

GenerationPrompt read_prompt(const json& item) {
  GenerationPrompt out;
  if (item.is_string()) {
    out.prompt = item.get<std::string>();
  } else {
    out.name = item.value("name", "");
    out.prompt = required_text(item, "prompt");
    out.n_bytes = item.value("bytes", out.n_bytes);
    out.expected_start = item.value("expected_start", "");
  }
  if (out.prompt.empty()) throw kvcodec::corrupt_data("generation has an empty prompt");
  if (out.n_bytes < 1 || out.n_bytes > (1 << 20)) {
    throw kvcodec::corrupt_data("generation has bytes = " + std::to_string(out.n_bytes) +
                                ", allowed: 1..1048576");
  }
  return out;
}

EvalData read_fields(const json& root, const fs::path& folder) {
  EvalData data;
  data.heldout = read_file(folder / fs::path(root.value("heldout", "heldout.txt")).filename());
  data.documents = read_ranges(root, "documents", data.heldout.size());
  data.filler = read_ranges(root, "filler_ranges", data.heldout.size());
  data.answers = read_ranges(root, "answer_ranges", data.heldout.size());
  for (const json& item : root.value("recall", json::array())) {
    data.recall.push_back(read_recall(item));
  }
  for (const json& item : root.value("generation", json::array())) {
    data.generation.push_back(read_prompt(item));
  }
  const json floor = root.value("floor", json::object());
  for (const auto& [name, value] : floor.items()) data.floor[name] = value.get<double>();
  return data;
}

}  // namespace

EvalData read_eval(const fs::path& folder) {
  fs::path path = folder / "eval.json";
  try {
    json root = json::parse(read_file(path));
    if (root.contains("shared")) {
      path = folder / root["shared"].get<std::string>();
      root = json::parse(read_file(path));
      if (root.contains("shared")) throw kvcodec::corrupt_data("shared points to a pointer");
    }
    return read_fields(root, path.parent_path());
  } catch (const json::exception& e) {
    throw kvcodec::corrupt_data(path.string() + ": " + e.what());
  } catch (const kvcodec::corrupt_data& e) {
    throw kvcodec::corrupt_data(path.string() + ": " + e.what());
  }
}

std::string_view text_of(const EvalData& data, const ByteRange& range) {
  return std::string_view(data.heldout)
      .substr(static_cast<std::size_t>(range.begin),
              static_cast<std::size_t>(range.end - range.begin));
}

}  // namespace llama
