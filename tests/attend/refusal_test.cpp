// Calls that cannot work return invalid_argument (or throw, naming the argument) and write nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;
using test::Tokens;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Refusal : public ::testing::Test {
 protected:
  Refusal() {
    seq_ = cache_.open();
    EXPECT_EQ(append(cache_, seq_, 0, Tokens(shape_, 200, 1), 0, 200), Status::ok);
    view_ = cache_.view(0, {&seq_, 1}, buffers_);
    batch_ = test::make_queries(shape_, {3}, {199}, 2);
    queries_ = batch_.queries();
    size_ = attend_workspace_bytes(view_, queries_);
  }

  struct Call {
    KvView view;
    Queries queries;
    AttendOptions options;
    float* out;
    std::span<std::byte> workspace;
  };

  /// Runs with one thing changed: refused, nothing written.
  void expect_refused(const char* what, const std::function<void(Call&)>& change) {
    test::Guarded<float> out(batch_.q.size(), std::byte{0x77});
    test::Guarded<float> lse(12, std::byte{0x77});
    test::Guarded<> workspace(size_);
    const auto out_before = out.copy();
    const auto lse_before = lse.copy();
    Call c{view_, queries_, options_, out.data(), workspace.span()};
    change(c);
    EXPECT_EQ(attend(c.view, c.queries, c.out, lse.data(), c.options, c.workspace),
              Status::invalid_argument)
        << what;
    EXPECT_TRUE(test::same_bits(out.copy(), out_before, what));
    EXPECT_TRUE(test::same_bits(lse.copy(), lse_before, what));
    EXPECT_TRUE(out.intact() && lse.intact() && workspace.intact()) << what;
  }

  Step good_step() const {
    Step step;
    step.seqs = {&seq_, 1};
    step.indptr = batch_.indptr;
    step.q = dense_rows(batch_.q.data(), 3, 4, 64);
    return step;
  }

  /// The same through the Cache: the message.
  std::string refusal(const std::function<void(Step&, AttendOptions&)>& change,
                      std::int32_t layer = 0) {
    Step step = good_step();
    AttendOptions options = options_;
    change(step, options);
    std::vector<float> out(batch_.q.size(), 5.0f);
    const std::vector<float> before = out;
    AttendWorkspace workspace;
    const std::string message = message_of<invalid_argument>(
        [&] { attend(cache_, layer, step, out.data(), nullptr, options, workspace); });
    EXPECT_EQ(out, before);
    return message;
  }

  HeadShape shape_{4, 2, 64};
  Cache cache_{make_cache_config("k=hadamard+nqkv,v=hadamard+nqsym,recent=1", shape_, 1, 400, 2)};
  SeqId seq_ = 0;
  ViewBuffers buffers_;
  KvView view_;
  test::QueryBatch batch_;
  Queries queries_;
  AttendOptions options_ = test::default_options(64);
  std::size_t size_ = 0;
};

TEST_F(Refusal, Options) {
  for (const float scale : {0.0f, -1.0f, kInf, -kInf, kNan}) {
    expect_refused("sm_scale", [&](Call& c) { c.options.sm_scale = scale; });
  }
  for (const float cap : {-1.0f, kInf, kNan}) {
    expect_refused("cap", [&](Call& c) { c.options.logits_soft_cap = cap; });
  }
  expect_refused("window", [](Call& c) { c.options.window = -1; });
  expect_refused("window_sinks", [](Call& c) { c.options.window_sinks = -1; });
  for (const float bad : {kInf, kNan}) {
    const float logits[] = {0.0f, -kInf, 1.0f, bad};
    expect_refused("sink_logits", [&](Call& c) { c.options.sink_logits = logits; });
  }
}

TEST_F(Refusal, DecreasingIndptr) {
  const std::int64_t decreasing[] = {3, 0};
  expect_refused("indptr", [&](Call& c) { c.queries.indptr = decreasing; });
}

TEST_F(Refusal, NullPointers) {
  expect_refused("q", [](Call& c) { c.queries.q = nullptr; });
  expect_refused("indptr", [](Call& c) { c.queries.indptr = nullptr; });
  expect_refused("pos", [](Call& c) { c.queries.pos = nullptr; });
  expect_refused("out", [](Call& c) { c.out = nullptr; });
  const std::vector<float> rows(3 * 2 * 64);
  expect_refused("k_new alone", [&](Call& c) { c.queries.k_new = rows.data(); });
  expect_refused("v_new alone", [&](Call& c) { c.queries.v_new = rows.data(); });
}

TEST_F(Refusal, Workspace) {
  ASSERT_GT(size_, 0u);
  expect_refused("none", [](Call& c) { c.workspace = {}; });
  expect_refused("one byte short",
                 [](Call& c) { c.workspace = c.workspace.first(c.workspace.size() - 1); });
  test::Guarded<> larger(size_ + 64);
  expect_refused("not aligned", [&](Call& c) { c.workspace = larger.span().subspan(32); });
  const test::Result ok = test::run_attend(view_, batch_, options_);  // exactly enough
  EXPECT_EQ(ok.lse.size(), 12u);
}

