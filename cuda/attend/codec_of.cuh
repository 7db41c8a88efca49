// The codec of a unit: one for all, or one with tables of its own per sequence and head.
#pragma once

#include "cuda/attend/params.hpp"

namespace kvcodec::cuda {

/// codecs: KvView::k_codecs or v_codecs, of type C; null: `shared`.
template <Codec C>
__device__ __forceinline__ C codec_of(const AttendParams& p, const AnyCodec* codecs, const Unit& u,
                                      const C& shared) {
  if (codecs == nullptr) return shared;
  return *static_cast<const C*>(codecs[u.seq * p.view.shape.n_kv_heads + u.head].value());
}

}  // namespace kvcodec::cuda
