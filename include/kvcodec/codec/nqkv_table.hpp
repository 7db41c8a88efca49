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
/// Fitted to groups of 64 out of rows of 128 Gaussian values of three kinds in equal numbers, whose
/// squared errors weigh 1, 2.2 and 0.062: as they are; with four channels ten times larger behind a
/// Hadamard transform (flat groups, which want levels near the ends); and the same not transformed (a
/// large value among small ones, which want levels near zero). A table for Gaussian groups alone has 2 %
/// less squared error on the first kind, 1 % more on the second and 12 % more on the third.
/// Step: code every value with its group's best scale a; move each level to sum(a x) / sum(a a) over its
/// values, thresholds to midpoints; divide by the last level; until the error stands still.
///
/// It has no level 0; code 8 is the lowest positive one, so that a group without a scale decodes to +0.
struct FittedTable {
  static constexpr const char* family = "nqfit";
  static constexpr bool signed_scale = true;
  static constexpr int zero_code = 8;
  static constexpr double loss[2][4] = {{0.00651, 0.00763, 0.00868, 0.00968},
                                        {0.00540, 0.00660, 0.00762, 0.00840}};
  static constexpr LevelTable table = {
      {-0.9277117f, -0.7335038f, -0.582463f, -0.4501461f, -0.3287359f, -0.2149992f, -0.1083091f,
       -0.019735f, 0.0580637f, 0.1552631f, 0.2613726f, 0.372151f, 0.4904024f, 0.6207941f,
       0.7755883f, 1.0f},
      {-0.8306078f, -0.6579834f, -0.51630455f, -0.389441f, -0.27186754f, -0.16165414f, -0.06402205f,
       0.01916435f, 0.1066634f, 0.20831785f, 0.3167618f, 0.43127668f, 0.55559826f, 0.69819117f,
       0.88779414f}};
};

}  // namespace kvcodec