TEST_F(Refusal, Views) {
  expect_refused("codec", [](Call& c) { c.view.k_codec = AnyCodec{}; });
  expect_refused("codec", [](Call& c) { c.view.v_codec = AnyCodec{}; });
  expect_refused("n_seq", [](Call& c) { c.view.n_seq = -1; });
  expect_refused("heads", [](Call& c) { c.view.shape.n_q_heads = 5; });
  expect_refused("no heads", [](Call& c) { c.view.shape.n_q_heads = 0; });
  expect_refused("too many heads", [](Call& c) { c.view.shape.n_q_heads = 34; });
  expect_refused("no kv heads", [](Call& c) { c.view.shape.n_kv_heads = 0; });
  expect_refused("head_dim", [](Call& c) { c.view.shape.head_dim = 128; });
  expect_refused("pages", [](Call& c) { c.view.pages = nullptr; });
  expect_refused("indptr", [](Call& c) { c.view.indptr = nullptr; });
  expect_refused("indices", [](Call& c) { c.view.indices = nullptr; });
  expect_refused("last_page_len", [](Call& c) { c.view.last_page_len = nullptr; });
  expect_refused("page_stride", [](Call& c) { c.view.page_stride -= 64; });
  expect_refused("page_size", [](Call& c) { c.view.format.page_size = 0; });
  expect_refused("span", [](Call& c) { c.view.format.span = 0; });
}

TEST_F(Refusal, NothingToDoIsOk) {
  KvView none = view_;
  none.n_seq = 0;
  EXPECT_EQ(attend(none, queries_, nullptr, nullptr, options_, {}), Status::ok);
  const std::int64_t zeros[] = {0, 0};
  Queries empty = queries_;
  empty.indptr = zeros;
  EXPECT_EQ(attend(view_, empty, nullptr, nullptr, options_, {}), Status::ok);
}

TEST_F(Refusal, LseMayBeNull) {
  test::Guarded<> workspace(size_);
  std::vector<float> out(batch_.q.size());
  EXPECT_EQ(attend(view_, queries_, out.data(), nullptr, options_, workspace.span()), Status::ok);
  EXPECT_EQ(out, test::run_attend(view_, batch_, options_).out);
}

TEST_F(Refusal, CacheCallsNameTheArgument) {
  const std::int64_t decreasing[] = {0, 3, 1};
  const std::int64_t short_indptr[] = {0};
  const std::int64_t late[] = {1, 3};
  const std::int64_t many[] = {0, 201};
  using S = Step;
  using O = AttendOptions;
  EXPECT_TRUE(contains(refusal([](S&, O& o) { o.sm_scale = 0.0f; }), {"sm_scale", "> 0"}));
  EXPECT_TRUE(contains(refusal([](S&, O& o) { o.logits_soft_cap = -1.0f; }), {"logits_soft_cap"}));
  EXPECT_TRUE(contains(refusal([](S&, O& o) { o.window = -3; }), {"window = -3"}));
  EXPECT_TRUE(contains(refusal([](S&, O& o) { o.window_sinks = -4; }), {"window_sinks = -4"}));
  const float sinks[] = {0.0f, -kInf, kInf, 1.0f};
  EXPECT_TRUE(contains(refusal([&](S&, O& o) { o.sink_logits = sinks; }),
                       {"sink_logits[2] = inf", "-inf"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) { s.q.token_stride = -256; }),
                       {"q.token_stride = -256", "0 or more"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) { s.q.n_tokens = 2; }), {"q.n_tokens = 2", "3"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) { s.q.data = nullptr; }), {"q.data"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) { s.q.head_stride = 63; }), {"q.head_stride = 63"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) { s.k_new = s.q; }), {"v_new"}));
  EXPECT_TRUE(contains(refusal([&](S& s, O&) { s.indptr = short_indptr; }), {"indptr", "1"}));
  EXPECT_TRUE(contains(refusal([&](S& s, O&) { s.indptr = late; }), {"indptr", "0"}));
  EXPECT_TRUE(contains(refusal([&](S& s, O&) {
                         static const SeqId twice[] = {0, 0};
                         s.seqs = twice;
                         s.indptr = decreasing;
                       }),
                       {"indptr", "2"}));
  EXPECT_TRUE(contains(refusal([&](S& s, O&) {
                         s.indptr = many;
                         s.q.n_tokens = 201;
                         s.q.token_stride = 0;
                       }),
                       {"sequence 0", "201", "200"}));
  EXPECT_TRUE(contains(refusal([](S&, O&) {}, 1), {"layer = 1"}));
  EXPECT_TRUE(contains(refusal([](S& s, O&) {
                         static const SeqId closed = 1;
                         s.seqs = {&closed, 1};
                       }),
                       {"seq = 1"}));
}

}  // namespace
}  // namespace kvcodec
