// The engine on a cache against the same model without one.
#include "examples/llama/session.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "kvcodec/plan/plan.hpp"
#include "tests/llama/random_model.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Tokens = std::vector<std::int32_t>;

constexpr std::size_t kVocab = 256;

Model make_model(const json& change = json::object()) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string("session_") + test->name();
  std::replace(name.begin(), name.end(), '/', '_');
  const fs::path folder = fs::path(::testing::TempDir()) / name;
  json config = testing::small_config();
  config.merge_patch(change);
  testing::write_random_model(folder, config, 7);
  Model model = Model::load(folder);
  fs::remove_all(folder);
  return model;
}

Tokens make_tokens(std::size_t n, int seed = 1) {
  Tokens out(n);
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = static_cast<std::int32_t>((i * i + 31 * static_cast<std::size_t>(seed) * i) % 251);
  }
  return out;
}

// Logits of every token, in chunks.
std::vector<float> run_all(Engine& engine, const Session& session, const Tokens& tokens,
                           std::size_t chunk_size) {
  std::vector<float> out;
  for (std::size_t at = 0; at < tokens.size(); at += chunk_size) {
    const std::size_t n = std::min(chunk_size, tokens.size() - at);
    const Chunk chunk{session.id(), std::span(tokens).subspan(at, n)};
    const auto logits = engine.run({&chunk, 1}, Logits::all);
    out.insert(out.end(), logits.begin(), logits.end());
  }
  return out;
}

std::vector<float> copy(std::span<const float> x) { return {x.begin(), x.end()}; }

double worst(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double w = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    w = std::max(w, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return w;
}

class SessionChunks : public ::testing::TestWithParam<json> {};

// Law: with exact storage the cache changes nothing, whatever the chunks.
TEST_P(SessionChunks, ExactPlanMatchesDense) {
  const Model model = make_model(GetParam());
  const Tokens tokens = make_tokens(200);
  const auto dense = model.forward_dense(tokens);
  for (const std::size_t chunk : {1u, 7u, 64u, 129u, 200u}) {
    Engine engine(model, "kv=f32,recent=3,sink=2", 256);
    const Session session = engine.open();
    EXPECT_LT(worst(run_all(engine, session, tokens, chunk), dense), 1e-4) << "chunk " << chunk;
    EXPECT_EQ(session.position(), 200);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, SessionChunks,
                         ::testing::Values(json::object(),
                                           json{{"architectures", {"MistralForCausalLM"}},
                                                {"sliding_window", 30}},
                                           json{{"architectures", {"Qwen2ForCausalLM"}}},
                                           json{{"num_key_value_heads", 4}, {"head_dim", 80}}));

// A pass sees its own rows exactly, so a prompt in one pass loses nothing under any plan.
TEST(Session, OnePassIsExactUnderALossyPlan) {
  const Model model = make_model();
  const Tokens tokens = make_tokens(200);
  Engine engine(model, "kv=nqkv:g64,recent=1", 256);
  const Session session = engine.open();
  EXPECT_LT(worst(run_all(engine, session, tokens, 200), model.forward_dense(tokens)), 1e-4);
}

TEST(Session, LossyPlanStaysNearAndIsNotExact) {
  const Model model = make_model();
  const Tokens tokens = make_tokens(200);
  const auto dense = model.forward_dense(tokens);
  Engine engine(model, "kv=int8,recent=1", 256);
  const Session session = engine.open();
  const double w = worst(run_all(engine, session, tokens, 10), dense);
  EXPECT_GT(w, 1e-4);
  EXPECT_LT(w, 0.5);
}

TEST(Session, PrefillAndStepAgreeWithRun) {
  const Model model = make_model();
  const Tokens tokens = make_tokens(100);
  Engine engine(model, "kv=f32", 512, 2);
  const Session all = engine.open();
  const auto want = run_all(engine, all, tokens, 100);
  Session session = engine.open();
  EXPECT_TRUE(session.prefill(std::span(tokens).first(50), 16, Logits::none).empty());
  const auto last = copy(session.prefill(std::span(tokens).subspan(50, 40), 16));
  EXPECT_LT(worst(last, std::span(want).subspan(89 * kVocab, kVocab)), 1e-4);
  for (std::size_t i = 90; i < 100; ++i) {
    EXPECT_LT(worst(session.step(tokens[i]), std::span(want).subspan(i * kVocab, kVocab)), 1e-4);
  }
}

TEST(Session, ForkContinuesAndLeavesItsParentAlone) {
  const Model model = make_model();
  const Tokens start = make_tokens(150), left = make_tokens(40, 2), right = make_tokens(40, 3);
  Engine engine(model, "kv=nqkv:g64,recent=16", 1024, 4);
  Session parent = engine.open();
  parent.prefill(start, 32);
  Session child = parent.fork();
  EXPECT_EQ(child.position(), 150);
  const auto on_child = run_all(engine, child, right, 8);
  const auto on_parent = run_all(engine, parent, left, 8);
  Session alone = engine.open();
  alone.prefill(start, 32);
  EXPECT_EQ(run_all(engine, alone, left, 8), on_parent);
  alone = engine.open();
  alone.prefill(start, 32);
  EXPECT_EQ(run_all(engine, alone, right, 8), on_child);
}

// The 20 wrong tokens fill no tile, so that nothing but them is different from never running them.
TEST(Session, TruncateTakesBackTokens) {
  const Model model = make_model();
  const Tokens start = make_tokens(120), wrong = make_tokens(20, 2), right = make_tokens(20, 3);
  Engine engine(model, "kv=nqkv:g64,recent=16,rollback=20", 1024, 2);
  Session session = engine.open();
  session.prefill(start, 32);
  Session other = session.fork();
  session.prefill(wrong, 20);
  ASSERT_EQ(session.truncate(120), kvcodec::Status::ok);
  EXPECT_EQ(session.position(), 120);
  EXPECT_EQ(run_all(engine, session, right, 20), run_all(engine, other, right, 20));
}

// Law: results do not depend on what else is in the pass.
TEST(Session, RaggedBatchEqualsSinglePasses) {
  const Model model = make_model();
  Engine engine(model, "kv=nqkv:g64,recent=16", 4096, 8);
  std::vector<Session> together, single;
  std::vector<Tokens> next;
  for (int i = 0; i < 4; ++i) {
    const Tokens start = make_tokens(static_cast<std::size_t>(10 + 70 * i), i);
    together.push_back(engine.open());
    single.push_back(engine.open());
    together.back().prefill(start, 64);
    single.back().prefill(start, 64);
    next.push_back(make_tokens(static_cast<std::size_t>(1 + 2 * i), i + 10));
  }
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < 4; ++i) chunks.push_back({together[i].id(), next[i]});
  const auto batch = copy(engine.run(chunks, Logits::last));
  ASSERT_EQ(batch.size(), 4 * kVocab);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto alone = copy(single[i].prefill(next[i], 64));
    EXPECT_TRUE(
        std::equal(alone.begin(), alone.end(), batch.begin() + static_cast<long>(i * kVocab)))
        << "sequence " << i;
  }
}

