// Streams of several sequences for the device's policies, and what the CPU says of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kvcodec/cuda/policy.hpp"
#include "kvcodec/policy/builtin.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

/// How rows lie in memory: tokens outside heads or heads outside tokens, with gaps that break the
/// alignment of rows to 16 bytes or keep it.
enum class Layout { tokens_first, heads_first, odd_gaps };

/// Lengths of one sequence.
struct Lengths {
  std::int64_t n_rows = 0;
  std::int64_t n_ahead = 0;
  std::int64_t n_before = 0;
};

/// One side's rows [n_seq][n_kv_heads] of any lengths, on the host as floats and on the device as T.
class SideRows {
 public:
  SideRows() = default;
  template <class T>
  static SideRows make(const HeadShape& shape, const std::vector<std::vector<float>>& streams,
                       std::int64_t room, Layout layout, T) {
    SideRows side;
    const std::int64_t gap = layout == Layout::odd_gaps ? 3 : 0;
    const std::int64_t width = shape.head_dim + gap;
    const bool heads_first = layout == Layout::heads_first;
    side.token_stride = heads_first ? width : shape.n_kv_heads * width + gap;
    side.head_stride = heads_first ? width * room : width;
    side.seq_tokens = heads_first ? room * shape.n_kv_heads : room;
    const auto n_seq = static_cast<std::int64_t>(streams.size()) / shape.n_kv_heads;
    // 0xffff is a NaN in every type: what must not be read spoils what is computed of it.
    side.bytes.assign(
        static_cast<std::size_t>((n_seq * side.seq_tokens + 1) * side.token_stride) * sizeof(T),
        std::byte{0xff});
    for (std::size_t i = 0; i < streams.size(); ++i) {
      const auto seq = static_cast<std::int64_t>(i) / shape.n_kv_heads;
      const auto head = static_cast<std::int64_t>(i) % shape.n_kv_heads;
      std::vector<float> exact;
      for (std::size_t e = 0; e < streams[i].size(); ++e) {
        const auto row = static_cast<std::int64_t>(e) / shape.head_dim;
        const std::int64_t at = (seq * side.seq_tokens + row) * side.token_stride +
                                head * side.head_stride +
                                static_cast<std::int64_t>(e) % shape.head_dim;
        const T value = from_f32<T>(streams[i][e]);
        std::memcpy(side.bytes.data() + static_cast<std::size_t>(at) * sizeof(T), &value,
                    sizeof(T));
        exact.push_back(to_f32(value));
      }
      side.host.push_back(std::move(exact));
    }
    side.dtype = dtype_of<T>;
    side.device = on_device(side.bytes);
    return side;
  }
  AnyRows rows() const {
    AnyRows r;
    r.data = device.data();
    r.dtype = dtype;
    r.token_stride = token_stride;
    r.head_stride = head_stride;
    return r;
  }

  std::vector<std::vector<float>> host;  ///< per stream, as the device sees the values
  std::vector<std::byte> bytes;
  cuda::DeviceBuffer<std::byte> device;
  DType dtype = DType::f32;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t seq_tokens = 0;  ///< tokens from one sequence to the next
};

/// A layer's streams on both sides.
struct PolicyStreams {
  template <class T>
  PolicyStreams(const HeadShape& s, std::vector<Lengths> l, std::uint64_t seed, Input kind, T type,
                Layout layout = Layout::tokens_first)
      : shape(s), lengths(std::move(l)) {
    std::vector<std::vector<float>> keys;
    std::vector<std::vector<float>> values;
    std::int64_t room = 0;
    for (const Lengths& n : lengths) {
      room = std::max(room, n.n_before + n.n_rows + n.n_ahead);
      for (int head = 0; head < shape.n_kv_heads; ++head) {
        const std::int64_t rows = n.n_before + n.n_rows + n.n_ahead;
        keys.push_back(make_rows(kind, rows, shape.head_dim, ++seed));
        values.push_back(make_rows(kind, rows, shape.head_dim, ++seed));
      }
    }
    fill(keys, values, room, type, layout);
  }
  template <class T>
  PolicyStreams(const HeadShape& s, std::vector<Lengths> l,
                const std::vector<std::vector<float>>& keys,
                const std::vector<std::vector<float>>& values, T type)
      : shape(s), lengths(std::move(l)) {
    std::int64_t room = 0;
    for (const Lengths& n : lengths) room = std::max(room, n.n_before + n.n_rows + n.n_ahead);
    fill(keys, values, room, type, Layout::tokens_first);
  }

