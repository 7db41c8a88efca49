#include "src/verify/case.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace kvcodec::golden {

namespace fs = std::filesystem;
using nlohmann::json;

Case::Case(const fs::path& folder) : folder_(folder) {
  const fs::path file = folder / "case.json";
  std::ifstream in(file);
  if (!in) throw corrupt_data(file.string() + ": cannot be opened");
  try {
    json_ = json::parse(in);
    name_ = json_.at("case").get<std::string>();
    for (const json& a : json_.at("arrays")) {
      for (const char* key : {"name", "file", "dtype", "role"}) (void)a.at(key).get<std::string>();
      (void)a.at("shape").get<std::vector<std::int64_t>>();
    }
    for (const json& t : json_.at("tolerances")) {
      for (const char* key : {"applies_to", "rule"}) (void)t.at(key).get<std::string>();
    }
  } catch (const json::exception& e) {
    throw corrupt_data(file.string() + ": " + e.what());
  }
  const std::size_t slash = std::min(name_.find('/'), name_.size());
  family_ = name_.substr(0, slash);
  kind_ = name_.substr(std::min(slash + 1, name_.size()));
  if (family_.empty() || kind_.find('/') != std::string::npos) {
    throw corrupt_data(file.string() + ": case = \"" + name_ + "\", allowed: <family>/<case>");
  }
}

const json& Case::entry(const std::string& array_name) const {
  for (const json& a : json_["arrays"]) {
    if (a["name"] == array_name) return a;
  }
  throw corrupt_data((folder_ / "case.json").string() + ": arrays: none is named " + array_name);
}

bool Case::has_array(const std::string& array_name) const noexcept {
  for (const json& a : json_["arrays"]) {
    if (a["name"] == array_name) return true;
  }
  return false;
}

bool Case::has_parameter(const std::string& key) const noexcept {
  return json_.contains("parameters") && json_["parameters"].contains(key);
}

std::vector<std::string> Case::arrays_of(const std::string& role) const {
  std::vector<std::string> names;
  for (const json& a : json_["arrays"]) {
    if (a["role"] == role) names.push_back(a["name"]);
  }
  return names;
}

std::string Case::file_of(const std::string& array_name) const { return entry(array_name)["file"]; }

Array Case::array(const std::string& array_name) const {
  const json& described = entry(array_name);
  Array found = read_npy(folder_ / described["file"].get<std::string>());
  std::string dtype = described["dtype"];
  if (!dtype.empty() && (dtype[0] == '<' || dtype[0] == '|')) dtype.erase(0, 1);
  if (found.dtype != dtype) {
    throw corrupt_data(found.file.string() + ": dtype = " + found.dtype + ", allowed: " + dtype +
                       " as case.json says");
  }
  const auto shape = described["shape"].get<std::vector<std::int64_t>>();
  if (found.shape != shape) {
    throw corrupt_data(found.file.string() + ": shape = " + shape_text(found.shape) +
                       ", allowed: " + shape_text(shape) + " as case.json says");
  }
  return found;
}

namespace {

/// Whether a list such as "levels, thresholds", "y_*" or "*_out" names `array_name`.
bool applies(const std::string& list, const std::string& array_name) {
  std::size_t begin = 0;
  while (begin < list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    std::string word = list.substr(begin, end - begin);
    while (!word.empty() && word[0] == ' ') word.erase(0, 1);
    if (word == array_name) return true;
    if (word.ends_with('*') && array_name.starts_with(word.substr(0, word.size() - 1))) return true;
    if (word.starts_with('*') && array_name.ends_with(word.substr(1))) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace

std::vector<double> Case::absolute_tolerances(const std::string& array_name) const {
  const std::string word = "absolute ";
  for (const json& t : json_["tolerances"]) {
    if (!applies(t["applies_to"], array_name)) continue;
    const std::string rule = t["rule"];
    const std::size_t at = rule.find(word);
    if (at == std::string::npos) continue;
    std::vector<double> numbers;
    const char* next = rule.c_str() + at + word.size();
    for (char* end = nullptr;; next = end + 1) {
      const double x = std::strtod(next, &end);
      if (end == next) break;
      numbers.push_back(x);
      if (*end != ',') break;
    }
    if (!numbers.empty()) return numbers;
  }
  throw corrupt_data((folder_ / "case.json").string() + ": tolerances: none with an absolute " +
                     "bound applies to " + array_name);
}

}  // namespace kvcodec::golden
