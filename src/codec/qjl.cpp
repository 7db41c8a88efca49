// Names, options and bounds of the QJL codec.
#include "kvcodec/codec/qjl.hpp"

#include <algorithm>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {
namespace {

/// Mean squared error of the decoded vector over the channels that a sketch estimates, per
/// |k_part|^2: the sum of the estimate's variances over the `n_estimated` axes, of which the key's
/// own n_own add up to its direction. Rows in pieces of head_dim, the last one narrower (a Gaussian
/// S counts as pieces of one row).
double sketch_error(const Qjl& codec, int n_signs, int head_dim, double n_estimated) noexcept {
  constexpr double kHalfPi = 1.5707963267948966;
  double error = 0.0;
  for (int left = n_signs; left > 0; left -= head_dim) {
    const int width = std::min(left, head_dim);
    const double shared =
        codec.kind == QjlKind::gauss ? 0.0 : static_cast<double>(width - 1) / (head_dim - 1);
    error += width * (n_estimated * (kHalfPi - shared) - (1.0 - 0.5 * shared));
  }
  return error / n_signs / n_signs;
}

}  // namespace

Qjl Qjl::parse(const std::string& options) {
  Qjl codec;
  long outlier_bits = 0;
  for (const std::string& option : split_options(options)) {
    long n = 0;
    if (option == "gauss") {
      codec.kind = QjlKind::gauss;
    } else if (option == "cd") {
      codec.unbiased = true;
    } else if (option == "tile") {
      codec.outliers = QjlOutliers::tile;
    } else if (option == "fixed") {
      codec.outliers = QjlOutliers::fixed;
    } else if (option == "exact") {
      codec.outliers = QjlOutliers::exact;
    } else if (option.starts_with("mo") && parse_int(option.substr(2), 32, 1024, n) &&
               n % 32 == 0) {
      outlier_bits = n;
    } else if (option.starts_with("m") && parse_int(option.substr(1), 64, 1024, n) && n % 32 == 0) {
      codec.sketch_dim = static_cast<std::int16_t>(n);
    } else if (option.starts_with("o") && parse_int(option.substr(1), 0, kMaxOutliers, n)) {
      codec.outlier_channels = static_cast<std::int16_t>(n);
    } else if (option.starts_with("s") && parse_int(option.substr(1), 1, 65535, n)) {
      codec.seed = static_cast<std::uint32_t>(n);
    } else {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
  }
  const auto refuse = [&](const char* allowed) {
    throw invalid_argument(bad_value(family, "options", options, allowed));
  };
  if (codec.unbiased && codec.kind == QjlKind::gauss) refuse("cd without gauss, which has no bias");
  if (codec.outliers != QjlOutliers::group && codec.outlier_channels == 0) {
    refuse("tile, fixed and exact with o<outlier channels>");
  }
  if (outlier_bits != 0 && !codec.sketches_outliers()) refuse("mo with sketched outliers");
  if (outlier_bits > codec.sketch_dim) refuse("mo up to m");
  codec.outlier_sketch_dim =
      outlier_bits != 0 ? static_cast<std::int16_t>(outlier_bits) : codec.sketch_dim;
  return codec;
}

std::string Qjl::name() const {
  std::string text = std::string(family) + ":m" + std::to_string(sketch_dim);
  if (outlier_channels > 0) text += ":o" + std::to_string(outlier_channels);
  if (sketches_outliers()) text += ":mo" + std::to_string(outlier_sketch_dim);
  if (outlier_channels > 0 && outliers == QjlOutliers::tile) text += ":tile";
  if (outlier_channels > 0 && outliers == QjlOutliers::fixed) text += ":fixed";
  if (outlier_channels > 0 && outliers == QjlOutliers::exact) text += ":exact";
  if (kind == QjlKind::gauss) text += ":gauss";
  if (unbiased) text += ":cd";
  // Not an option: what depends on a caller's own S must not be rebuilt from its name.
  if (given_projection) return text + ":given";
  return seed == 1 ? text : text + ":s" + std::to_string(seed);
}

Qjl Qjl::with_projection(const QjlProjection& projection) const {
  if (projection.sketch_dim() < sketch_dim) {
    throw invalid_argument(bad_value(family, "rows of the projection", projection.sketch_dim(),
                                     "at least m = " + std::to_string(sketch_dim)));
  }
  Qjl codec = *this;
  codec.table = projection.tables();
  codec.given_projection = true;
  codec.load_tables(projection.head_dim());
  return codec;
}

LossBounds Qjl::loss(int head_dim) const noexcept {
  const int o = outlier_channels;
  const bool exact = outliers == QjlOutliers::exact;
  const double in = sketch_error(*this, sketch_dim, head_dim, exact ? head_dim : head_dim - o);
  const double out =
      sketches_outliers() ? sketch_error(*this, outlier_sketch_dim, head_dim, o) : 0.0;
  // The share of |k|^2 that the o largest of head_dim equally distributed channels have.
  const double low = static_cast<double>(o) / head_dim;
  const double high = std::min(1.0, 1.9 * low);
  const auto at = [&](double share) { return (1.0 - share) * in + share * out; };
  return {0.9 * std::min(at(low), at(high)), 1.1 * std::max(at(low), at(high))};
}

}  // namespace kvcodec
