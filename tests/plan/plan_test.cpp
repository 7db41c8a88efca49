// Plans: text and JSON, layers, defaults, round trips, and messages that list what exists.
#include "kvcodec/plan/plan.hpp"

#include <gtest/gtest.h>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;

const HeadShape kShape{8, 2, 128};

CacheConfig make(const std::string& plan, std::int32_t n_layers = 4) {
  return make_cache_config(plan, kShape, n_layers, 1000, 3);
}

std::string refusal(const std::string& plan, std::int32_t n_layers = 4) {
  return message_of<invalid_argument>([&] { make(plan, n_layers); });
}

/// "k v sink recent rollback" of a layer.
std::string text(const LayerConfig& l) {
  const auto side = [](const SideConfig& s) {
    return s.transform.name() + "+" + s.codec.name() +
           (s.raw_dtype ? std::string("/") + to_string(*s.raw_dtype) : "");
  };
  return side(l.k) + " " + side(l.v) + " " + std::to_string(l.n_sink) + " " +
         std::to_string(l.n_recent) + " " + std::to_string(l.rollback_rows);
}

TEST(Plan, DefaultsAndFields) {
  const CacheConfig c = make("kv=nqkv");
  EXPECT_EQ(c.shape, kShape);
  EXPECT_EQ(c.max_tokens, 1000);
  EXPECT_EQ(c.max_sequences, 3);
  EXPECT_EQ(c.page_size, kTileRows);
  ASSERT_EQ(c.layers.size(), 4u);
  for (const LayerConfig& l : c.layers) {
    EXPECT_EQ(text(l), "identity+nqkv:g64 identity+nqkv:g64 0 32 0");
  }
}

TEST(Plan, TheExampleOfTheHeader) {
  const CacheConfig c = make("k=hadamard+nqkv:g64,v=nqsym:g64,recent=32,sink=4;0-1:kv=int8");
  EXPECT_EQ(text(c.layers[0]), "identity+int8 identity+int8 4 32 0");
  EXPECT_EQ(text(c.layers[1]), text(c.layers[0]));
  EXPECT_EQ(text(c.layers[2]), "hadamard+nqkv:g64 identity+nqsym:g64 4 32 0");
  EXPECT_EQ(text(c.layers[3]), text(c.layers[2]));
}

TEST(Plan, EveryKey) {
  const CacheConfig c = make(
      " k = hadamard:s5+nqkv:g32:search , v= f16 , sink=3,recent=1,rollback=9,kraw=f32,page=256");
  EXPECT_EQ(text(c.layers[2]), "hadamard:s5+nqkv:g32:search/f32 identity+f16 3 1 9");
  EXPECT_EQ(c.page_size, 256);
  EXPECT_EQ(text(make("kv=f16,raw=bf16,vraw=f32").layers[0]),
            "identity+f16/bf16 identity+f16/f32 0 32 0");
  EXPECT_EQ(text(make("kv=hadamard+f16;kv=f16").layers[0]), "identity+f16 identity+f16 0 32 0");
}

TEST(Plan, LayersChangeOnlyTheKeysTheyName) {
  const CacheConfig c = make("kv=nqkv,sink=2;1:sink=5;2-:v=int8;3-3:recent=7", 5);
  EXPECT_EQ(text(c.layers[0]), "identity+nqkv:g64 identity+nqkv:g64 2 32 0");
  EXPECT_EQ(text(c.layers[1]), "identity+nqkv:g64 identity+nqkv:g64 5 32 0");
  EXPECT_EQ(text(c.layers[2]), "identity+nqkv:g64 identity+int8 2 32 0");
  EXPECT_EQ(text(c.layers[3]), "identity+nqkv:g64 identity+int8 2 7 0");
  EXPECT_EQ(text(c.layers[4]), text(c.layers[2]));
}

TEST(Plan, JsonSaysTheSame) {
  const CacheConfig a = make("k=hadamard+nqkv:g64,v=nqsym,sink=4,page=128;0-1:v=int8,recent=1");
  const CacheConfig b = make(R"( {"k": "hadamard+nqkv:g64", "v": "nqsym", "sink": 4, "page": "128",
      "layers": {"0-1": {"v": "int8", "recent": 1}}} )");
  EXPECT_EQ(to_plan(a), to_plan(b));
  EXPECT_EQ(b.page_size, 128);
}

// "layers" applies after the other keys, wherever it stands.
TEST(Plan, JsonLayersComeLast) {
  const CacheConfig c = make(R"({"layers": {"3": {"kv": "f16"}}, "kv": "nqkv"})");
  EXPECT_EQ(std::string(c.layers[3].k.codec.name()), "f16");
  EXPECT_EQ(std::string(c.layers[0].k.codec.name()), "nqkv:g64");
}

