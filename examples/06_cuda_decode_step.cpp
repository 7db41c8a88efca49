// Fills a cache on the host, goes on on a CUDA device: append and attention of decode steps are captured
// into a graph once and replayed. Without a device it says so and is content.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cuda/append.hpp"
#include "kvcodec/cuda/attend.hpp"
#include "kvcodec/plan/plan.hpp"

namespace {

using namespace kvcodec;

constexpr HeadShape kShape{4, 2, 64};
constexpr std::int64_t kMaxTokens = 512;
constexpr std::int32_t kSequences = 2;

std::vector<float> random_values(std::int64_t n_tokens, std::int32_t n_heads) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n_tokens * n_heads * kShape.head_dim));
  for (float& value : x) value = normal(random);
  return x;
}

bool good(cudaError_t status, const char* call) {
  if (status != cudaSuccess) std::printf("%s: %s\n", call, cudaGetErrorString(status));
  return status == cudaSuccess;
}

/// What the model and the steps share: always at the same addresses.
struct StepBuffers {
  cuda::DeviceBuffer<float> k{kSequences * 2 * 64};
  cuda::DeviceBuffer<float> v{kSequences * 2 * 64};
  cuda::DeviceBuffer<float> q{kSequences * 4 * 64};
  cuda::DeviceBuffer<float> out{kSequences * 4 * 64};
  cuda::DeviceBuffer<std::int32_t> pos{kSequences};
  cuda::DeviceBuffer<std::int64_t> indptr{std::vector<std::int64_t>{0, 1, 2}};  // a token each
};

/// Relative error of the outputs against attention of the CPU over what the device holds.
double error_of(const cuda::HostView& fetched, const std::vector<float>& q, std::int64_t n_tokens,
                const std::vector<float>& out) {
  const std::int64_t indptr[] = {0, 1, 2};
  const std::int32_t last = static_cast<std::int32_t>(n_tokens - 1);
  const std::int32_t pos[] = {last, last};
  const Queries queries{q.data(), indptr, pos};
  std::vector<float> want(out.size());
  AttendWorkspace workspace;
  const auto bytes = workspace.bytes(attend_workspace_bytes(fetched.view(), queries));
  if (attend(fetched.view(), queries, want.data(), nullptr, {.sm_scale = 0.125f}, bytes) !=
      Status::ok) {
    return 1.0;
  }
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    error += std::pow(static_cast<double>(out[i]) - static_cast<double>(want[i]), 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(error / norm);
}

int decode(cudaStream_t stream) {
  const CacheConfig config =
      make_cache_config("kv=nqsym,recent=16,sink=4", kShape, 1, kMaxTokens, kSequences);
  Cache cache(config);
  std::vector<SeqId> seqs;
  std::int64_t n_tokens = 150;
  for (std::int32_t s = 0; s < kSequences; ++s) {
    seqs.push_back(cache.open());
    const std::vector<float> k = random_values(n_tokens, kShape.n_kv_heads);
    const std::vector<float> v = random_values(n_tokens, kShape.n_kv_heads);
    cache.append(seqs.back(), 0, dense_rows(k.data(), n_tokens, kShape.n_kv_heads, kShape.head_dim),
                 dense_rows(v.data(), n_tokens, kShape.n_kv_heads, kShape.head_dim));
  }
  StepBuffers b;

  // [window]
  cuda::DeviceWindow window(config, /*layer=*/0, stream);
  const std::int64_t pages_per_stream = window.window().pages_needed(kMaxTokens);
  const std::int64_t n_pages = kSequences * kShape.n_kv_heads * pages_per_stream;
  cuda::DevicePages pages(window.window(), pages_per_stream, n_pages, stream);
  ViewBuffers buffers;
  const KvView prompt = cache.view(0, seqs, buffers);  // of a Cache(config) on the host
  window.load(prompt, /*first_seq=*/0, stream);
  pages.load(prompt, /*first_seq=*/0, stream);
  // [/window]

  // [step]
  cuda::AppendRows rows;
  rows.k = dense_rows(b.k.data(), kSequences, kShape.n_kv_heads, kShape.head_dim);
  rows.v = dense_rows(b.v.data(), kSequences, kShape.n_kv_heads, kShape.head_dim);
  rows.indptr = b.indptr.data();  // on the device: which rows are whose
  rows.max_tokens_per_seq = 1;
  rows.pos = b.pos.data();                         // filled in; attention masks by it
  const KvView view = window.view(pages.table());  // stays valid while the sequences grow
  cuda::AttendLimits limits;
  limits.max_encoded_rows = window.window().encoded_rows(kMaxTokens);
  limits.max_raw_rows = window.window().max_raw_rows();
  cuda::DeviceBuffer<std::byte> workspace(cuda::attend_workspace_bytes(view, limits));

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t step = nullptr;
  if (!good(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture")) return 1;
  cuda::append_rows(window.window(), pages.table(), rows, stream);
  cuda::attend(view, {b.q.data(), DType::f32, b.indptr.data(), b.pos.data()},
               {b.out.data(), DType::f32}, {.sm_scale = 0.125f}, limits, workspace.data(),
               workspace.bytes(), stream);
  if (!good(cudaStreamEndCapture(stream, &graph), "end of capture")) return 1;
  if (!good(cudaGraphInstantiate(&step, graph, 0), "instantiate")) return 1;
  // [/step]

  double worst = 0.0;
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> q = random_values(kSequences, kShape.n_q_heads);
    b.k.upload(random_values(kSequences, kShape.n_kv_heads), stream);
    b.v.upload(random_values(kSequences, kShape.n_kv_heads), stream);
    b.q.upload(q, stream);
    // [loop]
    ++n_tokens;
    for (std::int32_t s = 0; s < kSequences; ++s) {  // a small copy, every 64 tokens
      pages.reserve(s, window.window().pages_needed(n_tokens), stream);
    }
    if (!good(cudaGraphLaunch(step, stream), "launch")) return 1;
    // [/loop]
    if (i % 20 != 19) continue;
    const cuda::HostView fetched(view, config.layers[0].k.codec, config.layers[0].v.codec, stream);
    worst = std::fmax(worst, error_of(fetched, q, n_tokens, b.out.to_host(stream)));
  }
  for (const std::uint32_t status : window.status(stream)) {
    if (status != cuda::kWindowOk) return 1;
  }
  std::printf("100 steps to %lld tokens, relative error against the CPU %.1e\n",
              static_cast<long long>(n_tokens), worst);
  static_cast<void>(cudaGraphExecDestroy(step));
  static_cast<void>(cudaGraphDestroy(graph));
  return worst < 2e-3 ? 0 : 1;
}

}  // namespace

int main() {
  if (cuda::device_count() == 0) {
    std::printf("no CUDA device\n");
    return 0;
  }
  std::printf("%s\n", cuda::describe_device(0).name.c_str());
  cudaStream_t stream = nullptr;
  if (!good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream")) return 1;
  const int result = decode(stream);
  static_cast<void>(cudaStreamDestroy(stream));
  return result;
}
