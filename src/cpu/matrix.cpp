#include "src/cpu/matrix.hpp"

#include <cstdint>

#if !defined(KVCODEC_NO_SIMD) && defined(__linux__) && defined(__x86_64__)
#define KVCODEC_MATRIX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kvcodec::cpu {

#if defined(KVCODEC_MATRIX)
namespace {

/// What LDTILECFG reads: bytes of a row and rows of every register.
struct alignas(64) Shapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(Shapes) == 64);

bool cpuid_has_matrices() noexcept {
  constexpr unsigned kTiles = 1u << 24;
  constexpr unsigned kBytes = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) != 0 && (d & kBytes) != 0;
}

bool system_allows_matrices() noexcept {
  constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM, since Linux 5.16
  constexpr long kTileData = 18;     // of XCR0
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

bool processor_has_matrices() noexcept {
  static const bool has = cpuid_has_matrices();
  return has;
}

bool matrix_usable() noexcept {
  static const bool usable = processor_has_matrices() && system_allows_matrices();
  return usable;
}

void begin_matrices(int n_q) noexcept {
  if (!matrix_usable()) return;
  const int n = n_q < kMatrixRows ? n_q : kMatrixRows;
  Shapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.row_bytes[i] = 64;
    shapes.rows[i] = static_cast<std::uint8_t>(i < 6 ? n : kMatrixRows);
  }
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}

void end_matrices() noexcept {
  if (matrix_usable()) asm volatile("tilerelease");
}

#else

bool processor_has_matrices() noexcept { return false; }
bool matrix_usable() noexcept { return false; }
void begin_matrices(int) noexcept {}
void end_matrices() noexcept {}

#endif

}  // namespace kvcodec::cpu
