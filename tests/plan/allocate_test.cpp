// The multiple-choice knapsack against brute force, its ties, its speed, what it refuses.
#include "kvcodec/plan/allocate.hpp"

#include <gtest/gtest.h>

#include <ctime>
#include <limits>

#include "kvcodec/core/error.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

using Slots = std::vector<std::vector<Choice>>;
using test::contains;
using test::message_of;

/// Small whole costs make ties; `whole` losses make ties of them as well.
Slots random_slots(test::Random& random, std::int64_t n_slots, std::int64_t n_choices,
                   std::int64_t most_cost, bool whole) {
  Slots slots(static_cast<std::size_t>(n_slots));
  for (auto& slot : slots) {
    const std::int64_t n = 1 + random.below(n_choices);
    for (std::int64_t i = 0; i < n; ++i) {
      const double loss = whole ? static_cast<double>(random.below(8)) : random.gauss();
      slot.push_back({random.below(most_cost + 1), loss});
    }
  }
  return slots;
}

/// Calls visit(cost, loss) for every allocation; losses are added in the order of slots.
template <class Visit>
void for_all(const Slots& slots, const Visit& visit, std::size_t slot = 0, std::int64_t cost = 0,
             double loss = 0.0) {
  if (slot == slots.size()) return visit(cost, loss);
  for (const Choice& c : slots[slot]) {
    for_all(slots, visit, slot + 1, cost + c.cost, loss + c.loss);
  }
}

void expect_sums(const Slots& slots, const Allocation& a) {
  ASSERT_EQ(a.chosen.size(), slots.size());
  std::int64_t cost = 0;
  double loss = 0.0;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const Choice& c = slots[s].at(static_cast<std::size_t>(a.chosen[s]));
    cost += c.cost;
    loss += c.loss;
  }
  EXPECT_EQ(a.cost, cost);
  EXPECT_EQ(a.loss, loss);
}

TEST(Allocate, LeastLossWithinABudgetIsThatOfBruteForce) {
  test::Random random(1);
  for (int round = 0; round < 400; ++round) {
    const Slots slots = random_slots(random, 1 + random.below(6), 6, 12, round % 2 == 0);
    std::int64_t smallest = 1000, largest = 0;
    for_all(slots, [&](std::int64_t cost, double) {
      smallest = std::min(smallest, cost);
      largest = std::max(largest, cost);
    });
    const std::int64_t budget = smallest + random.below(largest - smallest + 3);
    double best = std::numeric_limits<double>::infinity();
    std::int64_t cheapest = 0;
    for_all(slots, [&](std::int64_t cost, double loss) {
      if (cost > budget || loss > best) return;
      cheapest = loss < best ? cost : std::min(cheapest, cost);
      best = loss;
    });
    const Allocation a = allocate_for_budget(slots, budget);
    expect_sums(slots, a);
    ASSERT_EQ(a.loss, best) << "round " << round;
    ASSERT_EQ(a.cost, cheapest) << "round " << round;
    ASSERT_TRUE(a.exact);
  }
}

TEST(Allocate, LeastCostForALossIsThatOfBruteForce) {
  test::Random random(2);
  for (int round = 0; round < 400; ++round) {
    const Slots slots = random_slots(random, 1 + random.below(6), 6, 12, round % 2 == 0);
    double smallest = std::numeric_limits<double>::infinity(), largest = -smallest;
    for_all(slots, [&](std::int64_t, double loss) {
      smallest = std::min(smallest, loss);
      largest = std::max(largest, loss);
    });
    const double most = smallest + random.uniform() * (largest - smallest);
    std::int64_t best = 1000;
    double least = 0.0;
    for_all(slots, [&](std::int64_t cost, double loss) {
      if (loss > most || cost > best) return;
      least = cost < best ? loss : std::min(least, loss);
      best = cost;
    });
    const Allocation a = allocate_for_loss(slots, most);
    expect_sums(slots, a);
    ASSERT_EQ(a.cost, best) << "round " << round;
    ASSERT_EQ(a.loss, least) << "round " << round;
  }
}

