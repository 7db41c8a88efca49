// Shapes, and that messages name the argument, its value and what is allowed.
#include "kvcodec/core/shape.hpp"

#include <gtest/gtest.h>

#include "kvcodec/core/rows.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;

std::string refusal(const HeadShape& shape) {
  return message_of<invalid_argument>([&] { check(shape); });
}

TEST(Shape, AcceptsItsRange) {
  for (const int head_dim : {64, 80, 96, 112, 128, 192, 256}) {
    EXPECT_NO_THROW(check(HeadShape{4, 2, head_dim}));
  }
  EXPECT_NO_THROW(check(HeadShape{16, 1, 128}));
  EXPECT_NO_THROW(check(HeadShape{7, 7, 64}));
  EXPECT_EQ((HeadShape{28, 4, 128}.gqa_group()), 7);
}

TEST(Shape, RefusesAndSaysWhy) {
  EXPECT_TRUE(contains(refusal({4, 0, 64}), {"HeadShape", "n_kv_heads = 0", "1..65536"}));
  EXPECT_TRUE(contains(refusal({4, -1, 64}), {"n_kv_heads = -1"}));
  EXPECT_TRUE(contains(refusal({1 << 17, 1 << 17, 64}), {"n_kv_heads = 131072"}));
  EXPECT_TRUE(contains(refusal({0, 1, 64}), {"n_q_heads = 0", "n_kv_heads = 1"}));
  EXPECT_TRUE(contains(refusal({-4, 4, 64}), {"n_q_heads = -4"}));
  EXPECT_TRUE(contains(refusal({5, 2, 64}), {"n_q_heads = 5", "n_kv_heads = 2", "multiple"}));
  EXPECT_TRUE(contains(refusal({17, 1, 64}), {"n_q_heads = 17", "1..16"}));
  for (const int head_dim : {0, -64, 48, 63, 65, 72, 272}) {
    EXPECT_TRUE(contains(refusal({4, 4, head_dim}),
                         {"head_dim = " + std::to_string(head_dim), "64..256", "16"}));
  }
}

TEST(Errors, MessageFormat) {
  EXPECT_EQ(bad_value("Thing", "size", 7, "1..6"), "Thing: size = 7, allowed: 1..6");
  EXPECT_EQ(bad_value("Thing", "name", "x", "y, z"), "Thing: name = \"x\", allowed: y, z");
}

TEST(Errors, FormOneFamily) {
  EXPECT_THROW(throw invalid_argument("x"), error);
  EXPECT_THROW(throw unsupported("x"), error);
  EXPECT_THROW(throw out_of_pages("x"), error);
  EXPECT_THROW(throw corrupt_data("x"), error);
  EXPECT_THROW(throw error("x"), std::runtime_error);
}

TEST(Errors, EveryStatusHasItsOwnSentence) {
  const Status all[] = {Status::ok, Status::invalid_argument, Status::unsupported,
                        Status::out_of_pages, Status::cannot_truncate};
  for (const Status a : all) {
    EXPECT_STRNE(to_string(a), "unknown status");
    for (const Status b : all) {
      if (a == b) continue;
      EXPECT_STRNE(to_string(a), to_string(b));
    }
  }
}

TEST(Rows, KeepTypeAndStrides) {
  const f16 data[2 * 3 * 64] = {};
  const Rows<f16> dense = dense_rows(data, 2, 3, 64);
  EXPECT_EQ(dense.token_stride, 192);
  EXPECT_EQ(dense.head_stride, 64);
  const AnyRows any = dense;
  EXPECT_EQ(any.dtype, DType::f16);
  EXPECT_EQ(any.n_tokens, 2);
  EXPECT_EQ(any.row(1, 2), static_cast<const void*>(data + 192 + 128));
}

}  // namespace
}  // namespace kvcodec
