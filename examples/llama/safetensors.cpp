#include "examples/llama/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <utility>

#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own reader

// Bytes of one value; 0: no such dtype.
std::uint64_t value_bytes(const std::string& dtype) {
  static constexpr std::array<std::pair<const char*, std::uint64_t>, 15> kSizes{{
      {"BOOL", 1},
      {"U8", 1},
      {"I8", 1},
      {"F8_E4M3", 1},
      {"F8_E5M2", 1},
      {"I16", 2},
      {"U16", 2},
      {"F16", 2},
      {"BF16", 2},
      {"I32", 4},
      {"U32", 4},
      {"F32", 4},
      {"I64", 8},
      {"U64", 8},
      {"F64", 8},
  }};
  for (const auto& [name, size] : kSizes) {
    if (dtype == name) return size;
  }
  return 0;
}

[[noreturn]] void corrupt(const fs::path& path, const std::string& what) {
  throw kvcodec::corrupt_data(path.string() + ": " + what);
}

json parse_object(const fs::path& path, const std::string& text, const char* what) {
  json root = json::parse(text, nullptr, false);
  if (!root.is_object()) corrupt(path, std::string(what) + " is not a JSON object");
  return root;
}

// Reads the header and leaves `data_begin` at the first byte behind it.
json read_header(const fs::path& path, std::uint64_t file_size, std::uint64_t& data_begin) {
  if (file_size < 8) corrupt(path, std::to_string(file_size) + " bytes, too short for a header");
  std::ifstream in(path, std::ios::binary);
  std::array<unsigned char, 8> raw{};
  in.read(reinterpret_cast<char*>(raw.data()), 8);
  if (!in) corrupt(path, "cannot be read");
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = (length << 8) | raw[i];
  const std::uint64_t allowed = std::min(kMaxHeader, file_size - 8);
  if (length > allowed) {
    corrupt(path, "header length " + std::to_string(length) + ", allowed: at most " +
                      std::to_string(allowed) + " in a file of " + std::to_string(file_size) +
                      " bytes");
  }
  std::string text(static_cast<std::size_t>(length), '\0');
  in.read(text.data(), static_cast<std::streamsize>(length));
  if (!in) corrupt(path, "the header cannot be read");
  data_begin = 8 + length;
  return parse_object(path, text, "the header");
}

bool is_offsets(const json& v) {
  return v.is_array() && v.size() == 2 && v[0].is_number_unsigned() && v[1].is_number_unsigned();
}

// One header entry, checked against its own dtype and shape and the size of the data.
TensorInfo read_entry(const fs::path& path, const std::string& name, const json& entry,
                      std::uint64_t data_size) {
  const std::string where = "tensor " + name + ": ";
  const auto fail = [&](const std::string& what) { corrupt(path, where + what); };
  if (!entry.is_object()) fail("not a JSON object");
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) fail("dtype is missing or not a string");
  if (shape == entry.end() || !shape->is_array()) fail("shape is missing or not a list");
  if (offsets == entry.end() || !is_offsets(*offsets)) fail("data_offsets is not [begin, end]");
  TensorInfo info;
  info.file = path;
  info.dtype = dtype->get<std::string>();
  std::uint64_t n_bytes = value_bytes(info.dtype);
  if (n_bytes == 0) fail("dtype \"" + info.dtype + "\" is unknown");
  for (const json& size : *shape) {
    if (!size.is_number_unsigned()) fail("shape " + shape->dump() + " has a bad size");
    const auto s = size.get<std::uint64_t>();
    if (s != 0 && n_bytes > std::numeric_limits<std::int64_t>::max() / s) {
      fail("shape " + shape->dump() + " is too large");
    }
    n_bytes *= s;
    info.shape.push_back(static_cast<std::int64_t>(s));
  }
  const auto begin = (*offsets)[0].get<std::uint64_t>();
  const auto end = (*offsets)[1].get<std::uint64_t>();
  if (begin > end || end > data_size) {
    fail("data_offsets " + offsets->dump() + ", allowed: within " + std::to_string(data_size) +
         " bytes of data (is the file truncated?)");
  }
  if (end - begin != n_bytes) {
    fail("data_offsets " + offsets->dump() + " hold " + std::to_string(end - begin) +
         " bytes, but " + info.dtype + " " + shape_text(info.shape) + " needs " +
         std::to_string(n_bytes));
  }
  info.offset = begin;
  info.n_bytes = n_bytes;
  return info;
}

