// One comparator for arrays of values: non-finite values first, then absolute or relative error.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace kvcodec::test {

/// A value is close if |got - want| <= absolute + relative * |want|.
struct Tolerance {
  double absolute = 0.0;
  double relative = 0.0;
};

/// Compares two arrays; a failure names the worst index as coordinates in rows of `width`, both
/// values, the shape and `what` (which should hold the seed).
template <class A, class B>
::testing::AssertionResult close(std::span<const A> got, std::span<const B> want, std::size_t width,
                                 Tolerance tolerance, const std::string& what) {
  if (got.size() != want.size()) {
    return ::testing::AssertionFailure()
           << what << ": " << got.size() << " values, expected " << want.size();
  }
  const auto fail = [&](std::size_t i, const char* why) {
    return ::testing::AssertionFailure()
           << what << ": " << why << " at row " << i / width << ", column " << i % width << " of ["
           << got.size() / width << ", " << width << "]: got " << got[i] << ", expected "
           << want[i];
  };
  std::size_t worst = 0;
  double worst_excess = -1.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto a = static_cast<double>(got[i]);
    const auto b = static_cast<double>(want[i]);
    if (!std::isfinite(a) || !std::isfinite(b)) {
      const bool same = (std::isnan(a) && std::isnan(b)) || a == b;
      if (!same) return fail(i, "non-finite values differ");
      continue;
    }
    const double excess = std::fabs(a - b) - tolerance.absolute - tolerance.relative * std::fabs(b);
    if (excess > 0.0 && excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (worst_excess > 0.0) return fail(worst, "worst value beyond the tolerance");
  return ::testing::AssertionSuccess();
}

/// The same for containers.
template <class A, class B>
::testing::AssertionResult close(const A& got, const B& want, std::size_t width,
                                 Tolerance tolerance, const std::string& what) {
  return close(std::span<const typename A::value_type>(got),
               std::span<const typename B::value_type>(want), width, tolerance, what);
}

/// The same bits, NaN and signs of zero included.
template <class A>
::testing::AssertionResult same_bits(const A& got, const A& want, const std::string& what) {
  using T = typename A::value_type;
  if (got.size() != want.size()) {
    return ::testing::AssertionFailure()
           << what << ": " << got.size() << " values, expected " << want.size();
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(T)) != 0) {
      ::testing::AssertionResult result = ::testing::AssertionFailure();
      result << what << ": bits differ first at index " << i << " of " << got.size();
      if constexpr (std::is_floating_point_v<T>) {
        result << ": got " << got[i] << ", expected " << want[i];
      }
      return result;
    }
  }
  return ::testing::AssertionSuccess();
}

/// 64-bit FNV-1a.
inline std::uint64_t fnv1a(const void* data, std::size_t n) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < n; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace kvcodec::test
