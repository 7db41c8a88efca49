// A list of types to fold over: the one list that tests, benches, tools and docs share.
#pragma once

#include <cstddef>

namespace kvcodec {

template <class... Ts>
struct TypeList {
  static constexpr std::size_t size = sizeof...(Ts);

  /// Calls fn.operator()<T>() for each type, in order.
  template <class F>
  static constexpr void for_each(F&& fn) {
    (fn.template operator()<Ts>(), ...);
  }

  /// The list with more types behind its own.
  template <class... Us>
  using plus = TypeList<Ts..., Us...>;
};

}  // namespace kvcodec
