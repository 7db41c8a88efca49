#include "src/bench/cpu_bench.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "src/bench/read_stream.hpp"
#include "src/bench/rounds.hpp"
#if defined(KVCODEC_WITH_PEERS)
#include "bench/peers/peer.hpp"
#endif

namespace kvcodec::bench {
namespace {

constexpr int kHeadDim = 128;
constexpr std::size_t kReadStep = std::size_t{64} << 20;

/// Measures all formats in one shape with every number of threads.
class ShapeRun {
 public:
  ShapeRun(const CpuBenchOptions& options, const Shape& shape, CpuReport& report)
      : options_(options), shape_(shape), report_(report) {}

  void add(const Formats& formats, ReadStream& stream) {
    const std::vector<float> q = gaussian_values(
        static_cast<std::size_t>(shape_.n_seq * shape_.n_q_heads() * shape_.head_dim), 13);
    // All of f32, then all in integers: what shares pages with another comes long after it.
    for (const Arithmetic arithmetic : {Arithmetic::f32, Arithmetic::integer}) {
      for (const auto& [name, pages] : formats.pages) {
        if (!has_arithmetic(*pages, arithmetic)) continue;
        entries_.push_back(make_entry(name, *pages, formats.rows_of(name), shape_, arithmetic, q));
      }
    }
    all_.push_back(&stream);
    for (const Entry& e : entries_) all_.push_back(e.attention.get());
#if defined(KVCODEC_WITH_PEERS)
    for (const std::string& name : peer_formats()) {
      peers_.push_back({name, make_peer(name, shape_, formats.rows, q, report_.rotated_bytes)});
      all_.push_back(peers_.back().second.get());
    }
#endif
  }

  void run(int n_threads) {
    ThreadPool pool(n_threads);
    const auto times = measure(all_, pool.executor(), options_.seconds);
    const double read_bytes = all_[0]->bytes();
    for (const double t : times[0]) reads_[n_threads].push_back(read_bytes / t);
    std::size_t f16 = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].row.format == "f16") f16 = i + 1;
    }
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      CpuRow row = entries_[i].row;
      const std::vector<double>& mine = times[i + 1];
      row.n_threads = n_threads;
      row.n_rounds = static_cast<int>(mine.size());
      row.ms = 1e3 * median(mine);
      row.share_of_read_bw = row.bytes / read_bytes * median_ratio(times[0], mine);
      row.ratio_to_f16 =
          f16 == 0 ? std::numeric_limits<double>::quiet_NaN() : median_ratio(times[f16], mine);
      for (std::size_t p = 0; p < peers_.size(); ++p) {
        row.vs_peer[peers_[p].first] = median_ratio(times[1 + entries_.size() + p], mine);
      }
      report_.rows.push_back(std::move(row));
    }
  }

  const std::map<int, std::vector<double>>& reads() const { return reads_; }

 private:
  const CpuBenchOptions& options_;
  Shape shape_;
  CpuReport& report_;
  std::vector<Entry> entries_;
  std::vector<std::pair<std::string, std::unique_ptr<Participant>>> peers_;
  std::vector<Participant*> all_;
  std::map<int, std::vector<double>> reads_;
};

std::size_t n_peers() {
#if defined(KVCODEC_WITH_PEERS)
  return peer_formats().size();
#else
  return 0;
#endif
}

}  // namespace

std::vector<std::string> default_formats() {
  return {"f16",
          "bf16",
          "fp8",
          "int8",
          "nqkv:g64",
          "nqkv:g128",
          "lm:b4",
          "lm:b3",
          "lm:b2",
          "wkv:b4:g128",
          "kivi:b2:g32",
          "k=qjl:m256,v=nqkv:g64",
          "rabitq:b4",
          "kv=codebook:norope",
          "kv=nqkv:g64,policy=lagkv:l128:r0.5"};
}

CpuReport run_cpu_bench(const CpuBenchOptions& options, const Progress& progress) {
  check(options);
  const std::vector<std::string> names = formats_of(options);
  CpuReport report = new_report(options, names.size() + n_peers() + 1);
  const std::size_t rotated = report.rotated_bytes;
  ReadStream stream(rotated, kReadStep);
  const std::int64_t longest = *std::max_element(options.keys.begin(), options.keys.end());
  const int total = static_cast<int>(options.keys.size() * options.gqa.size());
  int done = 0;
  std::map<int, std::vector<double>> reads;
  for (const int n_kv_heads : {32, 8}) {
    std::optional<Formats> formats;
    for (const int gqa : options.gqa) {
      if ((gqa == 1) != (n_kv_heads == 32)) continue;
      if (!formats) {
        formats.emplace(names, kHeadDim, n_kv_heads, longest, 1, rotated, report);
      }
      for (const std::int64_t keys : options.keys) {
        const Shape shape{kHeadDim, n_kv_heads, gqa, keys, 1};
        progress(std::to_string(keys) + " keys, GQA " + std::to_string(gqa), done++, total);
        ShapeRun run(options, shape, report);
        run.add(*formats, stream);
        for (const int n : options.threads) run.run(n);
        for (const auto& [n, list] : run.reads()) {
          reads[n].insert(reads[n].end(), list.begin(), list.end());
        }
      }
    }
  }
  for (const auto& [n, list] : reads) report.read_bytes_per_s[n] = median(list);
  return report;
}

}  // namespace kvcodec::bench
