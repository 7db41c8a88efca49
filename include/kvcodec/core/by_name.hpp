// Members of a TypeList by name: "family[:option[:option...]]".
#pragma once

#include <optional>
#include <string>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/type_list.hpp"

namespace kvcodec {

/// Family names of the types in `List`, in order, separated by ", ".
template <class List>
std::string family_names() {
  std::string text;
  List::for_each([&]<class T>() { text += (text.empty() ? "" : ", ") + std::string(T::family); });
  return text;
}

/// Parses `spec` by the type of `List` whose family it names. `kind` stands in messages: "codec".
///
/// Throws invalid_argument that lists the families, or what T::parse throws about its options.
template <class Any, class List>
Any make_by_name(const char* kind, const std::string& spec) {
  const std::size_t colon = spec.find(':');
  const std::string family = spec.substr(0, colon);
  const std::string options = colon == std::string::npos ? "" : spec.substr(colon + 1);
  std::optional<Any> made;
  List::for_each([&]<class T>() {
    if (!made && family == T::family) made = T::parse(options);
  });
  if (!made) throw invalid_argument(bad_value(kind, "name", family, family_names<List>()));
  return *made;
}

}  // namespace kvcodec
