// Decode steps on the device: append and attention captured into a graph once and replayed, while the
// sequences grow and fill tiles.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "kvcodec/plan/plan.hpp"
#include "tests/cuda/append_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Twins;

#define EXPECT_CUDA(call) EXPECT_EQ(call, cudaSuccess)

/// A stream, and what was captured of it.
class Graph {
 public:
  Graph() { EXPECT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Graph() {
    if (instance_ != nullptr) {
      EXPECT_CUDA(cudaGraphExecDestroy(instance_));
    }
    EXPECT_CUDA(cudaStreamDestroy(stream_));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  cuda::Stream stream() const { return stream_; }
  /// Returns the number of nodes.
  template <class F>
  std::size_t capture(const F& work) {
    EXPECT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
    work();
    cudaGraph_t graph = nullptr;
    EXPECT_CUDA(cudaStreamEndCapture(stream_, &graph));
    std::size_t n = 0;
    EXPECT_CUDA(cudaGraphGetNodes(graph, nullptr, &n));
    EXPECT_CUDA(cudaGraphInstantiate(&instance_, graph, 0));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    return n;
  }
  void launch() {
    EXPECT_CUDA(cudaGraphLaunch(instance_, stream_));
    cuda::synchronize(stream_);
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t instance_ = nullptr;
};

/// Everything that a step of one token per sequence reads and writes, at addresses that stay.
class Step {
 public:
  Step(Twins& twins, std::int64_t max_tokens) : twins_(twins) {
    const HeadShape& shape = twins.cache().config().shape;
    const std::size_t n = twins.n_seq();
    const auto q_width = static_cast<std::size_t>(shape.n_q_heads * shape.head_dim);
    k_ = cuda::DeviceBuffer<float>(n * static_cast<std::size_t>(width()));
    v_ = cuda::DeviceBuffer<float>(k_.size());
    q_ = cuda::DeviceBuffer<float>(n * q_width);
    out_ = cuda::DeviceBuffer<float>(n * q_width);
    indptr_ = cuda::DeviceBuffer<std::int64_t>(n + 1);
    pos_ = cuda::DeviceBuffer<std::int32_t>(n);
    const cuda::LayerWindow& window = twins.window().window();
    limits_.max_encoded_rows = window.encoded_rows(max_tokens);
    limits_.max_raw_rows = window.max_raw_rows();
    limits_.split_rows = 256;
    workspace_ =
        cuda::DeviceBuffer<std::byte>(cuda::attend_workspace_bytes(twins.device_view(), limits_));
  }

  void run(cuda::Stream stream) {
    const HeadShape& shape = twins_.cache().config().shape;
    const auto n = static_cast<std::int64_t>(twins_.n_seq());
    cuda::AppendRows rows;
    rows.k = dense_rows(k_.data(), n, shape.n_kv_heads, shape.head_dim);
    rows.v = dense_rows(v_.data(), n, shape.n_kv_heads, shape.head_dim);
    rows.indptr = indptr_.data();
    rows.pos = pos_.data();
    cuda::append_rows(twins_.window().window(), twins_.pages().table(), rows, stream);
    cuda::attend(twins_.device_view(), {q_.data(), DType::f32, indptr_.data(), pos_.data()},
                 {out_.data(), DType::f32, nullptr}, test::default_options(shape.head_dim), limits_,
                 workspace_.data(), workspace_.bytes(), stream);
  }

  /// The next token of every sequence for which takes[s] is set, on both sides, and its queries.
  void feed(const std::vector<bool>& takes, std::uint64_t seed) {
    std::vector<float> k;
    std::vector<float> v;
    std::vector<std::int64_t> indptr = {0};
    std::vector<std::int64_t> counts;
    std::vector<std::int64_t> last_pos;
    for (std::size_t s = 0; s < takes.size(); ++s) {
      const auto at = static_cast<std::ptrdiff_t>(twins_.length(s) * width());
      const test::Tokens& tokens = twins_.tokens()[s];
      counts.push_back(takes[s] ? 1 : 0);
      indptr.push_back(indptr.back() + counts.back());
      if (takes[s]) {
        k.insert(k.end(), tokens.k.begin() + at, tokens.k.begin() + at + width());
        v.insert(v.end(), tokens.v.begin() + at, tokens.v.begin() + at + width());
        EXPECT_EQ(append(twins_.cache(), twins_.seq(s), 0, tokens, twins_.length(s), 1),
                  Status::ok);
      }
      last_pos.push_back(twins_.length(s) - 1);
    }
    batch_ = test::make_queries(twins_.cache().config().shape, counts, last_pos, seed);
    k_.upload(k);
    v_.upload(v);
    q_.upload(batch_.q);
    indptr_.upload(indptr);
    cuda::synchronize(nullptr);
  }

  /// The step's output is that of attention over a copy of the cache.
  void expect_output(const std::string& what) {
    ViewBuffers buffers;
    const cuda::DeviceView copy(twins_.host_view(buffers));
    const test::Result want = test::attend_over(copy.view(), batch_, limits_);
    std::vector<float> got = out_.to_host();
    got.resize(want.out.size());
    ASSERT_EQ(test::bits_of(got), test::bits_of(want.out)) << what;
  }

 private:
  std::int64_t width() const { return twins_.tokens()[0].width(); }

  Twins& twins_;
  cuda::DeviceBuffer<float> k_, v_, q_, out_;
  cuda::DeviceBuffer<std::int64_t> indptr_;
  cuda::DeviceBuffer<std::int32_t> pos_;
  cuda::DeviceBuffer<std::byte> workspace_;
  cuda::AttendLimits limits_;
  test::QueryBatch batch_;
};

std::string name_of(const ::testing::TestParamInfo<const char*>& info) {
  return test::test_name(info.param);
}

class DecodeGraph : public test::OnDevice<::testing::TestWithParam<const char*>> {};

// 70 steps after prompts of different lengths, pages given to a sequence only just before it needs them; a
// sequence pauses for a while.
TEST_P(DecodeGraph, StepsAreThoseOfACache) {
  Twins twins(make_cache_config(GetParam(), {4, 2, 64}, 1, 1024, 3), 512);
  twins.reserve({40, 130, 0});
  twins.append<float>({40, 130, 0});
  Step step(twins, 512);
  Graph graph;
  const std::size_t n_nodes = graph.capture([&] { step.run(graph.stream()); });
  const bool one_codec = std::string(GetParam()).starts_with("kv=");
  EXPECT_EQ(n_nodes, one_codec ? 5u : 6u);  // plan, encode, store; attend, merge
  for (int i = 0; i < 70; ++i) {
    const std::vector<bool> takes = {true, i < 10 || i > 30, true};
    twins.reserve({1, takes[1] ? 1 : 0, 1});
    step.feed(takes, static_cast<std::uint64_t>(i));
    graph.launch();
    if (i % 7 != 0 && i < 60) continue;
    step.expect_output("step " + std::to_string(i));
    twins.expect_equal("step " + std::to_string(i));
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Plans, DecodeGraph,
                         ::testing::Values("kv=nqsym,recent=8,sink=4", "kv=int8,recent=0,page=128",
                                           "k=hadamard+lm:b4,v=kivi:b4:g32,recent=1,flush=128"),
                         name_of);

}  // namespace
}  // namespace kvcodec
