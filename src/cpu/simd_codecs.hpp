// The codecs that have SIMD fast paths.
#pragma once

#include "kvcodec/codec/any_codec.hpp"

namespace kvcodec::cpu {

/// Their order in the tables.
enum FastCodec {
  kRawF32,
  kRawF16,
  kRawBf16,
  kInt8Token,
  kNqkv,
  kNqkvSymmetric,
  kNqkvFitted,
  kFastCodecs
};

/// Their functions, which identify the codec types. Kept in a file of its own: the tables' file must
/// not instantiate codec templates, because it is compiled for several instruction sets.
extern const CodecFunctions* const fast_codec_functions[kFastCodecs];

}  // namespace kvcodec::cpu
