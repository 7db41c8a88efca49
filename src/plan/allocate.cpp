// The multiple-choice knapsack, once for both directions: `a` is what is limited, `b` what is
// minimised.
#include "kvcodec/plan/allocate.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "kvcodec/core/error.hpp"

namespace kvcodec {
namespace {

constexpr std::int64_t kMostCost = std::int64_t{1} << 40;
constexpr std::size_t kMostSlots = 65536;

/// A choice that no other choice of its slot beats.
struct Item {
  double a = 0.0;
  double b = 0.0;
  std::int32_t index = 0;
};

/// A partial allocation: what the first slots sum up to, and how it came about.
struct State {
  double a = 0.0;
  double b = 0.0;
  std::int32_t parent = 0;  ///< index among the states of the slot before
  std::int32_t index = 0;   ///< choice of this slot
};

bool before(double a, double b, double other_a, double other_b) {
  return a != other_a ? a < other_a : b < other_b;
}

/// Sorts by a and leaves what falls in b.
template <class T>
void keep_front(std::vector<T>& all) {
  std::stable_sort(all.begin(), all.end(),
                   [](const T& x, const T& y) { return before(x.a, x.b, y.a, y.b); });
  std::size_t n = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (n == 0 || all[i].b < all[n - 1].b) all[n++] = all[i];
  }
  all.resize(n);
}

/// One step along the lower convex hull of a slot.
struct Step {
  std::size_t slot = 0;
  std::size_t to = 0;  ///< item reached
  double da = 0.0;
  double slope = 0.0;  ///< b gained per a, falling along a slot
};

std::vector<Step> hull_steps(const std::vector<Item>& items, std::size_t slot) {
  std::vector<std::size_t> hull;
  const auto slope = [&](std::size_t i, std::size_t j) {
    return (items[i].b - items[j].b) / (items[j].a - items[i].a);
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    while (hull.size() >= 2 && slope(hull.back(), i) >= slope(hull[hull.size() - 2], hull.back())) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  std::vector<Step> steps;
  for (std::size_t i = 1; i < hull.size(); ++i) {
    steps.push_back(
        {slot, hull[i], items[hull[i]].a - items[hull[i - 1]].a, slope(hull[i - 1], hull[i])});
  }
  return steps;
}

class Search {
 public:
  /// items: per slot, a front sorted by a.
  Search(std::vector<std::vector<Item>> items, double limit)
      : items_(std::move(items)), limit_(limit) {}

  /// Choices of every slot; the limit can be met.
  std::vector<std::int32_t> run() {
    relax();
    fill_bounds();
    std::vector<std::vector<State>> layers(items_.size());
    std::vector<State> states = {State{}};
    for (std::size_t slot = 0; slot < items_.size(); ++slot) {
      layers[slot] = extend(states, slot);
      if (layers[slot].empty()) return greedy_;  // the states that led to it were dropped
      states = layers[slot];
    }
    return trace(layers);
  }
  bool exact() const { return exact_; }

 private:
  /// Walks the hulls of all slots, steepest step first: a solution to beat, and the multiplier.
  void relax() {
    std::vector<Step> steps;
    std::vector<std::size_t> at(items_.size(), 0);
    double a = 0.0;
    for (std::size_t s = 0; s < items_.size(); ++s) {
      const std::vector<Step> own = hull_steps(items_[s], s);
      steps.insert(steps.end(), own.begin(), own.end());
      a += items_[s][0].a;
    }
    std::stable_sort(steps.begin(), steps.end(),
                     [](const Step& x, const Step& y) { return x.slope > y.slope; });
    std::vector<char> stopped(items_.size(), 0);
    for (const Step& step : steps) {
      if (stopped[step.slot] != 0) continue;
      if (a + step.da > limit_) {
        // The relaxation ends here; smaller steps of other slots may still fit the solution to beat.
        if (multiplier_ == 0.0) multiplier_ = step.slope;
        stopped[step.slot] = 1;
        continue;
      }
      a += step.da;
      at[step.slot] = step.to;
    }
    double scale = 0.0;
    to_beat_ = 0.0;
    for (std::size_t s = 0; s < items_.size(); ++s) {
      to_beat_ += items_[s][at[s]].b;
      scale += std::abs(items_[s].front().b) + multiplier_ * std::abs(items_[s].back().a);
      greedy_.push_back(items_[s][at[s]].index);
    }
    slack_ = 1e-11 * (scale + multiplier_ * std::abs(limit_));
  }

  /// What the slots from s on must at least add.
  void fill_bounds() {
    bound_.assign(items_.size() + 1, 0.0);
    least_a_.assign(items_.size() + 1, 0.0);
    for (std::size_t s = items_.size(); s-- > 0;) {
      double best = std::numeric_limits<double>::infinity();
      for (const Item& i : items_[s]) best = std::min(best, i.b + multiplier_ * i.a);
      bound_[s] = bound_[s + 1] + best;
      least_a_[s] = least_a_[s + 1] + items_[s][0].a;
    }
  }

  /// Lower bound of b of every allocation that begins with this state, over the slots from `next` on.
  double bound(double a, double b, std::size_t next) const {
    return b + multiplier_ * (a - limit_) + bound_[next];
  }

  std::vector<State> extend(const std::vector<State>& states, std::size_t slot) {
    std::vector<State> next;
    const double most_a = limit_ - least_a_[slot + 1] + 1e-12 * std::abs(limit_);
    for (std::size_t p = 0; p < states.size(); ++p) {
      for (const Item& item : items_[slot]) {
        const double a = states[p].a + item.a;
        const double b = states[p].b + item.b;
        if (slot + 1 == items_.size() ? a > limit_ : a > most_a) break;
        if (bound(a, b, slot + 1) > to_beat_ + slack_) continue;
        next.push_back({a, b, static_cast<std::int32_t>(p), item.index});
      }
    }
    keep_front(next);
    if (next.size() > kMaxAllocationStates) {
      exact_ = false;
      thin(next, slot + 1);
    }
    return next;
  }

  /// Leaves the most promising states, and the one that can always be completed.
  void thin(std::vector<State>& states, std::size_t next) const {
    const auto by_bound = [&](const State& x, const State& y) {
      return bound(x.a, x.b, next) < bound(y.a, y.b, next);
    };
    std::stable_sort(states.begin() + 1, states.end(), by_bound);
    states.resize(kMaxAllocationStates);
    std::sort(states.begin(), states.end(),
              [](const State& x, const State& y) { return before(x.a, x.b, y.a, y.b); });
  }

  /// The last slot's states are a front: the last of them has the least b.
  static std::vector<std::int32_t> trace(const std::vector<std::vector<State>>& layers) {
    std::vector<std::int32_t> chosen(layers.size());
    std::size_t at = layers.back().size() - 1;
    for (std::size_t s = layers.size(); s-- > 0;) {
      chosen[s] = layers[s][at].index;
      at = static_cast<std::size_t>(layers[s][at].parent);
    }
    return chosen;
  }

  std::vector<std::vector<Item>> items_;
  double limit_;
  double multiplier_ = 0.0;  ///< b per a at which the relaxation meets the limit
  double to_beat_ = 0.0;
  double slack_ = 0.0;  ///< rounding of bounds
  std::vector<double> bound_, least_a_;
  std::vector<std::int32_t> greedy_;
  bool exact_ = true;
};

void check_slots(std::span<const std::vector<Choice>> slots) {
  if (slots.empty() || slots.size() > kMostSlots) {
    throw invalid_argument(
        bad_value("allocate", "slots", slots.size(), "1.." + std::to_string(kMostSlots)));
  }
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const std::string what = "allocate: slot " + std::to_string(s);
    if (slots[s].empty()) throw invalid_argument(bad_value(what, "choices", 0, "1 and more"));
    for (std::size_t i = 0; i < slots[s].size(); ++i) {
      const Choice& c = slots[s][i];
      const std::string choice = what + ", choice " + std::to_string(i);
      if (c.cost < 0 || c.cost > kMostCost) {
        throw invalid_argument(
            bad_value(choice, "cost", c.cost, "0.." + std::to_string(kMostCost)));
      }
      if (!std::isfinite(c.loss)) {
        throw invalid_argument(bad_value(choice, "loss", c.loss, "finite numbers"));
      }
    }
  }
}

std::string digits(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", x);
  return text;
}

template <class Member>
auto least(std::span<const std::vector<Choice>> slots, Member member) {
  decltype(Choice{}.*member) sum = 0;
  for (const std::vector<Choice>& slot : slots) {
    auto best = slot[0].*member;
    for (const Choice& c : slot) best = std::min(best, c.*member);
    sum += best;
  }
  return sum;
}

/// limited and minimised: members of Item that take cost and loss.
Allocation solve(std::span<const std::vector<Choice>> slots, double limit, double Item::*cost,
                 double Item::*loss) {
  std::vector<std::vector<Item>> items(slots.size());
  for (std::size_t s = 0; s < slots.size(); ++s) {
    for (std::size_t i = 0; i < slots[s].size(); ++i) {
      Item item;
      item.index = static_cast<std::int32_t>(i);
      item.*cost = static_cast<double>(slots[s][i].cost);
      item.*loss = slots[s][i].loss;
      items[s].push_back(item);
    }
    keep_front(items[s]);
  }
  Search search(std::move(items), limit);
  Allocation result;
  result.chosen = search.run();
  result.exact = search.exact();
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const Choice& c = slots[s][static_cast<std::size_t>(result.chosen[s])];
    result.cost += c.cost;
    result.loss += c.loss;
  }
  return result;
}

}  // namespace

Allocation allocate_for_budget(std::span<const std::vector<Choice>> slots, std::int64_t budget) {
  check_slots(slots);
  const std::int64_t smallest = least(slots, &Choice::cost);
  if (budget < smallest) {
    throw invalid_argument(
        bad_value("allocate", "budget", budget,
                  std::to_string(smallest) + " and above: the cheapest choice of every slot"));
  }
  return solve(slots, static_cast<double>(budget), &Item::a, &Item::b);
}

Allocation allocate_for_loss(std::span<const std::vector<Choice>> slots, double most_loss) {
  check_slots(slots);
  const double smallest = least(slots, &Choice::loss);
  if (!(most_loss >= smallest)) {
    throw invalid_argument(
        bad_value("allocate", "most_loss", digits(most_loss),
                  digits(smallest) + " and above: the least loss of every slot"));
  }
  return solve(slots, most_loss, &Item::b, &Item::a);
}

}  // namespace kvcodec
