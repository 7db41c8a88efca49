// Host side of attention on the device: checks, what a view needs, launches.
#include "kvcodec/cuda/attend.hpp"

#include <algorithm>
#include <optional>

#include "cuda/attend/call.hpp"
#include "cuda/attend/combine.cuh"
#include "cuda/attend/general/general.hpp"
#include "cuda/attend/launchers.hpp"
#include "cuda/core/check.hpp"
#include "kvcodec/codec/qjl.hpp"

namespace kvcodec::cuda {
namespace {

constexpr const char* kWhat = "attend on the device";

/// The kind of code that reads a format; none if no kernel does.
std::optional<CodeKind> kind_of(const TileFormat& f) {
  using Level = TileFormat::Level;
  switch (f.level) {
    case Level::table:
      if (f.bits == 1)
        return f.table[0] == -f.table[1] ? std::optional(CodeKind::table1) : std::nullopt;
      return f.bits == 2 ? CodeKind::table2 : CodeKind::table4;
    case Level::int8:
    case Level::uint8: return CodeKind::byte;
    case Level::e4m3: return CodeKind::e4m3;
    case Level::f16: return CodeKind::f16;
    case Level::bf16:
    case Level::f32: return std::nullopt;
  }
  return std::nullopt;
}

using Launcher = cudaError_t (*)(const AttendParams&, bool dry, cudaStream_t);

struct LauncherEntry {
  CodeKind k;
  CodeKind v;
  Launcher launch;
};

/// The pairs that have an instance file.
constexpr LauncherEntry kLaunchers[] = {
    {CodeKind::table4, CodeKind::table4, launch_tiles<CodeKind::table4, CodeKind::table4>},
    {CodeKind::byte, CodeKind::byte, launch_tiles<CodeKind::byte, CodeKind::byte>},
    {CodeKind::byte, CodeKind::table4, launch_tiles<CodeKind::byte, CodeKind::table4>},
    {CodeKind::f16, CodeKind::f16, launch_tiles<CodeKind::f16, CodeKind::f16>},
    {CodeKind::e4m3, CodeKind::e4m3, launch_tiles<CodeKind::e4m3, CodeKind::e4m3>},
    {CodeKind::table2, CodeKind::table2, launch_tiles<CodeKind::table2, CodeKind::table2>},
    {CodeKind::table1, CodeKind::table4, launch_tiles<CodeKind::table1, CodeKind::table4>},
    {CodeKind::table1, CodeKind::table2, launch_tiles<CodeKind::table1, CodeKind::table2>},
};

Launcher launcher_for(CodeKind k, CodeKind v) {
  for (const LauncherEntry& e : kLaunchers) {
    if (e.k == k && e.v == v) return e.launch;
  }
  return nullptr;
}

/// Codes of a key row between two places where a group may end.
int codes_per_unit(CodeKind kind) {
  return kind == CodeKind::table1   ? 128
         : kind == CodeKind::table2 ? 64
         : kind == CodeKind::table4 ? 32
                                    : 16;
}

/// How a view is served, or why it is not.
struct Choice {
  AttendPath path = AttendPath::none;
  TileFormat k;
  TileFormat v;
  Launcher launch = nullptr;  ///< of the fused path
  std::string why;
};

/// Formats and launcher of the fused path; false if it has none for the view.
bool choose_fused(const KvView& view, Choice& c) {
  const int head_dim = view.shape.head_dim;
  if (view.k_codecs != nullptr || view.v_codecs != nullptr) return false;
  const auto describe = [&](const AnyCodec& codec, Side side, TileFormat& f) {
    return codec.tile_format(side, head_dim, f) && f.one_plane() && kind_of(f).has_value();
  };
  if (!describe(view.k_codec, Side::key, c.k) || !describe(view.v_codec, Side::value, c.v)) {
    return false;
  }
  const CodeKind k_kind = *kind_of(c.k);
  const CodeKind v_kind = *kind_of(c.v);
  if (c.k.group > 0 && c.k.group < c.k.width && c.k.group % codes_per_unit(k_kind) != 0) {
    return false;
  }
  if (c.k.has_zeros() && (c.k.width + c.k.group - 1) / c.k.group > kMaxZeroGroups) return false;
  if (c.v.group > 0 && c.v.group < head_dim && c.v.group % 32 != 0) return false;
  if (view.k_codec.query_width(head_dim) != head_dim && view.k_codec.as<Qjl>() == nullptr) {
    return false;
  }
  c.launch = launcher_for(k_kind, v_kind);
  AttendParams p{};
  p.view = view;
  p.k = c.k;
  p.v = c.v;
  return c.launch != nullptr && c.launch(p, true, nullptr) == cudaSuccess;
}

Choice choose(const KvView& view) {
  Choice c;
  if (!view.k_codec || !view.v_codec) {
    c.why = std::string(kWhat) + ": the view has no codecs";
    return c;
  }
  if (choose_fused(view, c)) {
    c.path = AttendPath::fused;
    return c;
  }
  c.launch = nullptr;
  c.k = general_format(view.shape.head_dim);
  c.v = c.k;
  const std::string why = why_not_general(view);
  if (why.empty()) c.path = AttendPath::general;
  else c.why = std::string(kWhat) + ": " + why;
  return c;
}

/// Formats and geometry of a call.
AttendParams plan(const KvView& view, const Choice& choice, const AttendLimits& limits) {
  // Fused kernels for more than 8 query rows exist for the usual head sizes and without zeros
  // (launch.cuh).
  const bool usual = view.shape.head_dim == 64 || view.shape.head_dim == 128;
  const bool wide = choice.path == AttendPath::general ||
                    (usual && !choice.k.has_zeros() && !choice.v.has_zeros());
  AttendParams p = plan_call(view, limits, wide ? kUnitRows : kUnitRows / 2);
  p.k = choice.k;
  p.v = choice.v;
  return p;
}

std::size_t state_bytes(const AttendParams& p) {
  const std::int64_t n_units = std::int64_t{p.view.n_seq} * p.view.shape.n_kv_heads * p.n_units;
  return static_cast<std::size_t>((n_units * p.n_splits() * p.state_floats() * 4 + 255) / 256 *
                                  256);
}

/// The parts of the workspace: states, sketches, logits.
struct Workspace {
  Workspace(const AttendParams& p, const Choice& choice, const AttendLimits& limits)
      : sketch(state_bytes(p)),
        logits(sketch + sketch_bytes(p)),
        bytes(logits + (choice.path == AttendPath::general ? plan_waves(p, limits).bytes : 0)) {}

