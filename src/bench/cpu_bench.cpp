#include "src/bench/cpu_bench.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <thread>

#include "kvcodec/attend/cpu_isa.hpp"
#include "src/bench/pages.hpp"
#include "src/bench/read_stream.hpp"
#if defined(KVCODEC_WITH_PEERS)
#include "bench/peers/peer.hpp"
#endif

namespace kvcodec::bench {
namespace {

constexpr int kHeadDim = 128;
constexpr std::int64_t kUnique = 1024;
constexpr std::size_t kReadStep = std::size_t{64} << 20;
constexpr int kFewestRounds = 5;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> x) {
  if (x.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

/// Median of a / b, round by round.
double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratio;
  for (std::size_t i = 0; i < a.size(); ++i) ratio.push_back(a[i] / b[i]);
  return median(std::move(ratio));
}

/// Seconds of every participant in every round.
std::vector<std::vector<double>> measure(const std::vector<Participant*>& all,
                                         const Executor& executor, double seconds) {
  std::vector<std::vector<double>> times(all.size());
  for (Participant* p : all) p->step(executor);
  std::this_thread::sleep_for(std::chrono::duration<double>(all.back()->seconds_awake()));
  const Clock::time_point start = Clock::now();
  for (int round = 0; round < kFewestRounds || seconds_since(start) < seconds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Clock::time_point begin = Clock::now();
      all[i]->step(executor);
      times[i].push_back(seconds_since(begin));
      std::this_thread::sleep_for(std::chrono::duration<double>(all[i]->seconds_awake()));
    }
  }
  return times;
}

AttendOptions attend_options(int head_dim, Arithmetic arithmetic) {
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  options.arithmetic = arithmetic;
  return options;
}

bool is_codebook(const std::string& format) { return format.find("codebook") != std::string::npos; }

/// One of our formats at work, and its row.
struct Entry {
  std::unique_ptr<PagedAttention> attention;
  CpuRow row;
};

/// Arithmetics in which a format differs.
std::vector<Arithmetic> arithmetics_of(const Pages& pages) {
  const int d = pages.view().format.head_dim;
  const bool integer = attends_in_integers(pages.view().k_codec, Side::key, d) ||
                       attends_in_integers(pages.view().v_codec, Side::value, d);
  if (integer) return {Arithmetic::f32, Arithmetic::integer};
  return {Arithmetic::f32};
}

Entry make_entry(const std::string& format, Pages& pages, const UniqueRows& rows,
                 const Shape& shape, Arithmetic arithmetic, const std::vector<float>& q) {
  Entry e;
  const AttendOptions options = attend_options(shape.head_dim, arithmetic);
  e.attention = std::make_unique<PagedAttention>(pages, shape, q, options);
  e.row.format = format;
  e.row.arithmetic = arithmetic == Arithmetic::integer ? "integer" : "f32";
  e.row.isa = cpu_isa();
  e.row.shape = shape;
  e.row.bytes = e.attention->bytes();
  const double n_values = 2.0 * static_cast<double>(shape.n_seq) * shape.n_kv_heads *
                          static_cast<double>(shape.n_tokens) * shape.head_dim;
  e.row.bits_per_value = 8.0 * e.row.bytes / n_values;
  e.row.multiply_adds_per_byte = n_values / static_cast<double>(shape.n_tokens) *
                                 static_cast<double>(pages.encoded_rows(shape.n_tokens)) *
                                 shape.gqa / e.row.bytes;
  e.attention->step({});
  if (!pages.drops_rows()) {
    e.row.rel_err = sample_error(rows, shape, q, options.sm_scale, e.attention->output());
  }
  return e;
}

/// Pages of all formats that share heads and their size.
struct Formats {
  Formats(const std::vector<std::string>& names, int head_dim, int n_kv_heads,
          std::int64_t n_tokens, int n_seq, std::size_t rotated_bytes, CpuReport& report) {
    const std::int64_t n = std::clamp<std::int64_t>(n_tokens, 2 * kTileRows, kUnique);
    rows = UniqueRows::gaussian(n, n_kv_heads, head_dim);
    clustered = UniqueRows::clustered(n, n_kv_heads, head_dim);
    for (const std::string& name : names) {
      try {
        pages.push_back({name, std::make_unique<Pages>(plan_of(name), rows_of(name), rotated_bytes,
                                                       n_tokens, n_seq)});
      } catch (const unsupported& e) {
        report.skipped.push_back({name, "head_dim " + std::to_string(head_dim), e.what()});
      }
    }
  }

