// The one list of built-in policies, and policies by name.
#pragma once

#include <string>

#include "kvcodec/core/by_name.hpp"
#include "kvcodec/core/type_list.hpp"
#include "kvcodec/policy/keydiff.hpp"
#include "kvcodec/policy/knorm.hpp"
#include "kvcodec/policy/kvpress_lagkv.hpp"
#include "kvcodec/policy/lagkv.hpp"
#include "kvcodec/policy/policy.hpp"
#include "kvcodec/policy/sink_window.hpp"
#include "kvcodec/policy/snapkv.hpp"
#include "kvcodec/policy/spindle.hpp"

namespace kvcodec {

/// Every policy that can be named in a plan.
using BuiltinPolicies =
    TypeList<SinkWindow, LagKv, KvpressLagKv, SnapKv, KeyDiff, Knorm, SpindlePyramid>;

/// Builds the policy that `spec` = "family[:option[:option...]]" names; "none" keeps every row.
///
/// Throws invalid_argument that lists the families, or the options of the family.
template <class List = BuiltinPolicies>
AnyPolicy make_policy(const std::string& spec) {
  if (spec == "none") return {};
  return make_by_name<AnyPolicy, List>("policy", spec);
}

}  // namespace kvcodec
