// What the kernels of one append tell each other.
#pragma once

#include <cstdint>

namespace kvcodec::cuda {

/// What happens to one sequence. Its rows in order of age: those of the window, then the new ones; the
/// first n_leaving of them go to pages.
struct WindowPlan {
  std::int64_t first_token = 0;  ///< of the new rows
  std::int64_t n_encoded = 0;    ///< before
  std::int64_t n_leaving = 0;
  std::int32_t n_new = 0;      ///< 0: nothing happens
  std::int32_t n_to_sink = 0;  ///< the first new rows, which become sinks
  std::int32_t n_sink = 0;     ///< before
  std::int32_t n_recent = 0;   ///< before
};

}  // namespace kvcodec::cuda
