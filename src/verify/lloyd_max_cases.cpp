// Family "lloyd-max": the tables of codec "lm" against an independent solver.
#include <vector>

#include "kvcodec/codec/lloyd_max_table.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// Any head_dim beyond the largest tabulated one takes the table of N(0, 1).
constexpr int kInfinity = 1 << 20;

struct Worst {
  double table = 0.0;
  double distortion = 0.0;
};

/// Row bits - 1 of a padded array [4, width]: n values, then NaN.
std::vector<float> padded_row(const Array& array, int bits, int n) {
  const auto width = static_cast<std::size_t>(array.shape.at(1));
  const std::vector<float> all = array.floats();
  const auto first =
      all.begin() + static_cast<std::ptrdiff_t>(width * static_cast<std::size_t>(bits - 1));
  for (std::size_t i = 0; i < width; ++i) {
    const bool is_value = i < static_cast<std::size_t>(n);
    require(std::isnan(first[static_cast<std::ptrdiff_t>(i)]) != is_value,
            array.file.string() + ": row " + std::to_string(bits - 1) + " has not " +
                std::to_string(n) + " values");
  }
  return {first, first + n};
}

void check_size(const Case& c, const std::string& prefix, int head_dim, Worst& worst) {
  const Array centroids = c.array(prefix + "_centroids");
  const Array thresholds = c.array(prefix + "_thresholds");
  const std::vector<float> mse = c.array(prefix + "_mse").floats();
  const double bound = c.absolute_tolerances("centroids").at(0);
  for (int bits = 1; bits <= 4; ++bits) {
    const LloydMaxTable table = lloyd_max_table(bits, head_dim);
    require(table.n_levels == 1 << bits, "number of levels");
    const auto n = static_cast<std::size_t>(table.n_levels);
    const std::string what = prefix + ", " + std::to_string(bits) + " bits: ";
    const auto allowed = [bound](std::size_t) { return bound; };
    worst.table = std::max(worst.table, compare(what + "level", n, table.level,
                                                padded_row(centroids, bits, 1 << bits), allowed));
    worst.table =
        std::max(worst.table, compare(what + "threshold", n - 1, table.threshold,
                                      padded_row(thresholds, bits, (1 << bits) - 1), allowed));
    const double expected = static_cast<double>(mse.at(static_cast<std::size_t>(bits - 1)));
    const double error = std::abs(lloyd_max_distortion(bits, head_dim) / expected - 1.0);
    require(error <= 1e-5, what + "distortion is " +
                               number_text(lloyd_max_distortion(bits, head_dim)) + ", expected " +
                               number_text(expected));
    worst.distortion = std::max(worst.distortion, error);
  }
}

}  // namespace

std::string run_lloyd_max(const Case& c) {
  Worst worst;
  check_size(c, "d64", 64, worst);
  check_size(c, "d128", 128, worst);
  check_size(c, "d256", 256, worst);
  check_size(c, "n01", kInfinity, worst);
  return "16 tables of 1 to 4 bits, largest error " + number_text(worst.table) +
         ", of a distortion " + number_text(worst.distortion) + " relative";
}

}  // namespace kvcodec::golden
