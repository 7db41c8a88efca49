// Counts what the memory accesses of kernels cost, per source line, from the addresses alone.
//
// A request is one access instruction of one warp: the accesses of its lanes to the same place in the
// code, the n-th time each since the warp last stood together. Global memory costs the 32-byte
// sectors a request touches; at best as many as its distinct bytes fill. Shared memory costs
// wavefronts: one for every 4-byte word more that falls into the same of 32 banks, with lanes going
// together 32 at a time for up to 4 bytes, 16 for 8 and 8 for 16. It is a model: no caches, no
// timing. Only memory of cudaMalloc counts as global.
//
// Works in executables of kvcodec_add_simt_test(... COUNTED), which see every access. Use 32-bit and
// wider words: copies of half2 and its like may be seen as two accesses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvcodec::simt {

/// Sums over the requests of one line of the source, for one width, direction and memory.
struct AccessSite {
  std::string where;   // "file.cuh:42"
  unsigned bytes = 0;  // of one lane
  bool write = false;
  bool shared = false;
  std::uint64_t requests = 0;
  std::uint64_t lanes = 0;
  std::uint64_t cost = 0;  // sectors or wavefronts
  std::uint64_t best = 0;  // the least the same bytes could cost

  double cost_per_request() const {
    return static_cast<double>(cost) / static_cast<double>(requests);
  }
  /// best / cost, at most 1.
  double efficiency() const { return static_cast<double>(best) / static_cast<double>(cost); }
};

/// Counts all launches while it lives. One at a time.
class Counters {
 public:
  Counters();
  ~Counters();
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  /// By source line. Calls the program addr2line once.
  std::vector<AccessSite> sites() const;
  /// Wavefronts over the least possible, of the worst line; 1 without conflicts or without shared
  /// accesses.
  double worst_bank_conflict() const;
  /// Least possible sectors over sectors, of all global accesses; 1 if there were none.
  double sector_efficiency() const;
  /// The sites as a table, for failure messages.
  std::string report() const;
};

}  // namespace kvcodec::simt
