// CPU kernels: time per key of one KV head, per codec, instruction set and number of queries.
//
//   score/...  q . k of K tiles        add/...  w . v of V tiles        step/...  both and softmax
//   .../hot    tiles that fit in L2    .../dram  192 MiB of tiles in turn, 2 MiB an iteration
//
// Counters, all of the best iteration, because other work on the machine only ever adds time:
// ns_per_key, keys and bytes per second, and for dram read_share, bytes per second over what one
// thread reads on this machine in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bench/bandwidth.hpp"
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/page/page_memory.hpp"
#include "src/cpu/kernels.hpp"
#include "src/cpu/prefetch.hpp"
#include "src/cpu/tile_kernels.hpp"

namespace kvcodec {
namespace {

constexpr std::size_t kHotBytes = std::size_t{256} << 10;
constexpr std::size_t kDramBytes = std::size_t{192} << 20;
/// Bytes between two looks at the clock: short, so that the best is undisturbed.
constexpr std::size_t kWindowBytes = std::size_t{2} << 20;

enum class Operation { score, add, step };

struct Case {
  std::string isa;
  AnyCodec codec;
  Operation operation;
  int head_dim;
  int n_q;
  bool hot;
  bool integers;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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
  explicit Stream(const Case& c)
      : tile_bytes(c.codec.tile_bytes(c.head_dim)),
        stride((c.operation == Operation::step ? 2 : 1) * tile_bytes) {
    n_tiles = std::max<std::size_t>((c.hot ? kHotBytes : kDramBytes) / stride, 1);
    n_window = std::min(n_tiles, kWindowBytes / stride);
    data = allocate_page_memory(n_tiles * stride);
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
  std::size_t stride;
  std::size_t n_tiles = 0;
  std::size_t n_window = 0;  ///< tiles an iteration reads
  PageMemory data;
};

/// One case at work: the codec's kernels, or what attention does where there are none, a decoded tile
/// and products of plain rows.
class Attention {
 public:
  Attention(const Case& c, const cpu::Kernels& table)
      : case_(c),
        table_(table),
        score_(table, c.codec, c.head_dim, false, c.integers),
        add_(table, c.codec, c.head_dim, false, c.integers),
        width_(std::int64_t{c.codec.head_span(c.head_dim)} * c.head_dim),
        rows_(static_cast<std::size_t>(kTileRows * width_)),
        q_(gaussian(static_cast<std::size_t>(c.n_q * c.codec.query_width(c.head_dim)))),
        scores_(static_cast<std::size_t>(c.n_q * kTileRows), 0.5f),
        m_(static_cast<std::size_t>(c.n_q), -std::numeric_limits<float>::infinity()),
        l_(static_cast<std::size_t>(c.n_q)),
        acc_(static_cast<std::size_t>(c.n_q * c.head_dim)),
        bytes_(static_cast<std::size_t>(c.n_q) *
               (cpu::KeyKernel::bytes_per_query(c.codec, c.head_dim) + 64) / 64) {
    score_.prepare(c.codec, q_.data(), c.n_q, bytes());
  }

  /// Tiles `first` .. `first + n_window - 1` of the stream.
  void run(const Stream& stream, std::size_t first) {
    const std::byte* tile = stream.data.get() + first * stream.stride;
    const cpu::KernelUnit unit(table_, case_.n_q);
    for (std::size_t i = 0; i < stream.n_window; ++i) {
      if (case_.operation != Operation::add) {
        cpu::Ahead ahead = ahead_of(stream, tile);
        score(tile, ahead);
        ahead.finish();
        tile += stream.tile_bytes;
      }
      if (case_.operation == Operation::step) {
        cpu::Ahead nothing;
        table_.softmax_tile(case_.n_q, case_.head_dim, 0.088f, 0.0f, nullptr, nothing,
                            scores_.data(), m_.data(), l_.data(), acc_.data());
      }
      if (case_.operation != Operation::score) {
        cpu::Ahead ahead = ahead_of(stream, tile);
        add(tile, ahead);
        ahead.finish();
        tile += stream.tile_bytes;
      }
    }
  }

 private:
  std::byte* bytes() { return bytes_.data()->bytes; }

  /// The next tile, unless it is there: fetching it again would put the tile at work out of small caches.
  cpu::Ahead ahead_of(const Stream& stream, const std::byte* tile) const {
    if (case_.hot) return {};
    const std::byte* next = tile + stream.stride;
    cpu::Ahead ahead;
    ahead.at = next;
    ahead.end = next + stream.tile_bytes;
    ahead.pace = 1;
    return ahead;
  }

