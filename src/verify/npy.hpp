// Arrays in NumPy's .npy files, format 1.0 and 2.0: little endian, C order, plain numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec::golden {

/// An array and where it came from.
struct Array {
  std::filesystem::path file;       ///< named in messages
  std::string dtype;                ///< "f2", "f4", "f8", "i1".."i8", "u1".."u8" or "b1"
  std::vector<std::int64_t> shape;  ///< empty: one number
  std::vector<std::byte> data;      ///< C order

  std::int64_t size() const noexcept;
  bool is_float() const noexcept { return !dtype.empty() && dtype[0] == 'f'; }

  /// All values as f32: exact for f2 and f4, one rounding for f8. Throws corrupt_data for integers.
  std::vector<float> floats() const;
  /// All values as f64, exact. Throws corrupt_data for integers.
  std::vector<double> doubles() const;
  /// All values of an integer type. Throws corrupt_data for floats, and for u8 beyond i8.
  std::vector<std::int64_t> integers() const;
};

/// "[2, 3]"
std::string shape_text(const std::vector<std::int64_t>& shape);

/// Reads a file. Throws corrupt_data naming the file, the field, its value and what is allowed:
/// other byte orders, Fortran order, structured and object types, sizes that overflow or do not
/// match the file.
Array read_npy(const std::filesystem::path& file);

/// Writes `array` to `file` as format 1.0. Throws error if the file cannot be written.
void write_npy(const std::filesystem::path& file, const Array& array);

/// An array of `values`, to be written.
template <class T>
Array make_array(const char* dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  Array array;
  array.dtype = dtype;
  array.shape = std::move(shape);
  array.data.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(array.data.data(), values.data(), array.data.size());
  return array;
}

}  // namespace kvcodec::golden
