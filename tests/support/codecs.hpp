// What the suites run over: every codec of BuiltinCodecs, with options.
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <map>
#include <string>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"

namespace kvcodec::test {

/// THE LIST of option variants by family. A family that is not named here runs with its defaults.
inline const std::map<std::string, std::vector<std::string>>& option_variants() {
  static const std::map<std::string, std::vector<std::string>> variants = {
      {"fp8", {"s1", "row"}},
      {"nqkv", {"g32", "g64", "g128", "g256", "g64:x0.96", "g32:search"}},
      {"nqsym", {"g32", "g64", "g128", "g256", "g64:x0.96", "g32:search"}},
      {"nqfit", {"g64", "g64:search"}},
      {"wkv", {"b4:g128", "b4:g64:x0.92", "b3:g32", "b2:g128", "b2:g64:x0.58", "b8:g128"}},
      {"kivi", {"b2:g32", "b4:g64"}},
      {"lm", {"b4", "b3:unbiased", "b2:norm", "b1:rms"}},
      {"rabitq", {"b4", "b3:fast", "b1"}},
      {"qjl",
       {"m256", "m96:o8:mo64:gauss", "m128:o5:tile:cd:s9", "m96:o4:mo32:fixed", "m160:o4:exact"}},
  };
  return variants;
}

/// Specs of every built-in codec and variant.
inline std::vector<std::string> codec_specs() {
  std::vector<std::string> specs;
  BuiltinCodecs::for_each([&]<class C>() {
    const auto found = option_variants().find(C::family);
    if (found == option_variants().end()) {
      specs.push_back(C::family);
      return;
    }
    for (const std::string& options : found->second) {
      specs.push_back(std::string(C::family) + ":" + options);
    }
  });
  return specs;
}

/// Whether a spec names a codec for V as well as for K.
inline bool takes_values(const std::string& spec) { return !make_codec(spec).key_only(); }

/// The plan that uses a codec wherever it may stand: on both sides, or on K beside f16.
inline std::string plan_of(const std::string& spec) {
  return takes_values(spec) ? "kv=" + spec : "k=" + spec + ",v=f16";
}

/// Text that GoogleTest takes as a name: "nqkv:g64:x0.96" -> "nqkv_g64_x0_96".
inline std::string test_name(std::string text) {
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return text;
}

/// Name generator for suites whose parameter is a text.
inline std::string name_of_param(const ::testing::TestParamInfo<std::string>& info) {
  return test_name(info.param);
}

inline constexpr int kHeadDims[] = {64, 80, 96, 128, 256};
inline constexpr Side kSides[] = {Side::key, Side::value};

/// What the message of an exception of type E is; empty and a test failure if none is thrown.
template <class E, class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another exception: " << e.what();
    return "";
  }
  ADD_FAILURE() << "no exception";
  return "";
}

/// Whether every part occurs in `text`.
inline ::testing::AssertionResult contains(const std::string& text,
                                           const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    if (text.find(part) == std::string::npos) {
      return ::testing::AssertionFailure() << "\"" << part << "\" is not in: " << text;
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace kvcodec::test
