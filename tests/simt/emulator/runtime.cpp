#include "tests/simt/emulator/runtime.hpp"

#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

Schedule schedule_from_environment() {
  const char* const text = std::getenv("KVCODEC_SIMT_ORDER");
  const std::string order = text == nullptr ? "forward" : text;
  if (order == "forward") return {Order::forward, 1};
  if (order == "backward") return {Order::backward, 1};
  if (order == "random") return {Order::random, 1};
  if (order.starts_with("random:")) {
    return {Order::random, std::strtoull(order.c_str() + 7, nullptr, 10)};
  }
  throw std::invalid_argument("KVCODEC_SIMT_ORDER = \"" + order +
                              "\", allowed: forward, backward, random, random:<seed>");
}

Schedule& current_schedule() {
  static Schedule value = schedule_from_environment();
  return value;
}

Device& current_device() {
  static Device value;
  return value;
}

// The newest fault; `pending` until somebody takes it.
struct FaultText {
  std::string text;
  std::string error_string = "unspecified launch failure";
  bool pending = false;
};
FaultText& fault() {
  static FaultText value;
  return value;
}

}  // namespace

Schedule schedule() { return current_schedule(); }
void set_schedule(const Schedule& schedule) { current_schedule() = schedule; }

std::string to_string(const Schedule& schedule) {
  switch (schedule.order) {
    case Order::forward: return "forward";
    case Order::backward: return "backward";
    case Order::random: break;
  }
  return "random:" + std::to_string(schedule.seed);
}

Device device() { return current_device(); }
void set_device(const Device& device) { current_device() = device; }

std::string take_fault() {
  if (!std::exchange(fault().pending, false)) return "";
  return fault().text;
}

void set_fault_text(const char* text) {
  fault().text = text;
  fault().error_string = std::string("unspecified launch failure: ") + text;
  fault().pending = true;
}

const char* launch_failure_text() { return fault().error_string.c_str(); }

}  // namespace kvcodec::simt
