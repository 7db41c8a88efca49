// The one list of built-in transforms, and transforms by name.
#pragma once

#include <string>

#include "kvcodec/core/by_name.hpp"
#include "kvcodec/core/type_list.hpp"
#include "kvcodec/transform/channel_affine.hpp"
#include "kvcodec/transform/hadamard.hpp"
#include "kvcodec/transform/transform.hpp"

namespace kvcodec {

/// Every transform that can be named in a plan.
using BuiltinTransforms = TypeList<Identity, Hadamard, ChannelAffine>;

/// Builds the transform that `spec` = "family[:option]" names.
///
/// Throws invalid_argument that lists the families, or the options of the family.
template <class List = BuiltinTransforms>
AnyTransform make_transform(const std::string& spec) {
  return make_by_name<AnyTransform, List>("transform", spec);
}

}  // namespace kvcodec