TEST(Plan, ToPlanReadsBack) {
  for (const std::string plan :
       {"kv=nqkv", "k=hadamard+nqkv:g64,v=nqsym:g64,recent=32,sink=4;0-1:kv=int8",
        "kv=f16,page=256", "kv=f16,rollback=3,kraw=f32,vraw=bf16;2:kv=nqkv:g128:x0.96",
        "k=hadamard:plain+int8,v=hadamard:s77+bf16,recent=1;3-:sink=9"}) {
    const CacheConfig a = make(plan);
    const CacheConfig b = make(to_plan(a));
    EXPECT_EQ(to_plan(a), to_plan(b));
    EXPECT_EQ(a.page_size, b.page_size);
    for (std::size_t l = 0; l < 4; ++l) EXPECT_EQ(text(a.layers[l]), text(b.layers[l])) << plan;
  }
  for (const std::string& spec : test::codec_specs()) {
    EXPECT_TRUE(contains(to_plan(make("kv=" + spec)), {make_codec(spec).name()}));
  }
}

TEST(Plan, MessagesListWhatExists) {
  EXPECT_TRUE(contains(refusal("kv=nqkz"), {"nqkz", "nqkv", "nqsym", "int8", "f16"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv:g65"), {"g65", "32, 64, 128"}));
  EXPECT_TRUE(contains(refusal("kv=hadamat+nqkv"), {"hadamat", "identity", "hadamard"}));
  EXPECT_TRUE(contains(refusal("kv=hadamard:s0+nqkv"), {"s0", "1..65535"}));
  EXPECT_TRUE(
      contains(refusal("kv=nqkv,sinks=3"), {"\"sinks\"", "sink", "recent", "page", "kraw"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,sink"), {"\"sink\"", "key=value", "rollback"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,recent=-1"), {"recent", "\"-1\"", "0..65536"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,sink=-1"), {"sink", "\"-1\"", "0..65536"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,sink=3x"), {"\"3x\""}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,sink="), {"sink", "\"\""}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,page=32"), {"page", "\"32\"", "64..65536"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv,raw=f64"), {"raw", "\"f64\"", "f32, f16, bf16"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;4:sink=1"), {"\"4\"", "0..3"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;2-1:sink=1"), {"\"2-1\"", "0..3"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;0-9:sink=1"), {"\"0-9\"", "0..3"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;0 sink=1"), {"0 sink=1", "\":\""}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;1:page=128"), {"page", "all layers"}));
  EXPECT_TRUE(contains(refusal("k=nqkv"), {"layer 0", " v", "nqsym"}));
  EXPECT_TRUE(contains(refusal("kv=nqkv;0:k=f16", 0), {"n_layers = 0", "1..65536"}));
  EXPECT_TRUE(contains(refusal("0-1:kv=nqkv"), {"layer 2", " k"}));
  EXPECT_TRUE(contains(refusal(""), {"layer 0", "nqkv"}));
  EXPECT_TRUE(contains(refusal("kv="), {"\"\"", "nqkv"}));
}

TEST(Plan, JsonMessages) {
  EXPECT_TRUE(contains(refusal("{"), {"JSON"}));
  EXPECT_TRUE(contains(refusal("{]}"), {"JSON"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "sinks": 3})"), {"\"sinks\"", "recent"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "sink": 1.5})"), {"sink", "1.5", "whole number"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": ["nqkv"]})"), {"kv", "string"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "layers": 3})"), {"layers", "object"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "layers": {"0": 3}})"), {"\"0\"", "object"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "layers": {"7": {}}})"), {"\"7\"", "0..3"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "layers": {"0": {"page": 64}}})"), {"page"}));
  EXPECT_TRUE(contains(refusal(R"({"kv": "nqkv", "recent": 99999999999999999999})"), {"recent"}));
}

TEST(Plan, HelpNamesEverything) {
  const std::string help = plan_help();
  BuiltinCodecs::for_each([&]<class C>() {
    EXPECT_TRUE(contains(help, {C::family, C::options_help}));
  });
  BuiltinTransforms::for_each([&]<class T>() {
    EXPECT_TRUE(contains(help, {T::family, T::options_help}));
  });
  for (const std::string key : {"k,", "v,", "kv", "sink", "recent", "rollback", "kraw", "page"}) {
    EXPECT_TRUE(contains(help, {key}));
  }
}

}  // namespace
}  // namespace kvcodec
