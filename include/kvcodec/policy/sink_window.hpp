// Policy "window": the newest tokens and the sinks, nothing else (StreamingLLM without re-indexing).
//
// Source   StreamingLLM, arXiv 2309.17453. Its positions inside the cache are not imitated: rows keep
//          the positions they were made with, as in the other policies here.
// Keeps    the first n_sink tokens of the window stage and the newest n tokens. Encoded rows leave a
//          page at a time, so up to page_size - 1 tokens more may be there.
#pragma once

#include <algorithm>
#include <string>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

struct SinkWindow {
  static constexpr const char* family = "window";
  static constexpr const char* options_help = "n<tokens>: 64..1048576 (default 1024)";

  std::int32_t n_newest = 1024;

  static SinkWindow parse(const std::string& options) {
    if (options.empty()) return {};
    long n = 0;
    if (options[0] != 'n' || !parse_int(options.substr(1), 64, 1 << 20, n)) {
      throw invalid_argument(bad_value(family, "options", options, options_help));
    }
    return {static_cast<std::int32_t>(n)};
  }
  std::string name() const { return std::string(family) + ":n" + std::to_string(n_newest); }

  std::int32_t chunk_rows() const noexcept { return 64; }
  std::int32_t lookahead_rows() const noexcept { return 0; }
  std::int32_t observed_rows() const noexcept { return 0; }
  std::int64_t newest_rows() const noexcept { return n_newest; }
  void select(const PolicyRows&, std::span<KeepMask> keep) const {
    std::fill(keep.begin(), keep.end(), kKeptByAll);
  }
};

static_assert(Policy<SinkWindow>);

}  // namespace kvcodec
