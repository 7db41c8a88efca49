// What the property tests of the container run over: every built-in codec as K and as V beside
// others, with transforms, windows, page sizes and head shapes rotating, and cases with options.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec::test {

struct CacheCase {
  std::string plan;
  HeadShape shape;

  Cache make(std::int64_t max_tokens, std::int32_t max_sequences = 1,
             std::int32_t n_layers = 1) const {
    return Cache(make_cache_config(plan, shape, n_layers, max_tokens, max_sequences));
  }
};

inline void PrintTo(const CacheCase& c, std::ostream* out) { *out << c.plan; }

inline std::vector<CacheCase> cache_cases() {
  const std::vector<std::string> windows = {",recent=1,sink=0", ",recent=32,sink=4",
                                            ",recent=1,sink=4,page=256",
                                            ",recent=32,sink=0,page=256,rollback=16"};
  const std::vector<std::string> transforms = {"", "hadamard+", "hadamard:s7+"};
  const std::vector<HeadShape> shapes = {{2, 2, 64}, {4, 1, 128}, {2, 1, 80}};
  std::vector<CacheCase> cases;
  std::size_t i = 0;
  std::vector<AnyCodec> codecs;
  BuiltinCodecs::for_each([&]<class C>() { codecs.push_back(C{}); });
  for (std::size_t key = 0; key < codecs.size(); ++key) {
    for (const std::size_t step : {0u, 1u, 5u}) {
      const AnyCodec& value = codecs[(key + step) % codecs.size()];
      if (value.key_only()) continue;
      const std::string k = transforms[i % 3] + std::string(codecs[key].family());
      const std::string v = transforms[i / 2 % 3] + std::string(value.family());
      cases.push_back({"k=" + k + ",v=" + v + windows[i % 4], shapes[i / 4 % 3]});
      ++i;
    }
  }
  // Groups across heads, in both nestings; short groups; options; a large window.
  cases.push_back({"k=nqkv:g256,v=nqsym:g128,recent=1,page=256", {4, 4, 64}});
  cases.push_back({"k=f16,v=hadamard+nqsym:g256,recent=32,sink=4", {8, 4, 128}});
  cases.push_back({"k=nqkv:g64,v=nqsym:g32,recent=1", {3, 3, 96}});
  cases.push_back({"kv=nqkv:g64:x0.96,recent=200,sink=70", {1, 1, 64}});
  cases.push_back({"kv=nqkv:g32:search,raw=f32,recent=1", {1, 1, 64}});
  // Centers, whole flushes, no window at all.
  cases.push_back({"k=mean:n100+hadamard+nqkv,v=mean:n70+nqsym,sink=4", {4, 2, 64}});
  cases.push_back({"k=mean:n256+int8,v=f16,recent=40", {2, 1, 80}});
  cases.push_back({"kv=nqkv,recent=0,flush=128", {2, 2, 64}});
  cases.push_back({"k=mean:n30+nqkv,v=int8,recent=0,flush=128,sink=3,page=256", {4, 1, 128}});
  // Outlier channels that the first tile of a head fixes.
  cases.push_back({"k=qjl:m64:o3:mo32:fixed,v=int8,sink=4,recent=1,page=256", {2, 2, 64}});
  return cases;
}

inline std::string name_of_case(const ::testing::TestParamInfo<CacheCase>& info) {
  return std::to_string(info.index) + "_" + test_name(info.param.plan);
}

/// A suite that runs over all cases.
class CacheLaws : public ::testing::TestWithParam<CacheCase> {};

}  // namespace kvcodec::test
