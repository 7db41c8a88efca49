// The kernels of the built-in codecs are shared out over kSlices files, so that they compile in parallel:
// codec i of the list belongs to slice i % kSlices.
#pragma once

#include <cstddef>
#include <utility>

#include "kvcodec/core/type_list.hpp"

namespace kvcodec::cuda {

inline constexpr int kSlices = 4;

/// fn.operator()<C>() for the codecs of a slice of the list.
template <int kSlice, class F, class... Cs>
void for_each_of_slice(TypeList<Cs...>, const F& fn) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    const auto call = [&]<std::size_t kIndex, class C>() {
      if constexpr (kIndex % kSlices == kSlice) fn.template operator()<C>();
    };
    (call.template operator()<I, Cs>(), ...);
  }
  (std::index_sequence_for<Cs...>{});
}

}  // namespace kvcodec::cuda
