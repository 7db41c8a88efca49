// Rows that stay are moved together: every byte, in order, with positions and masks.
#include <gtest/gtest.h>

#include "tests/cuda/policy_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Layout, test::Lengths, test::PolicyStreams, test::SideRows;

class DeviceCompact : public test::OnDevice<> {};

/// Random masks for all rows: about one in three is 0; garbage where there is no row.
std::vector<KeepMask> random_masks(const PolicyStreams& in, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<KeepMask> masks(in.n_streams() * static_cast<std::size_t>(in.max_rows), 7);
  for (std::size_t i = 0; i < in.n_streams(); ++i) {
    for (std::int64_t t = 0; t < in.lengths[i / in.heads()].n_rows; ++t) {
      masks[i * static_cast<std::size_t>(in.max_rows) + static_cast<std::size_t>(t)] =
          random.below(3) == 0 ? KeepMask{0} : static_cast<KeepMask>(1 + random.below(0xffff));
    }
  }
  return masks;
}

/// The bytes of a row at [seq, head, row], counted from the sequence's first token.
const std::byte* row_bytes(const SideRows& side, const std::byte* base, std::size_t seq,
                           std::size_t head, std::int64_t row) {
  const auto s = static_cast<std::int64_t>(seq);
  const std::int64_t at = (s * side.seq_tokens + row) * side.token_stride +
                          static_cast<std::int64_t>(head) * side.head_stride;
  return base + at * static_cast<std::int64_t>(dtype_bytes(side.dtype));
}

/// What a test of compact_rows() varies.
struct Options {
  std::int64_t n_before = 0;    ///< rows that stand in the output
  std::int64_t max_out = 1000;  ///< room
  bool with_positions = false;  ///< listed ones, else counted from first_pos
  bool labels = true;           ///< whether positions and masks are wanted
};

/// Compacts into memory of the same layout and compares every byte of it.
void compare_copy(const PolicyStreams& in, const Options& o, std::uint64_t seed) {
  const std::vector<KeepMask> masks = random_masks(in, seed);
  const auto keep = test::on_device(masks);
  const auto width = static_cast<std::size_t>(in.max_rows);
  const auto room = static_cast<std::size_t>(o.max_out);
  const std::size_t n = in.n_streams();
  std::vector<std::int32_t> listed;
  for (std::size_t i = 0; i < n * width; ++i) listed.push_back(static_cast<std::int32_t>(13 * i));
  const auto device_listed = test::on_device(listed);
  std::vector<std::int32_t> first_pos;
  std::vector<std::int64_t> first;
  for (std::size_t seq = 0; seq < in.lengths.size(); ++seq) {
    first_pos.push_back(static_cast<std::int32_t>(100 * seq));
    first.push_back(static_cast<std::int64_t>(seq) * in.k.seq_tokens);
  }
  const auto device_first_pos = test::on_device(first_pos);
  const auto device_first = test::on_device(first);
  std::vector<std::byte> want[2];
  for (std::vector<std::byte>& side : want) side.assign(in.k.bytes.size(), std::byte{0x3c});
  auto out_k = test::on_device(want[0]);
  auto out_v = test::on_device(want[1]);
  auto counts = test::on_device(std::vector<std::int64_t>(n, o.n_before));
  test::GuardedBuffer<std::int32_t> pos(n * room + 1);  // room may be 0
  test::GuardedBuffer<KeepMask> out_masks(n * room + 1);
  std::vector<std::int32_t> want_pos = pos.to_host();
  std::vector<KeepMask> want_masks = out_masks.to_host();
  std::vector<std::int64_t> want_counts;

  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t seq = i / in.heads();
    const std::size_t head = i % in.heads();
    std::int64_t to = o.n_before;
    for (std::int64_t t = 0; t < in.lengths[seq].n_rows; ++t) {
      const std::size_t at = i * width + static_cast<std::size_t>(t);
      if (masks[at] == 0 || to >= o.max_out) continue;
      const SideRows* sides[] = {&in.k, &in.v};
      for (int side = 0; side < 2; ++side) {
        const auto bytes =
            static_cast<std::size_t>(in.shape.head_dim) * dtype_bytes(sides[side]->dtype);
        std::memcpy(
            const_cast<std::byte*>(row_bytes(*sides[side], want[side].data(), seq, head, to)),
            row_bytes(*sides[side], sides[side]->bytes.data(), seq, head,
                      in.lengths[seq].n_before + t),
            bytes);
      }
      const std::size_t slot = i * room + static_cast<std::size_t>(to);
      want_pos[slot] =
          o.with_positions ? listed[at] : first_pos[seq] + static_cast<std::int32_t>(t);
      want_masks[slot] = masks[at];
      ++to;
    }
    want_counts.push_back(to);
  }

  cuda::CompactedRows out;
  out.k = out_k.data();
  out.v = out_v.data();
  out.k_token_stride = in.k.token_stride;
  out.k_head_stride = in.k.head_stride;
  out.v_token_stride = in.v.token_stride;
  out.v_head_stride = in.v.head_stride;
  out.first = device_first.data();
  out.n_before = o.n_before > 0 ? counts.data() : nullptr;
  out.n_after = counts.data();
  out.pos = o.labels ? pos.data() : nullptr;
  out.masks = o.labels ? out_masks.data() : nullptr;
  out.max_out = o.max_out;
  const cuda::RowPositions positions{o.with_positions ? device_listed.data() : nullptr,
                                     device_first_pos.data()};
  const cuda::JudgedRows rows = in.judged();
  test::WorkMemory work(cuda::compact_workspace_bytes(rows));
  cuda::compact_rows(rows, positions, keep.data(), out, work.data(), work.bytes());
  EXPECT_EQ(counts.to_host(), want_counts);
  EXPECT_TRUE(out_k.to_host() == want[0]) << "K";
  EXPECT_TRUE(out_v.to_host() == want[1]) << "V";
  if (!o.labels) return;
  EXPECT_EQ(pos.to_host(), want_pos);
  EXPECT_EQ(out_masks.to_host(), want_masks);
}

