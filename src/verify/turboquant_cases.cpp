// Family "turboquant": codec "lm" behind an explicit rotation. The case rotates in float64, and so
// does this runner; indices, scales and levels are the codec's.
#include <nlohmann/json.hpp>
#include <vector>

#include "kvcodec/codec/lloyd_max.hpp"
#include "src/verify/row_tile.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// The tolerances of the case for f32 and for stored f16 scales, in units of |x| and |x| |q|.
constexpr double kRecon = 1e-6;
constexpr double kProduct = 2e-6;
constexpr double kStored = 1e-3;

std::vector<double> rotate(std::size_t d, const std::vector<double>& pi,
                           const std::vector<double>& x, bool transposed) {
  std::vector<double> y(x.size());
  for (std::size_t first = 0; first < x.size(); first += d) {
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j < d; ++j) {
        y[first + i] += (transposed ? pi[j * d + i] : pi[i * d + j]) * x[first + j];
      }
    }
  }
  return y;
}

/// The arrays that do not depend on the number of bits.
struct Inputs {
  explicit Inputs(const Case& c)
      : d(c.parameter<std::size_t>("d")),
        n(c.parameter<std::size_t>("vectors")),
        n_q(c.parameter<std::size_t>("queries")),
        pi(c.array("Pi").doubles()),
        x(c.array("x").doubles()),
        q(c.array("q").doubles()),
        exact(c.array("exact_ip").doubles()),
        y(rotate(d, pi, x, false)),
        rotated_q(rotate(d, pi, q, false)),
        rows(y.begin(), y.end()) {
    for (std::size_t i = 0; i < n; ++i) norm.push_back(std::sqrt(dot(d, &x[i * d], &x[i * d])));
    for (std::size_t i = 0; i < n_q; ++i) {
      q_norm.push_back(std::sqrt(dot(d, &q[i * d], &q[i * d])));
    }
  }

  std::size_t d, n, n_q;
  std::vector<double> pi, x, q, exact, y, rotated_q;
  std::vector<float> rows;  ///< what the codec gets: Pi x, not normalised
  std::vector<double> norm, q_norm;

  const float* row(std::size_t i) const { return &rows[i * d]; }
  float rms(std::size_t i) const { return LloydMax::rms_of(static_cast<int>(d), row(i)); }
};

void check_rotation(const Case& c, const Inputs& in) {
  const std::vector<float> norm = c.array("norm").floats();
  const std::vector<float> unit = c.array("rotated_unit").floats();
  for (std::size_t i = 0; i < in.n; ++i) {
    const double expected = static_cast<double>(norm[i]);
    const double own = static_cast<double>(in.rms(i)) * std::sqrt(static_cast<double>(in.d));
    require_near("norm of vector " + std::to_string(i), own, expected, 1e-6 * expected);
    for (std::size_t j = 0; j < in.d; ++j) {
      require_near("rotated_unit[" + std::to_string(i * in.d + j) + "]", in.y[i * in.d + j],
                   expected * static_cast<double>(unit[i * in.d + j]), 2e-7 * expected);
    }
  }
}

/// Sums of the statistics that the case records.
struct Means {
  double sq_error = 0.0;
  double plain = 0.0;
  double rescaled = 0.0;
};

/// One number of bits.
struct Bits {
  Bits(const Case& c, const Inputs& inputs, int bits)
      : in(inputs),
        suffix("_b" + std::to_string(bits)),
        table(lloyd_max_table(bits, static_cast<int>(in.d))),
        plain{bits, LloydMax::Rule::rms},
        unbiased{bits, LloydMax::Rule::unbiased},
        idx(c.array("idx" + suffix).integers()),
        recon(c.array("recon" + suffix).doubles()),
        sq_error(c.array("sq_error" + suffix).doubles()),
        rescale(c.array("rescale" + suffix).doubles()),
        ip_plain(c.array("ip_plain" + suffix).doubles()),
        ip_rescaled(c.array("ip_rescaled" + suffix).doubles()) {
    const std::vector<double> centroids = c.array("centroids" + suffix).doubles();
    for (std::size_t i = 0; i < centroids.size(); ++i) {
      require_near("centroids" + suffix,
                   static_cast<double>(table.level[i]) / std::sqrt(static_cast<double>(in.d)),
                   centroids[i], 1e-7);
    }
    if (c.has_array("undecided_fp32" + suffix)) {
      undecided = c.array("undecided_fp32" + suffix).integers();
    }
  }

