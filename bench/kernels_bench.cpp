// CPU kernels: time per key of one KV head, per codec, instruction set and number of queries.
//
//   score/...  q . k of K tiles        add/...  w . v of V tiles        step/...  both and softmax
//   .../hot    tiles that fit in L2    .../dram  192 MiB of tiles, read once per iteration
//
// Counters: ns_per_key, bytes per second, and for dram the share of the read bandwidth that one
// thread reaches on this machine in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/codec/builtin.hpp"
#include "src/cpu/kernels.hpp"

namespace kvcodec {
namespace {

constexpr std::size_t kHotBytes = std::size_t{256} << 10;
constexpr std::size_t kDramBytes = std::size_t{192} << 20;

enum class Operation { score, add, step };

struct Case {
  std::string isa;
  AnyCodec codec;
  Operation operation;
  int head_dim;
  int n_q;
  bool hot;
};

struct FreeAligned {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{4096}); }
};
using Buffer = std::unique_ptr<std::byte[], FreeAligned>;

Buffer allocate(std::size_t bytes) {
  return Buffer(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{4096})));
}

/// Bytes per second of the best of several plain reads of a buffer larger than every cache.
double read_bandwidth() {
  static const double best = [] {
    const Buffer buffer = allocate(kDramBytes);
    std::memset(buffer.get(), 1, kDramBytes);
    double seconds = std::numeric_limits<double>::max();
    for (int round = 0; round < 7; ++round) {
      const auto start = std::chrono::steady_clock::now();
      std::uint64_t sum[8] = {};
      for (std::size_t at = 0; at < kDramBytes; at += sizeof(sum)) {
        std::uint64_t line[8];
        std::memcpy(line, buffer.get() + at, sizeof(line));
        for (int i = 0; i < 8; ++i) sum[i] += line[i];
      }
      benchmark::DoNotOptimize(sum);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      seconds = std::min(seconds, took.count());
    }
    return static_cast<double>(kDramBytes) / seconds;
  }();
  return best;
}

std::vector<float> gaussian(std::size_t n) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(engine);
  return x;
}

/// Pairs of a K tile and a V tile, or only the kind that the operation reads, one after the other.
struct Stream {
  Stream(const Case& c) : tile_bytes(c.codec.tile_bytes(c.head_dim)) {
    const std::size_t stride = (c.operation == Operation::step ? 2 : 1) * tile_bytes;
    n_tiles = std::max<std::size_t>((c.hot ? kHotBytes : kDramBytes) / stride, 1);
    data = allocate(n_tiles * stride);
    const std::size_t width = static_cast<std::size_t>(c.codec.head_span(c.head_dim) * c.head_dim);
    const std::vector<float> x = gaussian(kTileRows * width);
    if (c.operation != Operation::add) {
      c.codec.encode_tile(Side::key, c.head_dim, x.data(), data.get());
    }
    if (c.operation != Operation::score) {
      c.codec.encode_tile(Side::value, c.head_dim, x.data(), data.get() + stride - tile_bytes);
    }
    for (std::size_t i = 1; i < n_tiles; ++i) {
      std::memcpy(data.get() + i * stride, data.get(), stride);
    }
  }

  std::size_t tile_bytes;
  std::size_t n_tiles = 0;
  Buffer data;
};

void run(benchmark::State& state, const Case& c) {
  const std::string before = cpu_isa();
  force_cpu_isa(c.isa);
  const cpu::Kernels& table = cpu::kernels();
  const cpu::CodecKernels kernels = cpu::codec_kernels(table, c.codec);
  const Stream stream(c);
  const auto n_q = static_cast<std::size_t>(c.n_q);
  const auto head_dim = static_cast<std::size_t>(c.head_dim);
  const std::vector<float> q = gaussian(n_q * head_dim);
  std::vector<float> scores(n_q * kTileRows, 0.5f), acc(n_q * head_dim), l(n_q);
  std::vector<float> m(n_q, -std::numeric_limits<float>::infinity());
  for (auto _ : state) {
    const std::byte* tile = stream.data.get();
    for (std::size_t i = 0; i < stream.n_tiles; ++i) {
      if (c.operation != Operation::add) {
        kernels.score(c.codec.value(), c.head_dim, tile, 0, q.data(), c.n_q, scores.data());
        tile += stream.tile_bytes;
      }
      if (c.operation == Operation::step) {
        table.softmax_tile(c.n_q, c.head_dim, 0.088f, 0.0f, nullptr, scores.data(), m.data(),
                           l.data(), acc.data());
      }
      if (c.operation != Operation::score) {
        kernels.add(c.codec.value(), c.head_dim, tile, 0, scores.data(), c.n_q, acc.data());
        tile += stream.tile_bytes;
      }
    }
    benchmark::DoNotOptimize(acc.data());
    benchmark::ClobberMemory();
  }
  force_cpu_isa(before);

  using benchmark::Counter;
  const std::size_t tiles_per_key_group = c.operation == Operation::step ? 2 : 1;
  // A tile of several heads holds as many keys of one head as any other: count the head read.
  const auto span = static_cast<std::size_t>(c.codec.head_span(c.head_dim));
  const double keys = static_cast<double>(stream.n_tiles * kTileRows);
  const double bytes =
      static_cast<double>(stream.n_tiles * tiles_per_key_group * stream.tile_bytes / span);
  state.SetLabel(c.isa);
  state.counters["ns_per_key"] =
      Counter(1e-9 * keys, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.counters["keys"] = Counter(keys, Counter::kIsIterationInvariantRate);
  state.counters["bytes"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  if (!c.hot) {
    state.counters["read_share"] =
        Counter(bytes / read_bandwidth(), Counter::kIsIterationInvariantRate);
  }
}

void register_all() {
  std::vector<AnyCodec> codecs;
  BuiltinCodecs::for_each([&]<class C>() { codecs.push_back(C{}); });
  const char* names[] = {"score", "add", "step"};
  for (const Operation operation : {Operation::score, Operation::add, Operation::step}) {
    for (const AnyCodec& codec : codecs) {
      for (const int head_dim : {64, 128}) {
        for (const int n_q : {1, 4, 8}) {
          for (const std::string& isa : available_cpu_isas()) {
            for (const bool hot : {true, false}) {
              if (isa == "scalar" && !hot) continue;  // far from any memory limit
              const Case c = {isa, codec, operation, head_dim, n_q, hot};
              const std::string name = std::string(names[static_cast<int>(operation)]) + "/" +
                                       codec.name() + "/d" + std::to_string(head_dim) + "/q" +
                                       std::to_string(n_q) + "/" + isa + (hot ? "/hot" : "/dram");
              benchmark::RegisterBenchmark(name.c_str(),
                                           [c](benchmark::State& state) { run(state, c); });
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvcodec

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  kvcodec::register_all();
  benchmark::AddCustomContext("read bytes per second",
                              std::to_string(kvcodec::read_bandwidth() / 1e9) + "e9");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
