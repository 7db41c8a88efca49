// The one list of built-in codecs: tests, benches, the command and the docs are generated from it.
#pragma once

#include "kvcodec/codec/affine_token.hpp"
#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/fp4.hpp"
#include "kvcodec/codec/fp8.hpp"
#include "kvcodec/codec/int8_token.hpp"
#include "kvcodec/codec/kivi.hpp"
#include "kvcodec/codec/lloyd_max.hpp"
#include "kvcodec/codec/nqkv.hpp"
#include "kvcodec/codec/qjl.hpp"
#include "kvcodec/codec/rabitq.hpp"
#include "kvcodec/codec/raw.hpp"
#include "kvcodec/core/type_list.hpp"

// THE LIST: every codec that can be named in a plan, in the order tables show them.
// clang-format off
#define KVCODEC_BUILTIN_CODECS(X) \
  X(RawF32) X(RawF16) X(RawBf16) X(Int8Token) X(Fp8) X(NvFp4) X(MxFp4) X(AffineToken) X(Kivi) \
  X(LloydMax) X(RaBitQ) X(Qjl) X(NqkvFitted) X(Nqkv) X(NqkvSymmetric)
// clang-format on

namespace kvcodec {

#define KVCODEC_PLUS(C) ::plus<C>
/// The types of the list.
using BuiltinCodecs = TypeList<> KVCODEC_BUILTIN_CODECS(KVCODEC_PLUS);
#undef KVCODEC_PLUS

// Their functions behind AnyCodec are compiled once, in the library (src/codec/builtin.cpp).
#define KVCODEC_EXTERN(C) extern template struct CodecFunctionsOf<C>;
KVCODEC_BUILTIN_CODECS(KVCODEC_EXTERN)
#undef KVCODEC_EXTERN

}  // namespace kvcodec
