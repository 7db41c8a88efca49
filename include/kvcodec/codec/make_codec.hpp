// Codecs by name: "nqkv:g64" -> AnyCodec.
#pragma once

#include <string>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/builtin.hpp"

namespace kvcodec {

/// Family names of the codecs in `List`, separated by ", ".
template <class List = BuiltinCodecs>
std::string codec_families() {
  std::string text;
  List::for_each([&]<class C>() { text += (text.empty() ? "" : ", ") + std::string(C::family); });
  return text;
}

/// Builds the codec that `spec` = "family[:option[:option...]]" names.
///
/// Throws invalid_argument that lists the families, or the options of the family.
template <class List = BuiltinCodecs>
AnyCodec make_codec(const std::string& spec) {
  const std::size_t colon = spec.find(':');
  const std::string family = spec.substr(0, colon);
  const std::string options = colon == std::string::npos ? "" : spec.substr(colon + 1);
  AnyCodec codec;
  List::for_each([&]<class C>() {
    if (!codec && family == C::family) codec = C::parse(options);
  });
  if (!codec) {
    throw invalid_argument(bad_value("codec", "name", family, codec_families<List>()));
  }
  return codec;
}

}  // namespace kvcodec
