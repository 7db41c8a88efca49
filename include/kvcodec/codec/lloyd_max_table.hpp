// Lloyd-Max tables: the scalar quantizers of 1 to 4 bits with the smallest squared error.
//
// A row of head_dim independent Gaussian values divided by its root mean square is a uniform point
// of the sphere of radius sqrt(head_dim). Each of its values has the density
// (1 - y^2 / d)^((d - 3) / 2), d = head_dim, which tends to N(0, 1). The tables solve the two
// conditions of Lloyd and Max for that density: a level is the mean of its cell, a threshold the
// midpoint of its levels. Levels were solved in extended precision and rounded once.
//
// Tables exist for d = 64, 128, 256 and for the limit. Any other head_dim takes the one nearest in
// 1/d, the axis on which levels are all but linear: 80 takes 64; 96..160 take 128; 176..512 take
// 256. That costs at most 0.03 % of squared error against a table of its own.
#pragma once

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// Levels ascending, level[n - 1 - i] = -level[i], and the thresholds between them.
struct LloydMaxTable {
  int n_levels;
  float level[16];
  float threshold[15];
};

/// Index of the tabulated d for a row of head_dim values: 0, 1, 2, 3 for 64, 128, 256, infinity.
KVCODEC_HD constexpr int lloyd_max_table_of(int head_dim) noexcept {
  return head_dim <= 85 ? 0 : head_dim <= 170 ? 1 : head_dim <= 512 ? 2 : 3;
}

/// The table of `bits` = 1..4 for rows of head_dim values with a root mean square of 1.
KVCODEC_HD constexpr LloydMaxTable lloyd_max_table(int bits, int head_dim) noexcept {
  // The positive levels of 1, 2, 3 and 4 bits one after the other.
  struct Positive {
    float level[4][15];
  };
  constexpr Positive positive = {
      {{0.801007265399f, 0.452118950113f, 1.499974795363f, 0.243753431450f, 0.750658105747f,
        1.329342871402f, 2.111311446757f, 0.127352180432f, 0.384718265676f, 0.650494148160f,
        0.931894018586f, 1.239404222335f, 1.590849128958f, 2.023309825803f, 2.646370491023f},
       {0.799444436039f, 0.452453250475f, 1.505192978365f, 0.244424872927f, 0.753330159676f,
        1.336598885940f, 2.131470844095f, 0.127873151738f, 0.386380915731f, 0.653618947679f,
        0.937097021394f, 1.247770458256f, 1.604342660048f, 2.045925380035f, 2.688859256774f},
       {0.798664123546f, 0.452617583051f, 1.507804514376f, 0.244759802638f, 0.754667365419f,
        1.340247310029f, 2.141668641200f, 0.128133986915f, 0.387214043123f, 0.655187151855f,
        0.939713724699f, 1.251989019110f, 1.611168120896f, 2.057411209836f, 2.710566995163f},
       {0.797884560803f, 0.452780034636f, 1.510417608499f, 0.245094178944f, 0.756005281206f,
        1.343909278505f, 2.151945704537f, 0.128395029851f, 0.388048299490f, 0.656759118533f,
        0.942340456487f, 1.256231197347f, 1.618046386022f, 2.069017226532f, 2.732589570995f}}};
  const int row = lloyd_max_table_of(head_dim);
  const int half = 1 << (bits - 1);
  LloydMaxTable table{};
  table.n_levels = 2 * half;
  for (int i = 0; i < half; ++i) {
    const float level = positive.level[row][half - 1 + i];
    table.level[half + i] = level;
    table.level[half - 1 - i] = -level;
  }
  for (int i = 0; i + 1 < table.n_levels; ++i) {
    table.threshold[i] = 0.5f * (table.level[i] + table.level[i + 1]);
  }
  return table;
}

/// Mean squared error of that table on its own density: the relative error of rule `rms`.
KVCODEC_HD constexpr double lloyd_max_distortion(int bits, int head_dim) noexcept {
  struct Errors {
    double of[4][4];
  };
  constexpr Errors errors = {{{0.3583873608, 0.1145257568, 0.0333908341, 0.0091315176},
                              {0.3608885937, 0.1160000703, 0.0339659258, 0.0093147880},
                              {0.3621356178, 0.1167400388, 0.0342560036, 0.0094075294},
                              {0.3633802276, 0.1174818478, 0.0345477608, 0.0095010080}}};
  return errors.of[lloyd_max_table_of(head_dim)][bits - 1];
}

}  // namespace kvcodec
