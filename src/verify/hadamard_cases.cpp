// Family "hadamard": the normalised Walsh-Hadamard transform in natural order.
#include <cmath>
#include <vector>

#include "kvcodec/transform/builtin.hpp"
#include "src/verify/compare.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// From the case's rule "absolute 1e-6 * ||x||".
double relative_bound(const Case& c) { return c.absolute_tolerances("y_64").at(0); }

template <class Row>
double check_rows(const Case& c, const std::string& x_name, const std::string& y_name,
                  const Row& transform_row) {
  const Array x = c.array(x_name);
  const Array y = c.array(y_name);
  const std::vector<float> in = x.floats();
  const std::vector<float> expected = y.floats();
  const auto n = static_cast<std::size_t>(x.shape.at(1));
  double worst = 0.0;
  for (std::size_t row = 0; row * n < in.size(); ++row) {
    std::vector<float> got(in.begin() + static_cast<std::ptrdiff_t>(row * n),
                           in.begin() + static_cast<std::ptrdiff_t>(row * n + n));
    double square = 0.0;
    for (const float value : got) square += static_cast<double>(value) * static_cast<double>(value);
    const double norm = std::sqrt(square);
    const double bound = relative_bound(c) * norm;
    transform_row(got, expected.data() + row * n, bound);
    const double error = compare(y_name + " row " + std::to_string(row) + " ", n, got,
                                 expected.data() + row * n, [&](std::size_t) { return bound; });
    if (norm > 0.0) worst = std::max(worst, error / norm);
  }
  return worst;
}

/// The plain transform, its inverse, and the signed one on input whose signs undo it.
double check_transform(const Case& c, const std::string& x_name, const std::string& y_name) {
  const AnyTransform plain = make_transform("hadamard:plain");
  const AnyTransform signed_one = make_transform("hadamard");
  return check_rows(c, x_name, y_name, [&](std::vector<float>& row, const float* y, double bound) {
    const int n = static_cast<int>(row.size());
    const std::vector<float> x = row;
    std::vector<float> flipped = x;
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (Hadamard::negative(1, i)) flipped[at] = -flipped[at];
    }
    plain.forward(n, 0, row.data());
    signed_one.forward(n, 0, flipped.data());
    const auto allowed = [&](std::size_t) { return bound; };
    compare(y_name + " with signs ", row.size(), flipped, y, allowed);
    std::vector<float> back = row;
    plain.output(n, 0, back.data());
    compare(x_name + " back from the transform ", row.size(), back, x,
            [&](std::size_t) { return 2.0 * bound; });
  });
}

}  // namespace

std::string run_hadamard(const Case& c) {
  double worst = 0.0;
  for (const char* size : {"64", "128", "256"}) {
    worst = std::max(worst, check_transform(c, std::string("x_") + size, std::string("y_") + size));
  }
  worst = std::max(worst, check_transform(c, "x_96", "y_96_64_32"));
  const double thirds =
      check_rows(c, "x_96", "y_96_3x32", [](std::vector<float>& row, const float*, double) {
        for (std::size_t i = 0; i < row.size(); i += 32) {
          walsh_hadamard(row.data() + i, 32);
        }
      });
  return "largest error / |x| " + number_text(std::max(worst, thirds));
}

}  // namespace kvcodec::golden