  const Inputs& in;
  std::string suffix;
  LloydMaxTable table;
  LloydMax plain, unbiased;
  std::vector<std::int64_t> idx;
  std::vector<double> recon, sq_error, rescale, ip_plain, ip_rescaled;
  std::vector<std::int64_t> undecided;  ///< empty: none

  void check_codes(const std::vector<std::uint8_t>& codes, std::size_t i) const {
    for (std::size_t j = 0; j < in.d; ++j) {
      const std::size_t at = i * in.d + j;
      const auto off = std::abs(static_cast<std::int64_t>(codes[j]) - idx[at]);
      require(off <= (undecided.empty() || undecided[at] == 0 ? 0 : 1),
              "idx" + suffix + "[" + std::to_string(at) + "]: code " + std::to_string(codes[j]) +
                  ", expected " + std::to_string(idx[at]));
    }
  }

  std::vector<double> levels(std::size_t i) const {
    std::vector<double> levels;
    for (std::size_t j = 0; j < in.d; ++j) {
      const auto code = static_cast<std::size_t>(idx[i * in.d + j]);
      require(code < static_cast<std::size_t>(table.n_levels), "idx" + suffix + " is no code");
      levels.push_back(static_cast<double>(table.level[code]));
    }
    return levels;
  }

  /// Reconstruction and products of vector i, whose scale before and after storage is given.
  void check_plain(std::size_t i, const RowTile<LloydMax>& tile, Means& means) const {
    const std::string where = suffix + " of vector " + std::to_string(i);
    std::vector<double> c = levels(i);
    for (double& value : c) value *= static_cast<double>(in.rms(i));
    const std::vector<double> own = rotate(in.d, in.pi, c, true);
    const std::vector<double> stored =
        rotate(in.d, in.pi, {tile.values(i), tile.values(i) + in.d}, true);
    const auto within = [&](double bound) {
      return [this, i, bound](std::size_t) { return bound * in.norm[i]; };
    };
    compare("recon" + where, in.d, own, &recon[i * in.d], within(kRecon));
    compare("stored recon" + where, in.d, stored, &recon[i * in.d], within(kStored));
    double error = 0.0;
    for (std::size_t j = 0; j < in.d; ++j) {
      error += (own[j] - in.x[i * in.d + j]) * (own[j] - in.x[i * in.d + j]);
    }
    require_near("sq_error" + where, error, sq_error[i], 1e-4 * sq_error[i]);
    means.sq_error += error / (in.norm[i] * in.norm[i]);
    check_products("ip_plain" + where, i, c, tile.values(i), &ip_plain[i * in.n_q], means.plain);
  }

  void check_unbiased(std::size_t i, const RowTile<LloydMax>& tile, Means& means) const {
    const std::string where = suffix + " of vector " + std::to_string(i);
    const std::vector<std::uint8_t> codes = tile.codes(i);
    const auto scale = static_cast<double>(
        LloydMax::scale_for(unbiased.rule, table, static_cast<int>(in.d), in.row(i), codes.data()));
    require_near("rescale" + where, scale / static_cast<double>(in.rms(i)), rescale[i],
                 1e-6 * rescale[i]);
    std::vector<double> c = levels(i);
    for (double& value : c) value *= scale;
    check_products("ip_rescaled" + where, i, c, tile.values(i), &ip_rescaled[i * in.n_q],
                   means.rescaled);
  }

