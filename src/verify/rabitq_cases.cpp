// Family "rabitq": codes, factors and error bounds of the authors' library, and codec "rabitq".
//
// The library's codes of 2 and more bits are one valid choice and not the best: its search begins
// beyond the top of the grid. So its codes are checked with our factor, and ours must be as good.
#include <nlohmann/json.hpp>
#include <vector>

#include "kvcodec/codec/rabitq.hpp"
#include "src/verify/row_tile.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

constexpr double kFactor = 3e-6;       // relative, by the case
constexpr double kProduct = 2e-6;      // of |o| |q|, by the case
constexpr double kHalfUnit = 0x1p-11;  // relative rounding of a stored f16 factor
constexpr double kEpsilon = 1.9;

struct Inputs {
  explicit Inputs(const Case& c)
      : d(c.parameter<std::size_t>("d")),
        n(c.parameter<std::size_t>("vectors")),
        rows(c.array("rotated").floats()),
        q(c.array("q_rotated").floats()),
        n_q(q.size() / d) {
    for (std::size_t k = 0; k < n_q; ++k) q_norm.push_back(std::sqrt(dot(d, query(k), query(k))));
  }

  std::size_t d, n;
  std::vector<float> rows, q;
  std::size_t n_q;
  std::vector<double> q_norm;

  const float* row(std::size_t i) const { return &rows[i * d]; }
  const float* query(std::size_t k) const { return &q[k * d]; }
  double norm(std::size_t i) const { return std::sqrt(dot(d, row(i), row(i))); }
};

/// Cosine of a row and the grid values of its codes.
double cosine(const Inputs& in, std::size_t i, int bits, const std::vector<std::uint8_t>& codes) {
  std::vector<float> u;
  for (const std::uint8_t code : codes) u.push_back(RaBitQ::grid(bits, code));
  return dot(in.d, in.row(i), u) / (in.norm(i) * std::sqrt(dot(in.d, u, u)));
}

/// Largest error of a product to expect, divided by |q|.
double error_bound(const Inputs& in, std::size_t i, double cos) {
  return in.norm(i) * std::sqrt((1.0 - cos * cos) / (cos * cos)) * kEpsilon /
         std::sqrt(static_cast<double>(in.d - 1));
}

/// Statistics over vectors and queries, as the case records them.
struct Statistics {
  double error = 0.0;
  double inside = 0.0;

  void add(const Inputs& in, std::size_t i, std::size_t k, double estimate, double bound) {
    const double count = static_cast<double>(in.n * in.n_q);
    const double difference = estimate - dot(in.d, in.row(i), in.query(k));
    const double relative = difference / (in.norm(i) * in.q_norm[k]);
    error += static_cast<double>(in.d) * relative * relative / count;
    inside += (std::abs(difference) <= bound * in.q_norm[k] ? 1.0 : 0.0) / count;
  }
};

struct Bits {
  Bits(const Case& c, const Inputs& inputs, int n_bits)
      : in(inputs),
        bits(n_bits),
        suffix("_b" + std::to_string(bits)),
        codes(c.array("code" + suffix).integers()),
        factor(c.array("factor" + suffix).doubles()),
        ip(c.array("ip" + suffix).doubles()),
        bound(c.array("error_bound" + suffix).doubles()) {}

  const Inputs& in;
  int bits;
  std::string suffix;
  std::vector<std::int64_t> codes;
  std::vector<double> factor, ip, bound;

  std::string where(std::size_t i) const { return suffix + " of vector " + std::to_string(i); }

  std::vector<std::uint8_t> codes_of(std::size_t i) const {
    std::vector<std::uint8_t> row;
    for (std::size_t j = 0; j < in.d; ++j) {
      const std::int64_t code = codes[i * in.d + j];
      require(code >= 0 && code < (1 << bits), "code" + where(i) + " is no code");
      row.push_back(static_cast<std::uint8_t>(code));
    }
    return row;
  }

