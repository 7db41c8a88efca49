// The tables of nqkv.hpp: levels, decision thresholds, and the loss that comes with them.
#pragma once

namespace kvcodec {

/// A 16-level table on [-1, 1] and its 15 decision thresholds, ascending.
struct LevelTable {
  float level[16];
  float threshold[15];
};

// What a table has besides: `signed_scale`, whether a scale carries the sign of its group's largest
// value; `zero_code`, the code of every value of a group without a scale; `loss`, the mean relative
// squared error on Gaussian groups of 32, 64, 128, 256 values, by absmax, then by search (of which the
// best scale of a finer set would be about 1 % better).

/// NF4 as published (bitsandbytes literals): 7 negative levels, 0, 8 positive levels.
struct Nf4Table {
  static constexpr const char* family = "nqkv";
  static constexpr bool signed_scale = false;
  static constexpr int zero_code = 7;
  static constexpr double loss[2][4] = {{0.00762, 0.00846, 0.00914, 0.00973},
                                        {0.00629, 0.00729, 0.00803, 0.00871}};
  static constexpr LevelTable table = {
      {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
       -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
       0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
       0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
      {-0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f,
       -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
       0.1202552504837513f, 0.2035212516784668f, 0.2920137718319893f, 0.3893125355243683f,
       0.5016634166240692f, 0.6427869200706482f, 0.8614784178118011f}};
};

/// 16 normal quantiles at equally spaced probabilities between the ends NF4 uses, so that the
/// levels come in pairs +-l and the mean of a symmetric input is kept. It has no level 0.
struct SymmetricTable {
  static constexpr const char* family = "nqsym";
  static constexpr bool signed_scale = false;
  static constexpr int zero_code = 7;
  static constexpr double loss[2][4] = {{0.00762, 0.00846, 0.00914, 0.00973},
                                        {0.00629, 0.00729, 0.00803, 0.00871}};
  static constexpr LevelTable table = {
      {-1.0f, -0.7102505564689636f, -0.5447700619697571f, -0.4189668893814087f,
       -0.3125815987586975f, -0.21714182198047638f, -0.12805640697479248f, -0.04233347252011299f,
       0.04233347252011299f, 0.12805640697479248f, 0.21714182198047638f, 0.3125815987586975f,
       0.4189668893814087f, 0.5447700619697571f, 0.7102505564689636f, 1.0f},
      {-0.8551253080368042f, -0.6275103092193604f, -0.4818684756755829f, -0.3657742440700531f,
       -0.26486170291900635f, -0.17259910702705383f, -0.08519493788480759f, 0.0f,
       0.08519493788480759f, 0.17259910702705383f, 0.26486170291900635f, 0.3657742440700531f,
       0.4818684756755829f, 0.6275103092193604f, 0.8551253080368042f}};
};

/// Levels fitted by Lloyd's iteration under the rule that uses them: a scale with the sign of the
/// largest value, so that of the two ends only +1 must be a level, chosen by search.
///
/// Fitted to groups of 64, half of them Gaussian, half from rows of 128 Gaussian channels of which four
/// are ten times larger, behind a Hadamard transform; both with unit mean square, 65,536 groups each.
/// A table for Gaussian groups alone has 0.8 % less squared error on those and 2.4 % more on the others.
/// Step: code every value with its group's best scale a; move each level to sum(a x) / sum(a a) over its
/// values, thresholds to midpoints; divide by the last level; until the error stands still.
///
/// It has no level 0; code 8 is the lowest positive one, so that a group without a scale decodes to +0.
struct FittedTable {
  static constexpr const char* family = "nqfit";
  static constexpr bool signed_scale = true;
  static constexpr int zero_code = 8;
  static constexpr double loss[2][4] = {{0.00644, 0.00753, 0.00854, 0.00950},
                                        {0.00534, 0.00653, 0.00752, 0.00830}};
  static constexpr LevelTable table = {
      {-0.9221385f, -0.7251135f, -0.5736099f, -0.4449182f, -0.3294803f, -0.2229333f, -0.122393f,
       -0.025732f, 0.0696263f, 0.1654726f, 0.2639208f, 0.3675521f, 0.4806123f, 0.609605f,
       0.7668429f, 1.0f},
      {-0.82362604f, -0.6493617f, -0.50926405f, -0.38719922f, -0.2762068f, -0.17266315f,
       -0.0740625f, 0.021947151f, 0.11754945f, 0.2146967f, 0.31573647f, 0.42408222f, 0.5451087f,
       0.68822396f, 0.8834214f}};
};

}  // namespace kvcodec