  const UniqueRows& rows_of(const std::string& name) const {
    return is_codebook(name) ? clustered : rows;
  }

  UniqueRows rows, clustered;
  std::vector<std::pair<std::string, std::unique_ptr<Pages>>> pages;
};

void check(const CpuBenchOptions& options) {
  for (const std::int64_t keys : options.keys) {
    if (keys < kUnique || keys > (std::int64_t{1} << 22) || keys % kUnique != 0) {
      throw invalid_argument(
          bad_value("bench", "--keys", keys, "1024..4194304, multiples of 1024"));
    }
  }
  for (const int gqa : options.gqa) {
    if (gqa < 1 || gqa > kMaxGqaGroup) {
      throw invalid_argument(bad_value("bench", "--gqa", gqa, "1..16"));
    }
  }
  for (const int n : options.threads) {
    if (n < 1 || n > 1024) throw invalid_argument(bad_value("bench", "--threads", n, "1..1024"));
  }
  if (!(options.seconds > 0.0 && options.seconds <= 600.0)) {
    throw invalid_argument(bad_value("bench", "--seconds", options.seconds, "above 0, up to 600"));
  }
  if (options.rotate_mib < 0 || options.rotate_mib > (std::int64_t{1} << 20)) {
    throw invalid_argument(bad_value("bench", "--rotate", options.rotate_mib, "0..1048576 MiB"));
  }
}

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
        const std::vector<Arithmetic> known = arithmetics_of(*pages);
        if (std::find(known.begin(), known.end(), arithmetic) == known.end()) continue;
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

CpuReport new_report() {
  CpuReport report;
  report.machine = this_machine();
  report.isa = cpu_isa();
  return report;
}

std::vector<std::string> formats_of(const CpuBenchOptions& options) {
  return options.formats.empty() ? default_formats() : options.formats;
}

std::size_t bytes_to_rotate(const CpuBenchOptions& options, const Machine& machine,
                            std::size_t n_buffers) {
  if (options.rotate_mib > 0) return static_cast<std::size_t>(options.rotate_mib) << 20;
  return rotated_bytes(machine, n_buffers);
}

std::size_t n_peers() {
#if defined(KVCODEC_WITH_PEERS)
  return peer_formats().size();
#else
  return 0;
#endif
}

/// A shape beside the usual ones, and which of the list it is compared with.
struct OddShape {
  const char* name;
  Shape shape;
  std::string isa;  ///< empty: the one in use
  int neighbour;
};

const std::vector<OddShape>& odd_shapes() {
  static const std::vector<OddShape> list = {
      {"16k keys, GQA 4", {128, 8, 4, 16384, 1}, "", 0},
      {"head_dim 80", {80, 8, 4, 16384, 1}, "", 0},
      {"head_dim 96", {96, 8, 4, 16384, 1}, "", 0},
      {"head_dim 256", {256, 8, 4, 16384, 1}, "", 0},
      {"GQA 8", {128, 8, 8, 16384, 1}, "", 4},
      {"GQA 7", {128, 8, 7, 16384, 1}, "", 4},
      {"128k keys", {128, 8, 4, 131072, 1}, "", 0},
      {"256 sequences of 64", {128, 8, 4, 64, 256}, "", 0},
      {"256 sequences of 1", {128, 8, 4, 1, 256}, "", 7},
      {"AVX2", {128, 8, 4, 16384, 1}, "avx2", 0},
  };
  return list;
}

/// Runs on an instruction set of its own.
class OnIsa : public Participant {
 public:
  OnIsa(Participant& inner, std::string isa) : inner_(inner), isa_(std::move(isa)) {}

  void step(const Executor& executor) override {
    const std::string before = cpu_isa();
    force_cpu_isa(isa_);
    inner_.step(executor);
    force_cpu_isa(before);
  }
  double bytes() const override { return inner_.bytes(); }

