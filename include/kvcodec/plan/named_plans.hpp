// Plans with a name: settings of papers and of their released code, as text for make_cache_config.
//
// qjl-3.03   QJL as its "3 bits" must be read: m = 512 on the initial layers, 256 on the others, no
//            outliers, one norm; values in 2 bits by groups of 32. 3.03 bits per value at head_dim 128.
// qjl-3.87   QJL as the released LongBench script sets it: 8 outlier channels as well, with 128 signs
//            on the initial layers and 256 on the others. 3.87 bits per value.
//
// The release calls layers 0..14 of 32 initial; other models get the same share, rounded.
//
// Window: recent = 0, flush = 128, the release's rule for keys: the newest n mod 128 of n tokens are raw.
// Its values keep exactly the newest 128 raw instead and encode one token per step; here K and V leave
// one window together, so values follow the keys' rule and 0 to 127 of them are raw, half as many on
// average. recent = 128 in a plan of one's own keeps at least the release's raw values, and as many keys.
#pragma once

#include <string>

namespace kvcodec {

/// Whether `name` is a named plan.
bool is_named_plan(const std::string& name) noexcept;

/// The text of a named plan for a model of n_layers layers (1..65536). make_cache_config takes the
/// name itself as well. Throws invalid_argument listing the names that exist.
std::string named_plan(const std::string& name, int n_layers);

/// The names, separated by ", ".
std::string named_plans();

}  // namespace kvcodec