  cuda::JudgedRows judged() const {
    cuda::JudgedRows r;
    r.shape = shape;
    r.layer = layer;
    r.n_layers = n_layers;
    r.n_seq = static_cast<std::int32_t>(lengths.size());
    r.max_rows = max_rows;
    r.k = k.rows();
    r.v = v.rows();
    r.first = first.data();
    r.n_rows = n_rows.data();
    r.n_ahead = n_ahead.data();
    r.observed = observed.empty() ? nullptr : device_observed.data();
    return r;
  }
  /// What the CPU gets of stream i; observed rows are made dense in `dense`.
  PolicyRows on_host(std::size_t i, std::vector<float>& dense) const {
    const Lengths& n = lengths[i / heads()];
    PolicyRows r;
    r.head_dim = shape.head_dim;
    r.gqa_group = shape.gqa_group();
    r.layer = layer;
    r.n_layers = n_layers;
    r.n_rows = n.n_rows;
    r.n_ahead = n.n_ahead;
    r.k = k.host[i].data() + n.n_before * shape.head_dim;
    r.v = v.host[i].data() + n.n_before * shape.head_dim;
    if (observed.empty()) return r;
    dense.clear();
    for (int g = 0; g < shape.gqa_group(); ++g) {
      const auto from =
          observed.begin() + (static_cast<std::int64_t>(i) * shape.gqa_group() + g) * max_rows;
      dense.insert(dense.end(), from, from + n.n_rows);
    }
    r.observed = dense.data();
    return r;
  }
  /// Random attention of every query head.
  void observe_noise(std::uint64_t seed) {
    Random random(seed);
    observed.resize(lengths.size() * static_cast<std::size_t>(shape.n_q_heads * max_rows));
    for (float& x : observed) x = static_cast<float>(std::exp(2.0 * random.gauss()));
    device_observed = on_device(observed);
  }
  std::size_t heads() const { return static_cast<std::size_t>(shape.n_kv_heads); }
  std::size_t n_streams() const { return lengths.size() * heads(); }

  HeadShape shape;
  std::vector<Lengths> lengths;
  std::int32_t layer = 0;
  std::int32_t n_layers = 1;
  std::int64_t max_rows = 0;
  SideRows k;
  SideRows v;
  std::vector<float> observed;  ///< [n_seq, n_q_heads, max_rows]; may be empty
  cuda::DeviceBuffer<std::int64_t> first, n_rows, n_ahead, n_before;
  cuda::DeviceBuffer<float> device_observed;

 private:
  template <class T>
  void fill(const std::vector<std::vector<float>>& keys,
            const std::vector<std::vector<float>>& values, std::int64_t room, T type,
            Layout layout) {
    k = SideRows::make(shape, keys, room, layout, type);
    v = SideRows::make(shape, values, room, layout, type);
    std::vector<std::int64_t> at, judged_rows, ahead, before;
    for (const Lengths& n : lengths) {
      at.push_back(static_cast<std::int64_t>(at.size()) * k.seq_tokens + n.n_before);
      judged_rows.push_back(n.n_rows);
      ahead.push_back(n.n_ahead);
      before.push_back(n.n_before);
      max_rows = std::max(max_rows, n.n_rows);
    }
    max_rows += 5;  // room that nobody uses: strides and lengths differ
    first = on_device(at);
    n_rows = on_device(judged_rows);
    n_ahead = on_device(ahead);
    n_before = on_device(before);
  }
};

/// Working memory of exactly `bytes`, aligned as it must be; a test failure if what lies behind changes.
class WorkMemory {
 public:
  explicit WorkMemory(std::size_t bytes) : bytes_(bytes), memory_(bytes + 512) {
    memory_.fill(0xa5);
  }
  ~WorkMemory() {
    const std::vector<std::byte> all = memory_.to_host();
    const auto end = all.begin() + static_cast<std::ptrdiff_t>(offset() + bytes_);
    EXPECT_TRUE(std::all_of(end, all.end(), [](std::byte b) { return b == std::byte{0xa5}; }))
        << "written behind the working memory";
  }
  WorkMemory(const WorkMemory&) = delete;
  WorkMemory& operator=(const WorkMemory&) = delete;
  void* data() { return memory_.data() + offset(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t offset() const {
    return (256 - reinterpret_cast<std::uintptr_t>(memory_.data()) % 256) % 256;
  }

  std::size_t bytes_;
  cuda::DeviceBuffer<std::byte> memory_;
};

/// What score_rows() writes, [n_seq, score_heads, max_rows].
inline std::vector<double> device_scores(const AnyPolicy& policy, const PolicyStreams& streams) {
  const cuda::JudgedRows rows = streams.judged();
  WorkMemory work(cuda::score_workspace_bytes(policy, rows));
  GuardedBuffer<double> score(
      static_cast<std::size_t>(rows.n_seq * cuda::score_heads(policy, rows.shape) * rows.max_rows));
  cuda::score_rows(policy, rows, score.data(), work.data(), work.bytes());
  return score.to_host();
}

inline constexpr KeepMask kUnwritten = 0xa5a5;

/// What select_rows() writes, [n_seq, n_kv_heads, max_rows].
inline std::vector<KeepMask> device_masks(const AnyPolicy& policy, const PolicyStreams& streams,
                                          const cuda::ObservedQueries* queries = nullptr) {
  const cuda::JudgedRows rows = streams.judged();
  WorkMemory work(cuda::select_workspace_bytes(policy, rows, queries));
  GuardedBuffer<KeepMask> keep(
      static_cast<std::size_t>(rows.n_seq * rows.shape.n_kv_heads * rows.max_rows));
  cuda::select_rows(policy, rows, queries, keep.data(), work.data(), work.bytes());
  return keep.to_host();
}

/// Masks of the CPU's policy, in the same places; kUnwritten beyond n_rows.
inline std::vector<KeepMask> host_masks(const AnyPolicy& policy, const PolicyStreams& streams) {
  std::vector<KeepMask> all(streams.n_streams() * static_cast<std::size_t>(streams.max_rows),
                            kUnwritten);
  std::vector<float> dense;
  for (std::size_t i = 0; i < streams.n_streams(); ++i) {
    const PolicyRows rows = streams.on_host(i, dense);
    policy.select(rows, std::span(all).subspan(i * static_cast<std::size_t>(streams.max_rows),
                                               static_cast<std::size_t>(rows.n_rows)));
  }
  return all;
}

}  // namespace kvcodec::test