 private:
  Participant& inner_;
  std::string isa_;
};

/// All odd shapes of one format and arithmetic, in the same rounds.
class OddRun {
 public:
  OddRun(const std::string& format, std::size_t rotated_bytes, CpuReport& report)
      : report_(report) {
    const auto isas = available_cpu_isas();
    for (const OddShape& odd : odd_shapes()) {
      if (!odd.isa.empty() && std::find(isas.begin(), isas.end(), odd.isa) == isas.end()) {
        report.skipped.push_back({format, odd.name, "this machine has no " + odd.isa});
        sets_.emplace_back();
        continue;
      }
      const Shape& s = odd.shape;
      sets_.push_back(std::make_unique<Formats>(std::vector<std::string>{format}, s.head_dim,
                                                s.n_kv_heads, s.n_tokens, s.n_seq, rotated_bytes,
                                                report));
      if (sets_.back()->pages.empty()) sets_.back().reset();
    }
  }

  void run(Arithmetic arithmetic, double seconds) {
    std::vector<Entry> entries;
    std::vector<std::size_t> shape_of;
    std::vector<std::unique_ptr<OnIsa>> forced;
    std::vector<Participant*> all;
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      if (sets_[i] == nullptr) continue;
      const OddShape& odd = odd_shapes()[i];
      const auto& [name, pages] = sets_[i]->pages[0];
      const std::vector<Arithmetic> known = arithmetics_of(*pages);
      if (std::find(known.begin(), known.end(), arithmetic) == known.end()) continue;
      const Shape& s = odd.shape;
      const std::vector<float> q =
          gaussian_values(static_cast<std::size_t>(s.n_seq * s.n_q_heads() * s.head_dim), 13);
      entries.push_back(make_entry(name, *pages, sets_[i]->rows_of(name), s, arithmetic, q));
      shape_of.push_back(i);
      all.push_back(entries.back().attention.get());
      if (odd.isa.empty()) continue;
      forced.push_back(std::make_unique<OnIsa>(*all.back(), odd.isa));
      all.back() = forced.back().get();
      entries.back().row.isa = odd.isa;
    }
    if (all.empty()) return;
    const auto times = measure(all, {}, seconds);
    for (std::size_t i = 0; i < all.size(); ++i) {
      CpuRow row = entries[i].row;
      row.n_rounds = static_cast<int>(times[i].size());
      row.ms = 1e3 * median(times[i]);
      row.ratio_to_f16 = row.share_of_read_bw = std::numeric_limits<double>::quiet_NaN();
      const OddShape& odd = odd_shapes()[shape_of[i]];
      const auto other =
          std::find(shape_of.begin(), shape_of.end(), static_cast<std::size_t>(odd.neighbour));
      row.neighbour = odd.name;
      if (other != shape_of.end()) {
        const auto j = static_cast<std::size_t>(other - shape_of.begin());
        row.slower_per_byte =
            median_ratio(times[i], times[j]) * entries[j].row.bytes / entries[i].row.bytes;
        row.neighbour += std::string(" / ") + odd_shapes()[shape_of[j]].name;
      }
      report_.rows.push_back(std::move(row));
    }
  }

 private:
  CpuReport& report_;
  std::vector<std::unique_ptr<Formats>> sets_;  ///< per odd shape; null: not on this machine
};

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
  CpuReport report = new_report();
  const std::vector<std::string> names = formats_of(options);
  const std::size_t rotated =
      bytes_to_rotate(options, report.machine, names.size() + n_peers() + 1);
  report.rotated_bytes = rotated;
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

CpuReport run_odd_shapes(const CpuBenchOptions& options, const Progress& progress) {
  check(options);
  CpuReport report = new_report();
  const std::vector<std::string> formats = formats_of(options);
  report.rotated_bytes = bytes_to_rotate(options, report.machine, odd_shapes().size());
  int done = 0;
  for (const std::string& format : formats) {
    progress(format, done++, static_cast<int>(formats.size()));
    OddRun run(format, report.rotated_bytes, report);
    for (const Arithmetic arithmetic : {Arithmetic::f32, Arithmetic::integer}) {
      run.run(arithmetic, options.seconds);
    }
  }
  return report;
}

}  // namespace kvcodec::bench
