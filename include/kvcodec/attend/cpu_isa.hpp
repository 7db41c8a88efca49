// Which instruction set the CPU kernels use, and how a test or a user forces one.
#pragma once

#include <string>
#include <vector>

namespace kvcodec {

/// Name of the instruction set in use: "scalar", "avx2", "avx512", "amx" on x86; the SIMD target's name
/// elsewhere. Chosen at the first call: the best the machine has, or what the environment variable
/// KVCODEC_FORCE_ISA names. An unknown or missing instruction set there leaves "scalar" in use and
/// cpu_isa_problem() says why.
///
/// "amx" is "avx512" with matrix products for Arithmetic::integer, with the same results to the bit. The
/// first call of attend() that can use them asks Linux for this process's permission; from then on
/// sigaltstack() refuses stacks below about 12 KiB. Refused, attend() uses "avx512" without a word. "avx512" in
/// KVCODEC_FORCE_ISA or force_cpu_isa() prevents the question; so does Arithmetic::f32.
const char* cpu_isa() noexcept;

/// Every name that force_cpu_isa accepts on this machine, slowest first.
std::vector<std::string> available_cpu_isas();

/// Uses `name` from now on. Throws invalid_argument that lists the available names.
/// Not to be called while another thread attends.
void force_cpu_isa(const std::string& name);

/// Empty, or a sentence about KVCODEC_FORCE_ISA that could not be honoured.
std::string cpu_isa_problem();

}  // namespace kvcodec