  /// The library's codes: our factor, estimates and bound must be its own.
  void check_given_codes(std::size_t i, Statistics& given) const {
    const std::vector<std::uint8_t> row = codes_of(i);
    const auto own = static_cast<double>(
        RaBitQ::factor_for(bits, static_cast<int>(in.d), in.row(i), row.data()));
    require_near("factor" + where(i), own, factor[i], kFactor * factor[i]);
    // The library takes 1 - cos^2 in f32.
    const double own_bound = error_bound(in, i, cosine(in, i, bits, row));
    require_near("error_bound" + where(i), own_bound, bound[i], 1e-4 * bound[i]);
    for (std::size_t k = 0; k < in.n_q; ++k) {
      double sum = 0.0;
      for (std::size_t j = 0; j < in.d; ++j) {
        sum +=
            static_cast<double>(RaBitQ::grid(bits, row[j])) * static_cast<double>(in.query(k)[j]);
      }
      require_near("ip" + where(i), own * sum, ip[i * in.n_q + k],
                   kProduct * in.norm(i) * in.q_norm[k]);
      given.add(in, i, k, ip[i * in.n_q + k], bound[i]);
    }
  }

  /// Our codes: signs equal, never worse, and the decoded row gives the estimate.
  void check_own_codes(std::size_t i, const RowTile<RaBitQ>& tile, Statistics& own) const {
    const std::vector<std::uint8_t> row = tile.codes(i);
    const std::vector<std::uint8_t> given = codes_of(i);
    for (std::size_t j = 0; j < in.d; ++j) {
      require(row[j] >> (bits - 1) == given[j] >> (bits - 1), "sign in code" + where(i));
    }
    const double cos = cosine(in, i, bits, row);
    require(cos >= cosine(in, i, bits, given) - 1e-12, "a better code than ours exists" + where(i));
    const auto exact = static_cast<double>(
        RaBitQ::factor_for(bits, static_cast<int>(in.d), in.row(i), row.data()));
    require_near("stored factor" + where(i), static_cast<double>(tile.scale(i)), exact,
                 kHalfUnit * exact);
    for (std::size_t k = 0; k < in.n_q; ++k) {
      const double estimate = dot(in.d, tile.values(i), in.query(k));
      if (row == given) {
        const double expected = ip[i * in.n_q + k];
        require_near("stored ip" + where(i), estimate, expected,
                     kHalfUnit * std::abs(expected) + kProduct * in.norm(i) * in.q_norm[k]);
      }
      own.add(in, i, k, estimate, error_bound(in, i, cos));
    }
  }
};

void check_statistics(const Case& c, int bits, const Statistics& given, const Statistics& own) {
  const std::string name = "b" + std::to_string(bits);
  const auto recorded = c.check<nlohmann::json>(name);
  const auto error = recorded.at("mean_d_times_normalised_ip_error").get<double>();
  require_near("mean error of " + name, given.error, error, 1e-3 * error);
  require_near("share inside the bound of " + name, given.inside,
               recorded.at("fraction_inside_bound").get<double>(), 1e-9);
  // Better codes have smaller errors on average; these few products leave some noise.
  require(own.error <= 1.1 * error, "mean error of our codes, " + name + ": " +
                                        number_text(own.error) + ", the library's " +
                                        number_text(error));
}

}  // namespace

std::string run_rabitq(const Case& c) {
  const Inputs in(c);
  std::string text;
  for (int bits = 1; bits <= 4; ++bits) {
    const Bits b(c, in, bits);
    Statistics given;
    Statistics own;
    for (const Side side : {Side::key, Side::value}) {
      given = {};
      own = {};
      const RowTile<RaBitQ> tile({bits, RaBitQ::Rule::search}, side, static_cast<int>(in.d),
                                 in.rows);
      for (std::size_t i = 0; i < in.n; ++i) {
        b.check_given_codes(i, given);
        b.check_own_codes(i, tile, own);
      }
    }
    check_statistics(c, bits, given, own);
    text += std::string(bits == 1 ? "" : ", ") + std::to_string(bits) +
            " bits: " + number_text(own.error) + " (library " + number_text(given.error) + ")";
  }
  return "d * mean squared error of products, " + text;
}

}  // namespace kvcodec::golden
