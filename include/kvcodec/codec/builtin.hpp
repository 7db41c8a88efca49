// The one list of built-in codecs: tests, benches, the command and the docs are generated from it.
#pragma once

#include "kvcodec/codec/int8_token.hpp"
#include "kvcodec/codec/nqkv.hpp"
#include "kvcodec/codec/qjl.hpp"
#include "kvcodec/codec/raw.hpp"
#include "kvcodec/core/type_list.hpp"

namespace kvcodec {

/// Every codec that can be named in a plan, in the order tables show them.
using BuiltinCodecs = TypeList<RawF32, RawF16, RawBf16, Int8Token, Nqkv, NqkvSymmetric, Qjl>;

}  // namespace kvcodec
