// Codecs by name: "nqkv:g64" -> AnyCodec.
#pragma once

#include <string>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/builtin.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/core/by_name.hpp"

namespace kvcodec {

/// Every codec that a cache can use: those that stand by themselves, and those whose tables grow with
/// a sequence, which only a cache can own.
using CacheCodecs = BuiltinCodecs::plus<Codebook>;
extern template struct CodecFunctionsOf<Codebook>;

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
