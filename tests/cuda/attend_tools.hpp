// Attention on the device over a view on the host, beside the float64 reference over the rows that the
// view decodes to.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kvcodec/cuda/attend.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec::test {

/// Bounds of the relative L2 error of the outputs, and of the error of an lse.
struct AttendTolerance {
  double out;
  double lse;
};
/// Queries and weights are f16: 2^-11 of rounding in each product, averaged over many.
inline constexpr AttendTolerance kFused{1.5e-3, 2e-3};
/// All is f32.
inline constexpr AttendTolerance kGeneral{2e-5, 2e-5};

/// Values as `type`, and back.
inline std::vector<std::byte> stored(const std::vector<float>& x, DType type) {
  std::vector<std::byte> bytes(x.size() * dtype_bytes(type));
  for (std::size_t i = 0; i < x.size(); ++i) {
    store_value(type, bytes.data(), static_cast<std::int64_t>(i), x[i]);
  }
  return bytes;
}
inline std::vector<float> loaded(const std::vector<std::byte>& bytes, DType type) {
  std::vector<float> x(bytes.size() / dtype_bytes(type));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = load_value(type, bytes.data(), static_cast<std::int64_t>(i));
  }
  return x;
}

/// What a view needs.
inline cuda::AttendLimits limits_of(const KvView& host, const QueryBatch& batch) {
  cuda::AttendLimits limits;
  for (std::int64_t s = 0; s < host.n_seq; ++s) {
    const auto n =
        batch.indptr[static_cast<std::size_t>(s) + 1] - batch.indptr[static_cast<std::size_t>(s)];
    limits.max_tokens_per_seq = std::max(limits.max_tokens_per_seq, static_cast<std::int32_t>(n));
    for (std::int64_t i = 0; i < host.n_streams_per_seq(); ++i) {
      limits.max_encoded_rows =
          std::max(limits.max_encoded_rows, host.encoded_rows(s * host.n_streams_per_seq() + i));
    }
    for (std::int64_t h = s * host.shape.n_kv_heads; h < (s + 1) * host.shape.n_kv_heads; ++h) {
      std::int64_t raw = batch.k_new.empty() ? 0 : n;
      for (const RawRows* rows : {host.sinks, host.kept, host.recent}) {
        raw += rows == nullptr ? 0 : rows[h].n_rows;
      }
      limits.max_raw_rows = std::max(limits.max_raw_rows, raw);
    }
  }
  return limits;
}

/// Runs attend on the device with guarded memory of exactly the size that was asked for. Queries and
/// outputs are stored as `type`.
inline Result attend_within(const KvView& host, const QueryBatch& batch,
                            const AttendOptions& options, const cuda::AttendLimits& limits,
                            DType type = DType::f32) {
  const cuda::DeviceView device(host);
  const auto q = on_device(stored(batch.q, type));
  const auto indptr = on_device(batch.indptr);
  const auto pos = on_device(batch.pos);
  const auto k_new = on_device(batch.k_new);
  const auto v_new = on_device(batch.v_new);
  const std::vector<float> sinks(
      options.sink_logits,
      options.sink_logits + (options.sink_logits == nullptr ? 0 : host.shape.n_q_heads));
  const auto sink_logits = on_device(sinks);
  AttendOptions on_device = options;
  if (options.sink_logits != nullptr) on_device.sink_logits = sink_logits.data();
  const auto n_rows = static_cast<std::size_t>(batch.n_tokens() * host.shape.n_q_heads);
  GuardedBuffer<> out(n_rows * static_cast<std::size_t>(host.shape.head_dim) * dtype_bytes(type));
  GuardedBuffer<float> lse(n_rows);
  GuardedBuffer<std::byte> workspace(cuda::attend_workspace_bytes(device.view(), limits) + 256);
  auto* aligned = reinterpret_cast<std::byte*>(
      (reinterpret_cast<std::uintptr_t>(workspace.data()) + 255) / 256 * 256);
  cuda::attend(
      device.view(),
      {q.data(), type, indptr.data(), pos.data(), batch.k_new.empty() ? nullptr : k_new.data(),
       batch.v_new.empty() ? nullptr : v_new.data()},
      {out.data(), type, lse.data()}, on_device, limits, aligned,
      cuda::attend_workspace_bytes(device.view(), limits));
  cuda::synchronize(nullptr);
  static_cast<void>(workspace.to_host());
  return {loaded(out.to_host(), type), lse.to_host()};
}

inline Result attend_on_device(const KvView& host, const QueryBatch& batch,
                               const AttendOptions& options, std::int32_t split_rows = 256,
                               std::size_t logits_bytes = 0, DType type = DType::f32) {
  cuda::AttendLimits limits = limits_of(host, batch);
  limits.split_rows = split_rows;
  limits.logits_bytes = logits_bytes;
  return attend_within(host, batch, options, limits, type);
}

inline void expect_near(const Result& got, const Expected& want, const std::string& what,
                        const AttendTolerance& tolerance = kFused) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got.out[i])) << what << ", value " << i;
    const double e = static_cast<double>(got.out[i]) - want.out[i];
    error += e * e;
    norm += want.out[i] * want.out[i];
  }
  EXPECT_LE(std::sqrt(error), tolerance.out * std::sqrt(norm)) << what << ", out";
  for (std::size_t i = 0; i < want.lse.size(); ++i) {
    if (std::isinf(want.lse[i])) EXPECT_EQ(static_cast<double>(got.lse[i]), want.lse[i]) << what;
    else
      EXPECT_NEAR(static_cast<double>(got.lse[i]), want.lse[i], tolerance.lse)
          << what << ", lse " << i;
  }
}

/// Sequences of these lengths, cached as a plan says.
struct Cached {
  Cached(const std::string& plan, const HeadShape& shape, const std::vector<std::int64_t>& lengths,
         std::uint64_t seed = 1)
      : cache(make_cache_config(plan, shape, 1, 4096, 4)) {
    for (const std::int64_t n : lengths) {
      seqs.push_back(cache.open());
      const Tokens tokens(shape, n, seed++);
      EXPECT_EQ(append(cache, seqs.back(), 0, tokens, 0, n), Status::ok) << plan;
      last_pos.push_back(n - 1);
    }
    view = cache.view(0, seqs, buffers);
  }
  QueryBatch queries(const std::vector<std::int64_t>& counts) const {
    return make_queries(view.shape, counts, last_pos, 77);
  }

  Cache cache;
  std::vector<SeqId> seqs;
  std::vector<std::int64_t> last_pos;
  ViewBuffers buffers;
  KvView view;
};

}  // namespace kvcodec::test
