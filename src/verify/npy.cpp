#include "src/verify/npy.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <limits>
#include <string_view>
#include <utility>

namespace kvcodec::golden {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::array kTypes = {"f2", "f4", "f8", "i1", "i2", "i4",
                               "i8", "u1", "u2", "u4", "u8", "b1"};
// No array of this project is larger; a damaged shape must not make us ask for all memory.
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 40;

[[noreturn]] void fail(const fs::path& file, const std::string& field, const std::string& value,
                       const std::string& allowed) {
  throw corrupt_data(file.string() + ": " + field + " = " + value + ", allowed: " + allowed);
}

std::int64_t item_bytes(const std::string& dtype) { return dtype[1] - '0'; }

/// The header is a Python dictionary with three known keys, written by one program in one style.
class Header {
 public:
  Header(const fs::path& file, std::string text) : file_(file), text_(std::move(text)) {}

  void parse(Array& array) const {
    if (value_of("fortran_order").starts_with("True")) {
      fail(file_, "fortran_order", "True", "False (C order)");
    }
    if (!value_of("fortran_order").starts_with("False")) {
      fail(file_, "fortran_order", quoted(value_of("fortran_order")), "False");
    }
    array.dtype = dtype();
    array.shape = shape();
  }

 private:
  static std::string quoted(std::string_view text) {
    std::string shown = "\"";
    for (const char c : text.substr(0, 40)) {
      shown += std::isprint(static_cast<unsigned char>(c)) != 0 ? c : '?';
    }
    return shown + "\"";
  }

  std::string_view value_of(const std::string& key) const {
    const std::size_t at = text_.find("'" + key + "'");
    const std::size_t colon = at == std::string::npos ? at : text_.find(':', at);
    const std::size_t first =
        colon == std::string::npos ? colon : text_.find_first_not_of(' ', colon + 1);
    if (first == std::string::npos) {
      fail(file_, "header", quoted(text_), "a dictionary with descr, fortran_order and shape");
    }
    return std::string_view(text_).substr(first);
  }

  std::string dtype() const {
    const std::string_view value = value_of("descr");
    const std::string allowed = "'<f2', '<f4', '<f8', '<i1'..'<i8', '<u1'..'<u8' or '|b1'";
    const std::size_t end = value.find('\'', 1);
    if (value[0] != '\'' || end == std::string_view::npos) {
      fail(file_, "descr", quoted(value), allowed);
    }
    const std::string text(value.substr(1, end - 1));
    const bool one_byte = text.size() == 3 && text[2] == '1';
    const bool order = !text.empty() && (text[0] == '<' || (text[0] == '|' && one_byte));
    const std::string type = text.empty() ? "" : text.substr(1);
    if (!order || std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end()) {
      fail(file_, "descr", "'" + text + "'", allowed);
    }
    return type;
  }

  std::vector<std::int64_t> shape() const {
    const std::string_view value = value_of("shape");
    const std::size_t end = value.find(')');
    const std::string allowed = "a tuple of sizes >= 0";
    if (value[0] != '(' || end == std::string_view::npos) {
      fail(file_, "shape", quoted(value), allowed);
    }
    std::vector<std::int64_t> sizes;
    std::size_t i = 1;
    while (i < end) {
      if (value[i] == ' ' || value[i] == ',') {
        ++i;
        continue;
      }
      std::int64_t n = 0;
      const std::size_t first = i;
      for (; i < end && value[i] >= '0' && value[i] <= '9'; ++i) {
        n = n * 10 + (value[i] - '0');
        if (n > kMaxBytes)
          fail(file_, "shape", quoted(value.substr(0, end + 1)), "up to 2^40 bytes");
      }
      if (i == first) fail(file_, "shape", quoted(value.substr(0, end + 1)), allowed);
      sizes.push_back(n);
    }
    return sizes;
  }

  const fs::path& file_;
  std::string text_;
};

std::vector<std::byte> read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in || !fs::is_regular_file(file)) {
    throw corrupt_data(file.string() + ": cannot be opened, allowed: a readable .npy file");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(in.tellg()));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!in) throw corrupt_data(file.string() + ": cannot be read to its end");
  return bytes;
}

/// Bytes that a shape and a type ask for; refuses what cannot be.
std::int64_t data_bytes(const Array& array) {
  std::int64_t n = item_bytes(array.dtype);
  const bool empty = std::find(array.shape.begin(), array.shape.end(), 0) != array.shape.end();
  if (empty) return 0;
  for (const std::int64_t size : array.shape) {
    if (n > kMaxBytes / size)
      fail(array.file, "shape", shape_text(array.shape), "up to 2^40 bytes");
    n *= size;
  }
  return n;
}

