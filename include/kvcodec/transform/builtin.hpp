// The one list of built-in transforms, and transforms by name.
#pragma once

#include <string>

#include "kvcodec/core/type_list.hpp"
#include "kvcodec/transform/hadamard.hpp"
#include "kvcodec/transform/transform.hpp"

namespace kvcodec {

/// Every transform that can be named in a plan.
using BuiltinTransforms = TypeList<Identity, Hadamard>;

/// Family names of the transforms in `List`, separated by ", ".
template <class List = BuiltinTransforms>
std::string transform_families() {
  std::string text;
  List::for_each([&]<class T>() { text += (text.empty() ? "" : ", ") + std::string(T::family); });
  return text;
}

/// Builds the transform that `spec` = "family[:option]" names.
///
/// Throws invalid_argument that lists the families, or the options of the family.
template <class List = BuiltinTransforms>
AnyTransform make_transform(const std::string& spec) {
  const std::size_t colon = spec.find(':');
  const std::string family = spec.substr(0, colon);
  const std::string options = colon == std::string::npos ? "" : spec.substr(colon + 1);
  AnyTransform transform;
  bool found = false;
  List::for_each([&]<class T>() {
    if (found || family != T::family) return;
    transform = T::parse(options);
    found = true;
  });
  if (!found) {
    throw invalid_argument(bad_value("transform", "name", family, transform_families<List>()));
  }
  return transform;
}

}  // namespace kvcodec
