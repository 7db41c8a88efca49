#include "tests/simt/emulator/counters.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "tests/simt/emulator/counter_hooks.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

constexpr std::uintptr_t kSectorBytes = 32;
constexpr std::uintptr_t kBanks = 32;

struct Request {
  unsigned bytes = 0;
  bool write = false;
  bool shared = false;
  std::vector<std::uintptr_t> addresses;
};
using Place = std::pair<const void*, unsigned>;  // return address of the hook, n-th time

struct Counts {
  std::map<const void*, AccessSite> sites;
  std::map<Place, Request> open[kMaxThreads / kWarpLanes];
  std::unordered_map<const void*, unsigned> times[kMaxThreads];
};
Counts* counts = nullptr;

template <class T>
std::size_t count_distinct(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  return static_cast<std::size_t>(std::unique(values.begin(), values.end()) - values.begin());
}

std::size_t lanes_together(unsigned bytes) { return bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8; }

// Wavefronts of the lanes [begin, end): distinct words of the fullest bank.
std::uint64_t wavefronts(const Request& r, std::size_t begin, std::size_t end) {
  std::vector<std::uintptr_t> words;
  for (std::size_t i = begin; i < end; ++i) {
    for (std::uintptr_t w = r.addresses[i] / 4; w <= (r.addresses[i] + r.bytes - 1) / 4; ++w) {
      words.push_back(w);
    }
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  std::uint64_t in_bank[kBanks] = {};
  for (const std::uintptr_t w : words) ++in_bank[w % kBanks];
  return *std::max_element(in_bank, in_bank + kBanks);
}

void add_shared(AccessSite& site, const Request& r) {
  const std::size_t together = lanes_together(r.bytes);
  for (std::size_t begin = 0; begin < r.addresses.size(); begin += together) {
    site.cost += wavefronts(r, begin, std::min(begin + together, r.addresses.size()));
    ++site.best;
  }
}

void add_global(AccessSite& site, const Request& r) {
  std::vector<std::uintptr_t> sectors;
  for (const std::uintptr_t a : r.addresses) {
    for (std::uintptr_t s = a / kSectorBytes; s <= (a + r.bytes - 1) / kSectorBytes; ++s) {
      sectors.push_back(s);
    }
  }
  site.cost += count_distinct(std::move(sectors));
  site.best += (count_distinct(r.addresses) * r.bytes + kSectorBytes - 1) / kSectorBytes;
}

void converged(unsigned warp) {
  for (const auto& [place, r] : counts->open[warp]) {
    AccessSite& site = counts->sites[place.first];
    site.bytes = r.bytes;
    site.write = r.write;
    site.shared = r.shared;
    ++site.requests;
    site.lanes += r.addresses.size();
    if (r.shared) add_shared(site, r);
    else add_global(site, r);
  }
  counts->open[warp].clear();
  for (unsigned i = 0; i < kWarpLanes; ++i) counts->times[warp * kWarpLanes + i].clear();
}

void cta_ended() {
  for (unsigned warp = 0; warp < kMaxThreads / kWarpLanes; ++warp) converged(warp);
}

constexpr Observer kObserver = {&converged, &cta_ended};

// "file:line" of each address, from the debug information of this executable.
std::vector<std::string> source_lines(const std::vector<const void*>& addresses) {
  std::vector<std::string> lines;
  std::string command = "addr2line -e /proc/" + std::to_string(getpid()) + "/exe";
  for (const void* a : addresses) {
    Dl_info info{};
    dladdr(a, &info);
    char text[32];
    // One back: a return address may already belong to the next line.
    std::snprintf(text, sizeof(text), " 0x%zx",
                  static_cast<std::size_t>(static_cast<const char*>(a) -
                                           static_cast<const char*>(info.dli_fbase)) -
                      1);
    command += text;
  }
  if (addresses.empty()) return lines;
  if (FILE* const out = popen(command.c_str(), "r")) {
    char text[1024];
    while (std::fgets(text, sizeof(text), out) != nullptr) {
      std::string line(text);
      line = line.substr(0, line.find_first_of(" \n"));
      lines.push_back(line.substr(line.rfind('/') + 1));
    }
    pclose(out);
  }
  lines.resize(addresses.size(), "?");
  return lines;
}

}  // namespace

void note_access(const void* from, const void* p, std::size_t bytes, bool write) {
  if (counts == nullptr || machine.running == nullptr) return;
  const bool shared = in_shared_memory(p);
  if (!shared && !in_device_memory(p)) return;  // local variables, the emulator's own
  const Thread& t = self();
  Request& r = counts->open[t.warp][{from, counts->times[t.linear][from]++}];
  r.bytes = static_cast<unsigned>(bytes);
  r.write = write;
  r.shared = shared;
  r.addresses.push_back(reinterpret_cast<std::uintptr_t>(p));
}

Counters::Counters() {
  if (counts != nullptr) throw std::logic_error("another simt::Counters is alive");
  counts = new Counts;
  observer = &kObserver;
}

Counters::~Counters() {
  observer = nullptr;
  delete std::exchange(counts, nullptr);
}

std::vector<AccessSite> Counters::sites() const {
  std::vector<const void*> addresses;
  for (const auto& [address, site] : counts->sites) addresses.push_back(address);
  const std::vector<std::string> lines = source_lines(addresses);
  std::map<std::tuple<std::string, bool, bool, unsigned>, AccessSite> by_line;
  std::size_t i = 0;
  for (const auto& [address, site] : counts->sites) {
    const std::string& where = lines[i++];
    AccessSite& sum = by_line[{where, site.shared, site.write, site.bytes}];
    sum.where = where;
    sum.bytes = site.bytes;
    sum.write = site.write;
    sum.shared = site.shared;
    sum.requests += site.requests;
    sum.lanes += site.lanes;
    sum.cost += site.cost;
    sum.best += site.best;
  }
  std::vector<AccessSite> result;
  for (auto& [key, site] : by_line) result.push_back(std::move(site));
  return result;
}

double Counters::worst_bank_conflict() const {
  double worst = 1.0;
  for (const auto& [address, site] : counts->sites) {
    if (site.shared) worst = std::max(worst, 1.0 / site.efficiency());
  }
  return worst;
}

double Counters::sector_efficiency() const {
  AccessSite all;
  for (const auto& [address, site] : counts->sites) {
    if (site.shared) continue;
    all.cost += site.cost;
    all.best += site.best;
  }
  return all.cost == 0 ? 1.0 : all.efficiency();
}

std::string Counters::report() const {
  std::string text =
      "site                             rw  memory  bytes  requests  cost/req  efficiency\n";
  for (const AccessSite& s : sites()) {
    char line[160];
    std::snprintf(line, sizeof(line), "%-32.32s %s  %s  %5u  %8llu  %8.2f  %9.0f%%\n",
                  s.where.c_str(), s.write ? "st" : "ld", s.shared ? "shared" : "global", s.bytes,
                  static_cast<unsigned long long>(s.requests), s.cost_per_request(),
                  100.0 * s.efficiency());
    text += line;
  }
  return text;
}

}  // namespace kvcodec::simt
