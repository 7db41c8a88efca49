// Reads report.json, in which anything may be missing or null.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "src/report/report.hpp"

namespace kvcodec::report {

/// The member, or null if `object` is no object or has none of this name.
inline const Json& member(const Json& object, const char* name) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

/// The member as a number; nothing if it is none.
inline std::optional<double> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

/// The member as text, empty if it is none. Numbers are taken as they are written.
inline std::string text(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (value.is_number()) return value.dump();
  return value.is_string() ? value.get<std::string>() : "";
}

/// The member as an array, empty if it is none.
inline const Json& list(const Json& object, const char* name) {
  static const Json kEmpty = Json::array();
  const Json& value = member(object, name);
  return value.is_array() ? value : kEmpty;
}

}  // namespace kvcodec::report
