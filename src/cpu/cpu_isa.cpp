// Choice of the kernel table.
#include "kvcodec/attend/cpu_isa.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {
namespace cpu {

namespace {

/// The tables of this machine, slowest first: scalar, one per SIMD target, matrices.
struct Tables {
  static constexpr int kMax = 8;
  const Kernels* table[kMax] = {&scalar_kernels()};
  int n = 1;

  Tables() noexcept {
    // Highway gives the better target the lower bit.
    for (int bit = 62; bit >= 0 && n < kMax; --bit) {
      const Kernels* found = simd_kernels(std::int64_t{1} << bit);
      if (found != nullptr) table[n++] = found;
    }
    const Kernels* matrices = matrix_kernels();
    if (matrices != nullptr && n < kMax) table[n++] = matrices;
  }

  const Kernels* best() const noexcept { return table[n - 1]; }

  const Kernels* find(const char* name) const noexcept {
    for (int i = 0; i < n; ++i) {
      if (std::strcmp(table[i]->isa, name) == 0) return table[i];
    }
    return nullptr;
  }
};

const Tables& tables() noexcept {
  static const Tables all;
  return all;
}

/// What the environment asks for, read once.
struct Request {
  char name[32] = {};    ///< empty: nothing
  const Kernels* table;  ///< where the process starts

  Request() noexcept {
    const char* text = std::getenv("KVCODEC_FORCE_ISA");
    if (text != nullptr) std::strncpy(name, text, sizeof(name) - 1);
    table = name[0] != '\0' ? tables().find(name) : tables().best();
    if (table == nullptr) table = &scalar_kernels();
  }
};

const Request& request() noexcept {
  static const Request first;
  return first;
}

/// Null until force_cpu_isa is called.
std::atomic<const Kernels*> forced{nullptr};

std::string names() {
  std::string list;
  for (const std::string& name : available_cpu_isas()) list += (list.empty() ? "" : ", ") + name;
  return list;
}

}  // namespace

const Kernels& kernels() noexcept {
  const Kernels* table = forced.load(std::memory_order_acquire);
  return table != nullptr ? *table : *request().table;
}

}  // namespace cpu

const char* cpu_isa() noexcept { return cpu::kernels().isa; }

std::vector<std::string> available_cpu_isas() {
  const cpu::Tables& all = cpu::tables();
  std::vector<std::string> list;
  for (int i = 0; i < all.n; ++i) list.emplace_back(all.table[i]->isa);
  return list;
}

void force_cpu_isa(const std::string& name) {
  const cpu::Kernels* table = cpu::tables().find(name.c_str());
  if (table == nullptr) {
    throw invalid_argument(bad_value("force_cpu_isa", "name", name, cpu::names()));
  }
  cpu::forced.store(table, std::memory_order_release);
}

std::string cpu_isa_problem() {
  const std::string name = cpu::request().name;
  if (name.empty() || cpu::tables().find(name.c_str()) != nullptr) return {};
  return bad_value("KVCODEC_FORCE_ISA", "instruction set", name, cpu::names()) +
         "; the scalar kernels are in use";
}

}  // namespace kvcodec
