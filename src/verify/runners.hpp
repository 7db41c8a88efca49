// The runners of golden.cpp's list. Each returns a line about what it measured and throws mismatch
// or another error if the case does not hold.
#pragma once

#include <string>

#include "src/verify/case.hpp"

namespace kvcodec::golden {

std::string run_nf4_table(const Case& c);
std::string run_nf4_groups(const Case& c);
std::string run_attention_decode(const Case& c);
std::string run_attention_merge(const Case& c);
std::string run_attention_ones(const Case& c);
std::string run_realistic_kv(const Case& c);
std::string run_hadamard(const Case& c);
std::string run_qjl_inputs(const Case& c);
std::string run_qjl_scores(const Case& c);
std::string run_qjl_append(const Case& c);

}  // namespace kvcodec::golden