const std::vector<Lengths>& some_lengths() {
  static const std::vector<Lengths> lengths = {{600, 4, 2}, {0, 3, 0}, {256, 0, 7}, {77, 0, 0}};
  return lengths;
}

TEST_F(DeviceCompact, CopiesEveryTypeAndLayout) {
  const auto run = [](int head_dim, auto type, Layout layout, const Options& o) {
    SCOPED_TRACE(head_dim);
    const PolicyStreams in({4, 2, head_dim}, some_lengths(), 41, test::Input::gauss, type, layout);
    compare_copy(in, o, 43);
  };
  run(64, float{}, Layout::tokens_first, {});
  run(80, f16{}, Layout::heads_first, {0, 1000, true});
  run(128, bf16{}, Layout::odd_gaps, {});
  run(256, float{}, Layout::odd_gaps, {0, 1000, true, false});
}

TEST_F(DeviceCompact, AppendsAndDropsWhatHasNoRoom) {
  const PolicyStreams in({2, 2, 64}, some_lengths(), 47, test::Input::gauss, f16{});
  compare_copy(in, {33, 1000}, 53);
  compare_copy(in, {3, 205}, 53);
  compare_copy(in, {0, 0}, 53);
}

// The output is the input: rows move down where they stand.
template <class T>
void compare_in_place(int head_dim, Layout layout, std::uint64_t seed) {
  SCOPED_TRACE(head_dim);
  PolicyStreams in({2, 2, head_dim}, some_lengths(), seed, test::Input::gauss, T{}, layout);
  const std::vector<KeepMask> masks = random_masks(in, seed);
  const auto keep = test::on_device(masks);
  std::vector<std::byte> want[2] = {in.k.bytes, in.v.bytes};
  const SideRows* sides[] = {&in.k, &in.v};
  const std::size_t bytes = static_cast<std::size_t>(head_dim) * sizeof(T);
  std::vector<std::int64_t> want_counts;
  for (std::size_t i = 0; i < in.n_streams(); ++i) {
    const std::size_t seq = i / in.heads();
    std::int64_t to = 0;
    const std::int64_t first = in.lengths[seq].n_before;
    for (std::int64_t t = 0; t < in.lengths[seq].n_rows; ++t) {
      if (masks[i * static_cast<std::size_t>(in.max_rows) + static_cast<std::size_t>(t)] == 0) {
        continue;
      }
      for (int side = 0; side < 2; ++side) {
        std::byte* base = want[side].data();
        const std::size_t head = i % in.heads();
        std::memmove(const_cast<std::byte*>(row_bytes(*sides[side], base, seq, head, first + to)),
                     row_bytes(*sides[side], base, seq, head, first + t), bytes);
      }
      ++to;
    }
    want_counts.push_back(to);
  }
  test::GuardedBuffer<std::int64_t> counts(in.n_streams());
  const cuda::JudgedRows rows = in.judged();
  cuda::CompactedRows out;
  out.k = in.k.device.data();
  out.v = in.v.device.data();
  out.k_token_stride = rows.k.token_stride;
  out.k_head_stride = rows.k.head_stride;
  out.v_token_stride = rows.v.token_stride;
  out.v_head_stride = rows.v.head_stride;
  out.first = rows.first;
  out.n_after = counts.data();
  out.max_out = in.max_rows;
  test::WorkMemory work(cuda::compact_workspace_bytes(rows));
  cuda::compact_rows(rows, {}, keep.data(), out, work.data(), work.bytes());
  EXPECT_EQ(counts.to_host(), want_counts);
  EXPECT_TRUE(in.k.device.to_host() == want[0]) << "K";
  EXPECT_TRUE(in.v.device.to_host() == want[1]) << "V";
}

