#include "src/bench/machine.hpp"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace kvcodec::bench {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

/// "32768K", "1M"
std::size_t parse_size(const std::string& text) {
  std::size_t end = 0;
  std::size_t n = 0;
  try {
    n = std::stoul(text, &end);
  } catch (const std::exception&) {
    return 0;
  }
  const char unit = end < text.size() ? text[end] : ' ';
  return n << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
}

std::size_t last_level_bytes() {
  std::size_t largest = 0;
  for (int i = 0; i < 5; ++i) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/size");
    std::string text;
    if (file >> text) largest = std::max(largest, parse_size(text));
  }
  return largest > 0 ? largest : std::size_t{32} << 20;
}

std::size_t physical_bytes() {
#if defined(_SC_PHYS_PAGES)
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page_bytes > 0) {
    return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_bytes);
  }
#endif
  return std::size_t{8} << 30;
}

}  // namespace

Machine this_machine() {
  return {processor_name(), static_cast<int>(std::thread::hardware_concurrency()),
          last_level_bytes(), physical_bytes()};
}

std::size_t rotated_bytes(const Machine& machine, std::size_t n_buffers) {
  constexpr std::size_t kLeast = std::size_t{64} << 20;
  const std::size_t together = std::min(4 * machine.l3_bytes, machine.memory_bytes / 2);
  return std::max(kLeast, together / n_buffers);
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

}  // namespace kvcodec::bench
