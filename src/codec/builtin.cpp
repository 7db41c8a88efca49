// The functions of the built-in codecs behind AnyCodec.
#include "kvcodec/codec/builtin.hpp"

#include "kvcodec/codec/codebook.hpp"

namespace kvcodec {

#define KVCODEC_INSTANTIATE(C) template struct CodecFunctionsOf<C>;
KVCODEC_BUILTIN_CODECS(KVCODEC_INSTANTIATE)
#undef KVCODEC_INSTANTIATE
template struct CodecFunctionsOf<Codebook>;

}  // namespace kvcodec