// A shard lies beside its index; a path that leads elsewhere is not followed.
bool is_file_name(const std::string& name) {
  return !name.empty() && fs::path(name).filename() == fs::path(name);
}

template <class T>
void widen(const std::vector<char>& raw, std::vector<float>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, raw.data() + i * sizeof(T), sizeof(T));
    out[i] = kvcodec::to_f32(value);
  }
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

void TensorStore::add_file(const fs::path& path) {
  std::error_code error;
  const std::uint64_t file_size = fs::file_size(path, error);
  if (error) corrupt(path, "cannot be read: " + error.message());
  std::uint64_t data_begin = 0;
  const json header = read_header(path, file_size, data_begin);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    TensorInfo info = read_entry(path, name, entry, file_size - data_begin);
    ranges.emplace_back(info.offset, info.offset + info.n_bytes);
    info.offset += data_begin;
    if (!tensors_.emplace(name, std::move(info)).second) {
      corrupt(path, "tensor " + name + " is in another shard already");
    }
  }
  // The format demands that tensors cover the data exactly: no overlap, no gap, nothing behind.
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) {
      corrupt(path, std::string(begin < covered ? "tensors overlap" : "a gap between tensors") +
                        " at byte " + std::to_string(begin) + " of the data");
    }
    covered = end;
  }
  if (data_begin + covered != file_size) {
    corrupt(path,
            std::to_string(file_size - data_begin - covered) + " bytes behind the last tensor");
  }
}

TensorStore TensorStore::open_file(const fs::path& file) {
  TensorStore store;
  store.add_file(file);
  return store;
}

TensorStore TensorStore::open(const fs::path& folder) {
  if (fs::exists(folder / "model.safetensors")) return open_file(folder / "model.safetensors");
  TensorStore store;
  const fs::path index_path = folder / "model.safetensors.index.json";
  std::ifstream in(index_path, std::ios::binary);
  if (!in) {
    throw kvcodec::invalid_argument(
        "model folder: " + folder.string() +
        " holds neither model.safetensors nor model.safetensors.index.json");
  }
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const json index = parse_object(index_path, text, "the index");
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) corrupt(index_path, "no weight_map");
  std::set<std::string> files;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || !is_file_name(file.get<std::string>())) {
      corrupt(index_path, "weight_map: " + name + " = " + file.dump() + ", allowed: a file name");
    }
    files.insert(file.get<std::string>());
  }
  for (const std::string& file : files) store.add_file(folder / file);
  for (const auto& [name, file] : map->items()) {
    if (!store.contains(name)) corrupt(index_path, "tensor " + name + " is not in " + file.dump());
  }
  return store;
}

std::vector<float> TensorStore::load(const std::string& name,
                                     const std::vector<std::int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    throw kvcodec::corrupt_data("tensor " + name + " is missing, expected shape " +
                                shape_text(shape));
  }
  const TensorInfo& info = it->second;
  if (info.shape != shape) {
    corrupt(info.file, "tensor " + name + " has shape " + shape_text(info.shape) + ", expected " +
                           shape_text(shape));
  }
  if (info.dtype != "F32" && info.dtype != "F16" && info.dtype != "BF16") {
    throw kvcodec::unsupported(info.file.string() + ": tensor " + name + " has dtype " +
                               info.dtype + ", allowed: F32, F16, BF16");
  }
  std::vector<char> raw(static_cast<std::size_t>(info.n_bytes));
  std::ifstream in(info.file, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(info.offset));
  in.read(raw.data(), static_cast<std::streamsize>(raw.size()));
  if (!in) corrupt(info.file, "tensor " + name + " cannot be read whole");
  std::vector<float> out(raw.size() / value_bytes(info.dtype));
  if (info.dtype == "F32") widen<float>(raw, out);
  if (info.dtype == "F16") widen<kvcodec::f16>(raw, out);
  if (info.dtype == "BF16") widen<kvcodec::bf16>(raw, out);
  return out;
}

}  // namespace llama