  void score(const std::byte* tile, cpu::Ahead& ahead) {
    const int head_dim = case_.head_dim;
    if (score_) {
      score_(case_.codec, tile, 0, q_.data(), bytes(), case_.n_q, ahead, scores_.data());
      return;
    }
    case_.codec.decode_tile(Side::key, head_dim, tile, rows_.data());
    table_.score_rows[static_cast<int>(DType::f32)](head_dim, rows_.data(), width_, kTileRows,
                                                    q_.data(), case_.n_q, scores_.data());
  }

  void add(const std::byte* tile, cpu::Ahead& ahead) {
    const int head_dim = case_.head_dim;
    if (add_) {
      add_(case_.codec, tile, 0, scores_.data(), case_.n_q, ahead, acc_.data());
      return;
    }
    case_.codec.decode_tile(Side::value, head_dim, tile, rows_.data());
    table_.add_rows[static_cast<int>(DType::f32)](head_dim, rows_.data(), width_, kTileRows,
                                                  scores_.data(), case_.n_q, acc_.data());
  }

  const Case& case_;
  const cpu::Kernels& table_;
  cpu::KeyKernel score_;
  cpu::ValueKernel add_;
  std::int64_t width_;  ///< values of one decoded row, all heads of the tile
  std::vector<float> rows_, q_, scores_, m_, l_, acc_;
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> bytes_;
};

void run(benchmark::State& state, const Case& c) {
  const std::string before = cpu_isa();
  force_cpu_isa(c.isa);
  Attention attention(c, cpu::kernels());
  const Stream stream(c);
  double best = std::numeric_limits<double>::max();
  std::size_t first = 0;
  for (auto _ : state) {
    const Clock::time_point start = Clock::now();
    attention.run(stream, first);
    benchmark::ClobberMemory();
    best = std::min(best, seconds_since(start));
    first += stream.n_window;
    if (first + stream.n_window > stream.n_tiles) first = 0;
  }
  force_cpu_isa(before);

  // A tile of several heads costs its share of bytes: one head is read.
  const auto span = static_cast<std::size_t>(c.codec.head_span(c.head_dim));
  const auto keys = static_cast<double>(stream.n_window * kTileRows);
  const auto bytes = static_cast<double>(stream.n_window * stream.stride / span);
  state.SetLabel(c.isa);
  state.counters["ns_per_key"] = 1e9 * best / keys;
  state.counters["keys/s"] = keys / best;
  state.counters["bytes/s"] = bytes / best;
  if (!c.hot) state.counters["read_share"] = bytes / best / bench::read_bandwidth();
}

/// Whether a kernel in integers takes part.
bool in_integers(const Case& c) {
  const std::string before = cpu_isa();
  force_cpu_isa(c.isa);
  const bool key =
      c.operation != Operation::add && attends_in_integers(c.codec, Side::key, c.head_dim);
  const bool value = c.operation != Operation::score && !c.codec.key_only() &&
                     attends_in_integers(c.codec, Side::value, c.head_dim);
  force_cpu_isa(before);
  return key || value;
}

void register_all() {
  std::vector<AnyCodec> codecs;
  BuiltinCodecs::for_each([&]<class C>() { codecs.push_back(C{}); });
  for (const char* spec : {"fp8:row", "wkv:b2:g32", "wkv:b3:g128", "wkv:b8:g128", "kivi:b4:g64",
                           "lm:b3", "lm:b2", "lm:b1", "rabitq:b3", "rabitq:b1", "qjl:m256:o8",
                           "qjl:m256:o8:exact", "qjl:m256:o8:fixed", "nqfit:g32"}) {
    codecs.push_back(make_codec(spec));
  }
  const char* names[] = {"score", "add", "step"};
  for (const Operation operation : {Operation::score, Operation::add, Operation::step}) {
    for (const AnyCodec& codec : codecs) {
      for (const int head_dim : {64, 128}) {
        for (const int n_q : {1, 4, 8}) {
          for (const std::string& isa : available_cpu_isas()) {
            for (const bool hot : {true, false}) {
              for (const bool integers : {false, true}) {
                if (isa == "scalar" && !hot) continue;  // far from any memory limit
                if (!codec.supports(head_dim)) continue;
                if (codec.key_only() && operation != Operation::score) continue;
                const Case c = {isa,     codec.with_tables(head_dim), operation, head_dim, n_q, hot,
                                integers};
                if (integers && !in_integers(c)) continue;
                const std::string name = std::string(names[static_cast<int>(operation)]) + "/" +
                                         codec.name() + "/d" + std::to_string(head_dim) + "/q" +
                                         std::to_string(n_q) + "/" + isa +
                                         (integers ? "/integer" : "") + (hot ? "/hot" : "/dram");
                benchmark::RegisterBenchmark(name.c_str(),
                                             [c](benchmark::State& state) { run(state, c); });
              }
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
  benchmark::AddCustomContext("read_GB_per_s",
                              std::to_string(kvcodec::bench::read_bandwidth() / 1e9));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
