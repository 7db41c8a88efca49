// One golden case: a folder with case.json and the arrays it names.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/verify/npy.hpp"

namespace kvcodec::golden {

/// A comparison that did not hold; what() says where and by how much.
class mismatch : public error {
 public:
  using error::error;
};

/// The description of a case and, on request, its arrays.
class Case {
 public:
  /// Reads folder/case.json. Throws corrupt_data if it is missing or not of the documented form.
  explicit Case(const std::filesystem::path& folder);

  const std::string& name() const noexcept { return name_; }      ///< "attention/d64-g1"
  const std::string& family() const noexcept { return family_; }  ///< "attention"
  const std::string& kind() const noexcept { return kind_; }      ///< "d64-g1"

  /// Reads an array and checks its type and shape against case.json. Throws corrupt_data.
  Array array(const std::string& array_name) const;
  bool has_array(const std::string& array_name) const noexcept;
  /// Names of the arrays of one role: "input", "output" or "aux".
  std::vector<std::string> arrays_of(const std::string& role) const;
  /// The file of an array, relative to the folder.
  std::string file_of(const std::string& array_name) const;

  /// parameters[key] and checks[key]. Throw corrupt_data if missing or of another type.
  template <class T>
  T parameter(const std::string& key) const {
    return value<T>("parameters", key);
  }
  template <class T>
  T check(const std::string& key) const {
    return value<T>("checks", key);
  }

  /// Whether the case names that parameter.
  bool has_parameter(const std::string& key) const noexcept;

  /// The numbers behind the word "absolute" in the tolerance that applies to `array_name`:
  /// one, or one per layer. Throws corrupt_data if there is none.
  std::vector<double> absolute_tolerances(const std::string& array_name) const;

 private:
  template <class T>
  T value(const char* section, const std::string& key) const {
    try {
      return json_.at(section).at(key).template get<T>();
    } catch (const nlohmann::json::exception& e) {
      throw corrupt_data((folder_ / "case.json").string() + ": " + section + "." + key + ": " +
                         e.what());
    }
  }
  const nlohmann::json& entry(const std::string& array_name) const;

  std::filesystem::path folder_;
  nlohmann::json json_;
  std::string name_, family_, kind_;
};

}  // namespace kvcodec::golden
