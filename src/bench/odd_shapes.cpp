// Shapes beside the usual ones.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kvcodec/attend/cpu_isa.hpp"
#include "src/bench/rounds.hpp"

namespace kvcodec::bench {
namespace {

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
      if (!has_arithmetic(*pages, arithmetic)) continue;
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

CpuReport run_odd_shapes(const CpuBenchOptions& options, const Progress& progress) {
  check(options);
  const std::vector<std::string> formats = formats_of(options);
  CpuReport report = new_report(options, odd_shapes().size());
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