TEST(Session, ThreadsChangeNothing) {
  const Tokens tokens = make_tokens(200);
  std::vector<float> want;
  for (const int n_threads : {1, 3}) {
    kvcodec::ThreadPool pool(n_threads);
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    const fs::path folder = fs::path(::testing::TempDir()) / test->name();
    testing::write_random_model(folder, testing::small_config(), 7);
    const Model model = Model::load(folder, pool.executor());
    fs::remove_all(folder);
    Engine engine(model, "kv=nqkv:g64,recent=16", 256);
    const Session session = engine.open();
    auto got = run_all(engine, session, tokens, 50);
    const auto dense = model.forward_dense(tokens);
    got.insert(got.end(), dense.begin(), dense.end());
    if (want.empty()) want = got;
    EXPECT_EQ(got, want) << n_threads << " threads";
  }
}

TEST(Session, FailedPassChangesNothing) {
  const Model model = make_model();
  const Tokens tokens = make_tokens(130);
  Engine engine(model, "kv=f32,recent=16", 128, 2);
  Session session = engine.open();
  session.prefill(std::span(tokens).first(100), 50);
  const std::int32_t bad = 256;
  EXPECT_THROW(session.step(bad), kvcodec::invalid_argument);
  EXPECT_THROW(session.prefill(std::span(tokens).subspan(100), 64), kvcodec::out_of_pages);
  EXPECT_EQ(session.position(), 100);
  const Session other = engine.open();
  const auto dense = model.forward_dense(std::span(tokens).first(101));
  EXPECT_LT(worst(session.step(tokens[100]), std::span(dense).subspan(100 * kVocab)), 1e-4);
}

TEST(Session, RefusesBadCalls) {
  const Model model = make_model();
  Engine engine(model, "kv=f32", 256, 2);
  Session session = engine.open();
  const Tokens tokens = make_tokens(4);
  const std::vector<Chunk> twice{{session.id(), tokens}, {session.id(), tokens}};
  EXPECT_THROW(engine.run(twice, Logits::last), kvcodec::invalid_argument);
  const Chunk empty{session.id(), {}};
  EXPECT_THROW(engine.run({&empty, 1}, Logits::last), kvcodec::invalid_argument);
  EXPECT_THROW(session.prefill(tokens, 0), kvcodec::invalid_argument);
  EXPECT_THROW(session.prefill(tokens, 4, Logits::all), kvcodec::invalid_argument);
  EXPECT_THROW(Engine(model, kvcodec::make_cache_config("kv=f32", model.head_shape(), 3, 64)),
               kvcodec::invalid_argument);
}

}  // namespace
}  // namespace llama
