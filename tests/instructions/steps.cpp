// One step of attention per format on the AVX2 kernels, for a tool that counts instructions: everything
// between entry to and return from measured_step() is counted, once per format in the order of
// kFormats.
#include <cstdio>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "src/cpu/tile_kernels.hpp"

namespace kvcodec {

constexpr int kDim = 128;
constexpr int kQueries = 4;

struct alignas(64) Line {
  std::byte bytes[64];
};

struct StepMemory {
  AnyCodec codec;
  bool integers = false;
  std::vector<std::byte> k, v;  ///< a tile each
  std::vector<float> q, scores, m, l, acc;
  std::vector<Line> q_bytes;  ///< of KeyKernel::prepare
  std::optional<cpu::KeyKernel> score;
  std::optional<cpu::ValueKernel> add;
};

}  // namespace kvcodec

/// Scores, softmax and sum of one tile. External and not inlined: the tool knows it by its name.
extern "C" [[gnu::noinline]] void measured_step(kvcodec::StepMemory& s) {
  using namespace kvcodec;
  const cpu::Kernels& table = cpu::kernels();
  std::byte* bytes = s.integers ? s.q_bytes.data()->bytes : nullptr;
  if (s.integers) s.score->prepare(s.codec, s.q.data(), kQueries, bytes);
  cpu::Ahead ahead{s.k.data(), s.k.data() + s.k.size(), s.v.data(), s.v.data() + s.v.size()};
  ahead.pace = 2;
  (*s.score)(s.codec, s.k.data(), 0, s.q.data(), bytes, kQueries, ahead, s.scores.data());
  table.softmax_tile(kQueries, kDim, 0.088f, 0.0f, nullptr, ahead, s.scores.data(), s.m.data(),
                     s.l.data(), s.acc.data());
  (*s.add)(s.codec, s.v.data(), 0, s.scores.data(), kQueries, ahead, s.acc.data());
  ahead.finish_both();
}

namespace kvcodec {
namespace {

/// Codecs, in integers where that follows a comma.
const char* const kFormats[] = {"f16",           "int8",
                                "nqkv:g64",      "lm:b4",
                                "lm:b3",         "lm:b2",
                                "kivi:b2:g32",   "wkv:b4:g128",
                                "fp8",           "int8,integer",
                                "lm:b4,integer", "lm:b3,integer",
                                "lm:b2,integer", "kivi:b2:g32,integer"};

StepMemory make_memory(const std::string& format) {
  StepMemory s;
  const std::string spec = format.substr(0, format.find(','));
  s.integers = spec != format;
  s.codec = make_codec(spec).with_tables(kDim);
  s.q_bytes.resize(kQueries * (cpu::KeyKernel::bytes_per_query(s.codec, kDim) + 63) / 64);
  std::mt19937 random(1);
  const auto value = [&] { return static_cast<float>(random() % 2001) * 1e-3f - 1.0f; };
  std::vector<float> x(static_cast<std::size_t>(kTileRows * s.codec.head_span(kDim) * kDim));
  for (float& one : x) one = value();
  s.k.resize(s.codec.tile_bytes(kDim));
  s.v.resize(s.codec.tile_bytes(kDim));
  s.codec.encode_tile(Side::key, kDim, x.data(), s.k.data());
  s.codec.encode_tile(Side::value, kDim, x.data(), s.v.data());
  s.q.resize(kQueries * kDim);
  for (float& one : s.q) one = value();
  s.scores.resize(kQueries * kTileRows);
  s.m.assign(kQueries, -std::numeric_limits<float>::infinity());
  s.l.resize(kQueries);
  s.acc.resize(kQueries * kDim);
  s.score.emplace(cpu::kernels(), s.codec, kDim, false, s.integers);
  s.add.emplace(cpu::kernels(), s.codec, kDim, false, s.integers);
  return s;
}

}  // namespace
}  // namespace kvcodec

int main() {
  try {
    kvcodec::force_cpu_isa("avx2");
    std::vector<kvcodec::StepMemory> all;
    for (const char* spec : kvcodec::kFormats) all.push_back(kvcodec::make_memory(spec));
    for (kvcodec::StepMemory& s : all) measured_step(s);
    for (const char* spec : kvcodec::kFormats) std::printf("%s\n", spec);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "instruction_steps: %s\n", e.what());
    return 2;
  }
  return 0;
}