  std::size_t sketch;  ///< where the part begins
  std::size_t logits;
  std::size_t bytes;
};

}  // namespace

AttendPath attend_path(const KvView& view) { return choose(view).path; }

std::string why_unsupported(const KvView& view) { return choose(view).why; }

std::size_t attend_workspace_bytes(const KvView& view, const AttendLimits& limits) {
  check_sizes(kWhat, view, limits);
  const Choice choice = choose(view);
  if (choice.path == AttendPath::none) throw unsupported(choice.why);
  return Workspace(plan(view, choice, limits), choice, limits).bytes;
}

void attend(const KvView& view, const DeviceQueries& queries, const DeviceOutput& output,
            const AttendOptions& options, const AttendLimits& limits, void* workspace,
            std::size_t workspace_bytes, Stream stream) {
  check_sizes(kWhat, view, limits);
  const Choice choice = choose(view);
  if (choice.path == AttendPath::none) throw unsupported(choice.why);
  if (view.n_seq == 0) return;
  check_call(kWhat, view, queries, options);
  if (output.out == nullptr) {
    throw invalid_argument(bad_value(kWhat, "out", "null", "a device pointer"));
  }
  AttendParams p = plan(view, choice, limits);
  const Workspace parts(p, choice, limits);
  check_workspace(kWhat, workspace, workspace_bytes, parts.bytes);
  const auto part = [&](std::size_t offset) {
    return reinterpret_cast<float*>(static_cast<std::byte*>(workspace) + offset);
  };
  set_call(p, queries, options);
  p.out_dtype = output.out_dtype;
  p.states = part(0);
  p.out = output.out;
  p.lse = output.lse;
  float* sketch = sketch_bytes(p) > 0 ? part(parts.sketch) : nullptr;
  launch_sketch(kWhat, p, sketch, stream);
  if (choice.path == AttendPath::fused) {
    p.one_table =
        *kind_of(p.k) == *kind_of(p.v) && std::equal(p.k.table, p.k.table + 16, p.v.table);
    p.k.scale *= level_factor(p.k);
    p.v.scale *= level_factor(p.v);
    p.q_prepared = sketch;
    cuda::check(choice.launch(p, false, stream), kWhat);
  } else {
    launch_general(p, limits, sketch, part(parts.logits), stream);
  }
  cuda::check(launch(combine_kernel, {grid_of_rows(p), dim3(kAttendThreads), 0, stream}, p),
              "attend on the device, merging splits");
}

}  // namespace kvcodec::cuda
