// The one list of built-in codecs: tests, benches, the command and the docs are generated from it.
#pragma once

#include "kvcodec/codec/affine_token.hpp"
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

namespace kvcodec {

/// Every codec that can be named in a plan, in the order tables show them.
using BuiltinCodecs = TypeList<RawF32, RawF16, RawBf16, Int8Token, Fp8, NvFp4, MxFp4, AffineToken,
                               Kivi, LloydMax, RaBitQ, Qjl, NqkvFitted, Nqkv, NqkvSymmetric>;

}  // namespace kvcodec
