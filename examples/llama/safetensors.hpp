// Reads the tensors of a model folder: model.safetensors, or shards named by
// model.safetensors.index.json.
//
// A file is: header length (u64, little-endian), header (JSON: name -> dtype, shape, data_offsets),
// data. Everything in the header is checked against the file before any tensor is read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace llama {

/// Where one tensor lies.
struct TensorInfo {
  std::string dtype;  ///< as in the file: "F32", "F16", "BF16", or one not readable here
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  ///< first byte, from the start of the file
  std::uint64_t n_bytes = 0;
  std::filesystem::path file;
};

/// The tensors of one model, by name. Opening reads headers only.
class TensorStore {
 public:
  /// Throws invalid_argument if the folder holds no model, corrupt_data if a header is damaged or
  /// does not match its file.
  static TensorStore open(const std::filesystem::path& folder);
  /// The tensors of a single file.
  static TensorStore open_file(const std::filesystem::path& file);

  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  const std::map<std::string, TensorInfo>& tensors() const noexcept { return tensors_; }

  /// Reads a tensor as f32. Throws corrupt_data if it is missing, has another shape or cannot be
  /// read whole, unsupported if it is not F32, F16 or BF16.
  std::vector<float> load(const std::string& name, const std::vector<std::int64_t>& shape) const;

 private:
  void add_file(const std::filesystem::path& path);

  std::map<std::string, TensorInfo> tensors_;
};

/// "[256, 64]"
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace llama
