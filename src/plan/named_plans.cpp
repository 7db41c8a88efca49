// The texts of named plans.
#include "kvcodec/plan/named_plans.hpp"

#include <array>

#include "kvcodec/core/error.hpp"

namespace kvcodec {
namespace {

/// A setting that differs between the initial layers and the others.
struct Entry {
  const char* name;
  const char* initial_k;
  const char* k;
  const char* rest;  ///< settings of all layers
};

constexpr std::array kPlans = {
    Entry{"qjl-3.03", "qjl:m512", "qjl:m256", "v=kivi:b2:g32,recent=0,flush=128"},
    Entry{"qjl-3.87", "qjl:m512:o8:mo128", "qjl:m256:o8:mo256", "v=kivi:b2:g32,recent=0,flush=128"},
};

const Entry* find(const std::string& name) noexcept {
  for (const Entry& e : kPlans) {
    if (name == e.name) return &e;
  }
  return nullptr;
}

}  // namespace

bool is_named_plan(const std::string& name) noexcept { return find(name) != nullptr; }

std::string named_plan(const std::string& name, int n_layers) {
  const Entry* entry = find(name);
  if (entry == nullptr)
    throw invalid_argument(bad_value("named_plan", "name", name, named_plans()));
  if (n_layers < 1 || n_layers > 65536) {
    throw invalid_argument(bad_value("named_plan", "n_layers", n_layers, "1..65536"));
  }
  const std::string text = std::string("k=") + entry->k + "," + entry->rest;
  const int n_initial = (15 * n_layers + 16) / 32;
  if (n_initial == 0) return text;
  return text + ";0-" + std::to_string(n_initial - 1) + ":k=" + entry->initial_k;
}

std::string named_plans() {
  std::string text;
  for (const Entry& e : kPlans) text += (text.empty() ? "" : ", ") + std::string(e.name);
  return text;
}

}  // namespace kvcodec