  /// Products of the queries with the row `c` at full precision and with the decoded row.
  void check_products(const std::string& what, std::size_t i, const std::vector<double>& c,
                      const float* decoded, const double* expected, double& mean) const {
    for (std::size_t k = 0; k < in.n_q; ++k) {
      const double unit = in.norm[i] * in.q_norm[k];
      const double* query = &in.rotated_q[k * in.d];
      require_near(what, dot(in.d, c, query), expected[k], kProduct * unit);
      require_near("stored " + what, dot(in.d, decoded, query), expected[k], kStored * unit);
      const double error = (dot(in.d, decoded, query) - in.exact[i * in.n_q + k]) / unit;
      mean += static_cast<double>(in.d) * error * error / static_cast<double>(in.n_q);
    }
  }
};

void check_mean(const Case& c, const std::string& bits, const char* name, double own) {
  const auto expected = c.check<nlohmann::json>(bits).at(name).get<double>();
  require_near(std::string(name) + " of " + bits, own, expected, 5e-3 * expected);
}

void check_bits(const Case& c, const Inputs& in, int bits) {
  const Bits b(c, in, bits);
  for (const Side side : {Side::key, Side::value}) {
    const RowTile<LloydMax> plain(b.plain, side, static_cast<int>(in.d), in.rows);
    const RowTile<LloydMax> unbiased(b.unbiased, side, static_cast<int>(in.d), in.rows);
    Means means;
    double n_rows = 0.0;
    for (std::size_t i = 0; i < in.n; ++i) {
      if (in.norm[i] == 0.0) {
        require(plain.scale(i) == 0.0f && unbiased.scale(i) == 0.0f && b.rescale[i] == 0.0,
                "a zero vector has scale 0");
        continue;
      }
      b.check_codes(plain.codes(i), i);
      b.check_codes(unbiased.codes(i), i);
      require(plain.scale(i) == to_f32(to_f16(in.rms(i))), "stored scale" + b.suffix);
      b.check_plain(i, plain, means);
      b.check_unbiased(i, unbiased, means);
      n_rows += 1.0;
    }
    const std::string name = "b" + std::to_string(bits);
    check_mean(c, name, "mean_relative_sq_error", means.sq_error / n_rows);
    check_mean(c, name, "mean_d_times_normalised_ip_error_plain", means.plain / n_rows);
    check_mean(c, name, "mean_d_times_normalised_ip_error_rescaled", means.rescaled / n_rows);
  }
}

/// Rotated rows that an f16 engine has rounded first: the case names the coordinates that may move.
void check_rounded_rows(const Case& c, const Inputs& in) {
  const std::vector<std::int64_t> undecided = c.array("undecided_fp16_b4").integers();
  const std::vector<std::int64_t> idx = c.array("idx_b4").integers();
  std::vector<float> rounded = in.rows;
  for (float& value : rounded) value = to_f32(to_f16(value));
  const LloydMax codec{4, LloydMax::Rule::mse};
  const RowTile<LloydMax> tile(codec, Side::key, static_cast<int>(in.d), rounded);
  for (std::size_t i = 0; i < in.n; ++i) {
    const std::vector<std::uint8_t> codes = tile.codes(i);
    for (std::size_t j = 0; in.norm[i] > 0.0 && j < in.d; ++j) {
      const std::size_t at = i * in.d + j;
      const auto off = std::abs(static_cast<std::int64_t>(codes[j]) - idx[at]);
      require(off <= (undecided[at] != 0 ? 1 : 0),
              "code of the rounded row, [" + std::to_string(at) + "]");
    }
  }
}

}  // namespace

std::string run_turboquant(const Case& c) {
  const Inputs in(c);
  check_rotation(c, in);
  for (int bits = 1; bits <= 4; ++bits) check_bits(c, in, bits);
  check_rounded_rows(c, in);
  return std::to_string(in.n) + " vectors, 1 to 4 bits, K and V tiles: every index equal, " +
         "scales rms and unbiased";
}

}  // namespace kvcodec::golden
