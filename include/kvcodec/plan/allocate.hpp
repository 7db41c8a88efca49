// Which choice for which slot: the multiple-choice knapsack behind `kvcodec plan`.
//
// A slot is whatever is decided once: one side of one layer, or a whole layer where eviction ties its
// sides together. Each slot has choices with a cost (bytes, or any other whole unit) and a loss, both
// taken to add up over slots. Both functions are pure: the same input gives the same answer on every
// machine, and nothing is kept between calls. They may be called from any thread.
//
// Method: partial allocations in order of slots, only those that no other beats in both sums, and of
// these only those whose Lagrangian lower bound (the multiplier of the linear relaxation) can still
// beat a greedy solution. Exact unless more than kMaxAllocationStates partial allocations remain.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvcodec {

/// One way to fill a slot.
struct Choice {
  std::int64_t cost = 0;  ///< 0..2^40, in a unit of the caller's
  double loss = 0.0;      ///< finite; may be negative
};

/// One choice per slot.
struct Allocation {
  std::vector<std::int32_t> chosen;  ///< [n_slots] index into the slot's choices
  std::int64_t cost = 0;             ///< sum over slots
  double loss = 0.0;                 ///< sum over slots, added in their order
  bool exact = true;                 ///< false: partial allocations were dropped, see above
};

/// Partial allocations that are kept per slot before the search stops being exact.
inline constexpr std::size_t kMaxAllocationStates = std::size_t{1} << 14;

/// The allocation of least loss whose cost is at most `budget`; of equal losses the cheapest.
///
/// slots: 1..65536, each with at least one choice. Throws invalid_argument naming the slot that is
/// wrong, or the smallest budget there is if `budget` is below it.
Allocation allocate_for_budget(std::span<const std::vector<Choice>> slots, std::int64_t budget);

/// The allocation of least cost whose loss is at most `most_loss`; of equal costs the one of least
/// loss. Throws invalid_argument as above, or naming the smallest loss there is.
Allocation allocate_for_loss(std::span<const std::vector<Choice>> slots, double most_loss);

}  // namespace kvcodec
