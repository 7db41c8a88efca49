#include "src/verify/backend.hpp"

namespace kvcodec::golden {
namespace {

Backend cpu;
Backend* used = &cpu;

}  // namespace

bool Backend::encode_tile(const AnyCodec& codec, Side side, int head_dim, const float* x,
                          std::byte* tile) {
  return codec.encode_tile(side, head_dim, x, tile);
}

void Backend::decode_tile(const AnyCodec& codec, Side side, int head_dim, const std::byte* tile,
                          float* x) {
  codec.decode_tile(side, head_dim, tile, x);
}

Status Backend::attend(const KvView& view, const Queries& queries, float* out, float* lse,
                       const AttendOptions& options) {
  AttendWorkspace work;
  return kvcodec::attend(view, queries, out, lse, options,
                         work.bytes(attend_workspace_bytes(view, queries)));
}

Backend& backend() { return *used; }

ScopedBackend::ScopedBackend(Backend& next) : before_(used) { used = &next; }
ScopedBackend::~ScopedBackend() { used = before_; }

}  // namespace kvcodec::golden
