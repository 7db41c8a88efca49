#include "src/eval/journal.hpp"

#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

#include "kvcodec/core/error.hpp"

namespace kvcodec::eval {
namespace {

using output::Json;
namespace fs = std::filesystem;

void check_key(const fs::path& file, const Json& stored, const Json& key) {
  const auto text = [](const Json& object, const std::string& name) {
    const auto found = object.find(name);
    return found == object.end() ? std::string("absent") : found->dump();
  };
  for (const Json* side : {&key, &stored}) {
    for (const auto& [name, value] : side->items()) {
      if (text(stored, name) == text(key, name)) continue;
      throw invalid_argument(file.string() + ": " + name + " was " + text(stored, name) +
                             ", is now " + text(key, name) +
                             "; allowed with --resume: no change. Without --resume the run starts "
                             "anew");
    }
  }
}

}  // namespace

Json fingerprint(const fs::path& folder) {
  try {
    std::map<std::string, Json> files;  // in the order of their names
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name != "config.json" && name.find(".safetensors") == std::string::npos) continue;
      files[name] = {entry.file_size(), entry.last_write_time().time_since_epoch().count()};
    }
    return files;
  } catch (const fs::filesystem_error& e) {
    throw error(folder.string() + ": " + e.code().message());
  }
}

Journal::Journal(fs::path file, const Json& key, bool resume) : file_(std::move(file)) {
  if (resume && fs::exists(file_) && read(key)) return;
  std::ofstream out(file_, std::ios::binary | std::ios::trunc);
  if (!out.flush()) throw error(file_.string() + ": cannot be written");
  write_line({{"key", key}});
}

/// False if there is not even a key.
bool Journal::read(const Json& key) {
  std::ifstream in(file_, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  std::size_t at = 0;
  for (std::size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const Json line = Json::parse(text.substr(at, end - at), nullptr, false);
    if (!line.is_object() || !line.contains(at == 0 ? "key" : "name")) {
      throw corrupt_data(file_.string() + ": byte " + std::to_string(at) +
                         " begins no line of a journal; run without --resume");
    }
    if (at == 0) {
      check_key(file_, line["key"], key);
    } else {
      results_[line["name"].get<std::string>()] = line.value("result", Json());
    }
  }
  if (at < text.size()) fs::resize_file(file_, at);  // cut short while it was written
  return at > 0;
}

const Json* Journal::find(const std::string& name) const {
  const auto found = results_.find(name);
  return found == results_.end() ? nullptr : &found->second;
}

void Journal::add(const std::string& name, const Json& result) {
  results_[name] = result;
  if (!file_.empty()) write_line({{"name", name}, {"result", result}});
}

void Journal::write_line(const Json& line) {
  std::ofstream out(file_, std::ios::binary | std::ios::app);
  out << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!out.flush()) throw error(file_.string() + ": cannot be written");
}

}  // namespace kvcodec::eval