template <class To, class From>
std::vector<To> convert(const Array& array) {
  std::vector<To> values(array.data.size() / sizeof(From));
  for (std::size_t i = 0; i < values.size(); ++i) {
    From x;
    std::memcpy(&x, array.data.data() + i * sizeof(From), sizeof(From));
    if constexpr (std::is_same_v<From, f16>) {
      values[i] = static_cast<To>(to_f32(x));
    } else {
      values[i] = static_cast<To>(x);
    }
  }
  return values;
}

template <class To>
std::vector<To> float_values(const Array& array) {
  if (array.dtype == "f2") return convert<To, f16>(array);
  if (array.dtype == "f4") return convert<To, float>(array);
  if (array.dtype == "f8") return convert<To, double>(array);
  fail(array.file, "dtype", array.dtype, "f2, f4 or f8");
}

}  // namespace

std::int64_t Array::size() const noexcept {
  return static_cast<std::int64_t>(data.size()) / item_bytes(dtype);
}

std::vector<float> Array::floats() const { return float_values<float>(*this); }

std::vector<double> Array::doubles() const { return float_values<double>(*this); }

std::vector<std::int64_t> Array::integers() const {
  if (dtype == "i1") return convert<std::int64_t, std::int8_t>(*this);
  if (dtype == "i2") return convert<std::int64_t, std::int16_t>(*this);
  if (dtype == "i4") return convert<std::int64_t, std::int32_t>(*this);
  if (dtype == "i8") return convert<std::int64_t, std::int64_t>(*this);
  if (dtype == "u1" || dtype == "b1") return convert<std::int64_t, std::uint8_t>(*this);
  if (dtype == "u2") return convert<std::int64_t, std::uint16_t>(*this);
  if (dtype == "u4") return convert<std::int64_t, std::uint32_t>(*this);
  if (dtype != "u8") fail(file, "dtype", dtype, "an integer type");
  std::vector<std::int64_t> values = convert<std::int64_t, std::uint64_t>(*this);
  if (std::any_of(values.begin(), values.end(), [](std::int64_t x) { return x < 0; })) {
    fail(file, "value", "above 2^63 - 1", "what fits i8");
  }
  return values;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "[" + text + "]";
}

Array read_npy(const fs::path& file) {
  const std::vector<std::byte> bytes = read_bytes(file);
  const auto at = [&](std::size_t i) { return static_cast<std::size_t>(bytes[i]); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    fail(file, "start", "not \\x93NUMPY", "a .npy file of format 1.0 or 2.0");
  }
  const std::size_t major = at(6);
  if ((major != 1 && major != 2) || at(7) != 0) {
    fail(file, "format", std::to_string(major) + "." + std::to_string(at(7)), "1.0 or 2.0");
  }
  const std::size_t begin = major == 1 ? 10 : 12;
  if (bytes.size() < begin) fail(file, "size", std::to_string(bytes.size()), "a whole header");
  const std::size_t length =
      major == 1 ? at(8) + (at(9) << 8) : at(8) + (at(9) << 8) + (at(10) << 16) + (at(11) << 24);
  if (length > bytes.size() - begin) {
    fail(file, "header length", std::to_string(length),
         "up to " + std::to_string(bytes.size() - begin) + ", the rest of the file");
  }
  Array array;
  array.file = file;
  Header(file, {reinterpret_cast<const char*>(bytes.data()) + begin, length}).parse(array);
  const std::int64_t wanted = data_bytes(array);
  const auto found = static_cast<std::int64_t>(bytes.size() - begin - length);
  if (wanted != found) {
    fail(file, "data bytes", std::to_string(found),
         std::to_string(wanted) + " for shape " + shape_text(array.shape) + " of " + array.dtype);
  }
  array.data.assign(bytes.end() - found, bytes.end());
  return array;
}

void write_npy(const fs::path& file, const Array& array) {
  std::string sizes;
  for (const std::int64_t n : array.shape) sizes += std::to_string(n) + ",";
  const char* order = item_bytes(array.dtype) == 1 ? "|" : "<";
  std::string header = "{'descr': '" + (order + array.dtype) +
                       "', 'fortran_order': False, 'shape': (" + sizes + "), }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::ofstream out(file, std::ios::binary);
  out << kMagic << '\x01' << '\x00' << static_cast<char>(header.size() & 0xff)
      << static_cast<char>(header.size() >> 8) << header;
  out.write(reinterpret_cast<const char*>(array.data.data()),
            static_cast<std::streamsize>(array.data.size()));
  if (!out.flush()) throw error(file.string() + ": cannot be written");
}

}  // namespace kvcodec::golden
