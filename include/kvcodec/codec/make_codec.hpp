// Codecs by name: "nqkv:g64" -> AnyCodec.
#pragma once

#include <string>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/builtin.hpp"
#include "kvcodec/core/by_name.hpp"

namespace kvcodec {

/// Family names of the codecs in `List`, separated by ", ".
template <class List = BuiltinCodecs>
std::string codec_families() {
  return family_names<List>();
}

/// Builds the codec that `spec` = "family[:option[:option...]]" names.
///
/// Throws invalid_argument that lists the families, or the options of the family.
template <class List = BuiltinCodecs>
AnyCodec make_codec(const std::string& spec) {
  return make_by_name<AnyCodec, List>("codec", spec);
}

}  // namespace kvcodec
