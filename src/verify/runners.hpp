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
std::string run_lagkv_inputs(const Case& c);
std::string run_lagkv_oneshot(const Case& c);
std::string run_lagkv_lengths(const Case& c);
std::string run_lagkv_threshold(const Case& c);
std::string run_lagkv_constant(const Case& c);
std::string run_lagkv_stream(const Case& c);
std::string run_kvpress_scores(const Case& c);
std::string run_kvpress_short(const Case& c);
std::string run_spindle_budgets(const Case& c);
std::string run_spindle_tiny(const Case& c);
std::string run_spindle_layer(const Case& c);
std::string run_wkvquant(const Case& c);
std::string run_kivi(const Case& c);
std::string run_kivi_edge(const Case& c);
std::string run_lloyd_max(const Case& c);
std::string run_turboquant(const Case& c);
std::string run_rabitq(const Case& c);
std::string run_qjl_inputs(const Case& c);
std::string run_qjl_scores(const Case& c);
std::string run_qjl_append(const Case& c);

}  // namespace kvcodec::golden