TEST(Allocate, TheSmallestBudgetAndTheLeastLossAreEnough) {
  const Slots slots = {{{3, 0.3}, {1, 0.7}}, {{2, 0.1}, {2, 0.2}}, {{5, 0.0}, {4, 0.6}}};
  const Allocation cheapest = allocate_for_budget(slots, 7);
  EXPECT_EQ(cheapest.chosen, (std::vector<std::int32_t>{1, 0, 1}));
  EXPECT_EQ(cheapest.cost, 7);
  const Allocation best = allocate_for_loss(slots, 0.3 + 0.1 + 0.0);
  EXPECT_EQ(best.chosen, (std::vector<std::int32_t>{0, 0, 0}));
  EXPECT_EQ(allocate_for_budget(slots, 1000).chosen, best.chosen);
  EXPECT_EQ(allocate_for_loss(slots, 1000.0).chosen, cheapest.chosen);
}

// Twice as many slots as a model of 160 layers has sides, and costs without a common unit.
TEST(Allocate, HundredsOfSlotsTakeLessThanASecond) {
  for (const std::int64_t most_cost : {std::int64_t{60}, std::int64_t{100000}}) {
    test::Random random(3);
    Slots slots(320);
    for (auto& slot : slots) {
      const double weight = std::exp(2.0 * random.gauss());
      for (int i = 0; i < 40; ++i) {
        const std::int64_t cost = 1 + random.below(most_cost);
        const double bits = 16.0 * static_cast<double>(cost) / static_cast<double>(most_cost);
        slot.push_back({cost, weight * std::exp2(-2.0 * bits) * (1.0 + random.uniform())});
      }
    }
    const std::clock_t start = std::clock();
    const Allocation a = allocate_for_budget(slots, 320 * most_cost / 5);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 1.0) << most_cost;
    EXPECT_TRUE(a.exact) << most_cost;
    EXPECT_LE(a.cost, 320 * most_cost / 5);
    EXPECT_EQ(allocate_for_loss(slots, a.loss).cost, a.cost) << "the way back";
    EXPECT_EQ(allocate_for_budget(slots, 320 * most_cost / 5).chosen, a.chosen);
  }
}

// All allocations cost and lose the same share: no bound can tell them apart.
TEST(Allocate, HardCasesAreFeasibleAndSaySo) {
  test::Random random(4);
  Slots slots(32);
  for (auto& slot : slots) {
    for (int i = 0; i < 8; ++i) {
      const std::int64_t cost = random.below(std::int64_t{1} << 30);
      slot.push_back({cost, -static_cast<double>(cost) * 0x1p-30 + 1e-7 * random.uniform()});
    }
  }
  const std::int64_t budget = std::int64_t{32} << 29;
  const Allocation a = allocate_for_budget(slots, budget);
  expect_sums(slots, a);
  EXPECT_LE(a.cost, budget);
  EXPECT_LT(a.loss, -0.5 * 32 + 1e-3) << "the budget is all but used";
}

TEST(Allocate, RefusalsNameWhatIsPossible) {
  const Slots slots = {{{3, 0.5}, {2, 0.75}}, {{4, 0.25}}};
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { allocate_for_budget(slots, 5); }),
                       {"budget = 5", "6 and above"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { allocate_for_loss(slots, 0.5); }),
                       {"most_loss = \"0.5\"", "0.75 and above"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { allocate_for_loss(slots, NAN); }),
                       {"most_loss", "0.75 and above"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([] { allocate_for_budget({}, 5); }),
                       {"slots = 0", "1..65536"}));
  const auto refusal = [](const Slots& s) {
    return message_of<invalid_argument>([&] { allocate_for_budget(s, 100); });
  };
  EXPECT_TRUE(contains(refusal({{{1, 0.0}}, {}}), {"slot 1", "choices = 0"}));
  EXPECT_TRUE(contains(refusal({{{1, 0.0}, {-1, 0.0}}}), {"slot 0, choice 1", "cost = -1"}));
  EXPECT_TRUE(contains(refusal({{{1, NAN}}}), {"slot 0, choice 0", "loss"}));
}

}  // namespace
}  // namespace kvcodec
