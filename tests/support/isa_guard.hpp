// Runs a scope on one instruction set, then returns to the one before.
#pragma once

#include <string>

#include "kvcodec/attend/cpu_isa.hpp"

namespace kvcodec::test {

class IsaGuard {
 public:
  explicit IsaGuard(const std::string& name) : before_(cpu_isa()) { force_cpu_isa(name); }
  ~IsaGuard() { force_cpu_isa(before_); }
  IsaGuard(const IsaGuard&) = delete;
  IsaGuard& operator=(const IsaGuard&) = delete;

 private:
  std::string before_;
};

}  // namespace kvcodec::test