TEST_F(DeviceCompact, MovesRowsWhereTheyStand) {
  compare_in_place<f16>(64, Layout::tokens_first, 61);
  compare_in_place<float>(256, Layout::heads_first, 67);
  compare_in_place<bf16>(80, Layout::odd_gaps, 71);
  compare_in_place<float>(64, Layout::odd_gaps, 73);
}

TEST(DeviceCompactArguments, AreRefusedByName) {
  alignas(256) static std::byte here[512] = {};
  cuda::JudgedRows rows;
  rows.shape = {1, 1, 64};
  rows.n_seq = 1;
  rows.max_rows = 128;
  rows.k = Rows<float>{reinterpret_cast<const float*>(here), 0, 64, 64};
  rows.v = Rows<float>{reinterpret_cast<const float*>(here + 256), 0, 64, 64};
  rows.first = rows.n_rows = reinterpret_cast<const std::int64_t*>(here);
  alignas(256) static std::byte there[512] = {};
  cuda::CompactedRows good;
  good.k = there;
  good.v = there + 256;
  good.k_token_stride = good.k_head_stride = good.v_token_stride = good.v_head_stride = 64;
  good.first = rows.first;
  good.n_after = reinterpret_cast<std::int64_t*>(there);
  good.max_out = 8;
  auto* keep = reinterpret_cast<KeepMask*>(here);
  const auto refused = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::CompactedRows out = good;
    spoil(out);
    parts.emplace_back("compact_rows");
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>(
                                   [&] { cuda::compact_rows(rows, {}, keep, out, here, 0); }),
                               parts));
  };
  refused([](auto&) {}, {"workspace_bytes = 0", "at least 256"});
  refused([](auto& o) { o.k = nullptr; }, {"out.k = null"});
  refused([](auto& o) { o.first = nullptr; }, {"out.first = null"});
  refused([](auto& o) { o.n_after = nullptr; }, {"out.n_after = null"});
  refused([](auto& o) { o.max_out = -1; }, {"out.max_out = -1"});
  refused([&](auto& o) { o.masks = keep; }, {"out.masks is the array of the input"});
  refused([](auto& o) { o.k = here; }, {"one of out.k and out.v is the input"});
  const auto in_place = [](auto& o) { o.k = here, o.v = here + 256; };
  refused([&](auto& o) { in_place(o), o.v_head_stride = 65; }, {"other strides"});
  refused([&](auto& o) { in_place(o), o.first = o.n_after; }, {"out.first = first"});
  refused([&](auto& o) { in_place(o), o.n_before = o.n_after; }, {"out.n_before = null"});
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>(
                                 [&] { cuda::compact_rows(rows, {}, nullptr, good, here, 0); }),
                             {"keep = null"}));
}

}  // namespace
}  // namespace kvcodec
