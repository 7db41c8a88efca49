// Codebooks that grow on the device have the bytes of CodebookTable.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "kvcodec/cuda/codebook.hpp"
#include "src/verify/npy.hpp"
#include "tests/cuda/policy_tools.hpp"
#include "tests/support/codebook_rows.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

class DeviceCodebook : public test::OnDevice<> {};

/// Rows of several tables; the same given to tables on both sides, again and again.
class BothSides {
 public:
  BothSides(int head_dim, float theta, CodebookMatch match, std::int32_t n_tables,
            std::int64_t capacity)
      : tables_(static_cast<std::size_t>(n_tables), CodebookTable(head_dim, theta, match)),
        entries_(static_cast<std::size_t>(n_tables * capacity * head_dim)),
        n_entries_(static_cast<std::size_t>(n_tables)) {
    n_entries_.upload(std::vector<std::uint32_t>(tables_.size()));
    device_.head_dim = head_dim;
    device_.theta = theta;
    device_.match = match;
    device_.n_tables = n_tables;
    device_.capacity = capacity;
    device_.entries = entries_.data();
    device_.n_entries = n_entries_.data();
  }

  std::int64_t piece_rows = CodebookTable::kPieceRows;
  bool scattered = false;  ///< rows are listed and lie in reverse order
  std::int64_t gap = 0;    ///< elements between rows
  std::vector<std::uint32_t> full;

  /// Covers rows [n, head_dim] of each table and compares all there is.
  template <class T>
  void cover(const std::vector<std::vector<float>>& rows, const std::vector<std::int32_t>& weights,
             T, std::int64_t extra_rows = 0) {
    const auto dim = static_cast<std::size_t>(device_.head_dim);
    std::vector<std::vector<T>> exact;
    std::vector<std::int64_t> first;
    std::vector<std::int64_t> n_rows;
    std::int64_t n_all = 0;
    for (const std::vector<float>& x : rows) {
      exact.push_back(test::rounded<T>(x));
      first.push_back(n_all);
      n_rows.push_back(static_cast<std::int64_t>(x.size() / dim));
      n_all += n_rows.back();
    }
    const auto n = static_cast<std::size_t>(n_all);
    const std::size_t stride = dim + static_cast<std::size_t>(gap);
    std::vector<T> memory(n * stride + 1);
    std::vector<std::int64_t> row_of;
    std::size_t at = 0;
    for (const std::vector<T>& x : exact) {
      for (std::size_t row = 0; row < x.size() / dim; ++row, ++at) {
        const std::size_t to = scattered ? n - 1 - at : at;
        row_of.push_back(static_cast<std::int64_t>(to));
        std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(row * dim), dim,
                    memory.begin() + static_cast<std::ptrdiff_t>(to * stride));
      }
    }
    const auto device_x = test::on_device(memory);
    const auto device_row_of = test::on_device(row_of);
    const auto device_first = test::on_device(first);
    const auto device_n = test::on_device(n_rows);
    const auto device_weights = test::on_device(weights);
    test::GuardedBuffer<std::uint32_t> index(n);
    test::GuardedBuffer<float> magnitude(n);
    auto device_full = test::on_device(std::vector<std::uint32_t>(tables_.size()));
    cuda::CoverRows job;
    job.x = device_x.data();
    job.dtype = dtype_of<T>;
    job.row_stride = static_cast<std::int64_t>(stride);
    job.row_of = scattered ? device_row_of.data() : nullptr;
    job.first = device_first.data();
    job.n_rows = device_n.data();
    job.max_rows = *std::max_element(n_rows.begin(), n_rows.end()) + extra_rows;
    job.weights = weights.empty() ? nullptr : device_weights.data();
    job.piece_rows = piece_rows;
    job.index = index.data();
    job.magnitude = magnitude.data();
    job.full = device_full.data();
    test::WorkMemory work(cuda::cover_workspace_bytes(device_, job));
    cuda::cover_rows(device_, job, work.data(), work.bytes());
    full = device_full.to_host();
    compare(exact, n_rows, weights, index.to_host(), magnitude.to_host());
  }

  std::uint32_t n_entries(std::size_t table) const { return tables_[table].n_entries(); }

 private:
  template <class T>
  void compare(const std::vector<std::vector<T>>& rows, const std::vector<std::int64_t>& n_rows,
               const std::vector<std::int32_t>& weights, const std::vector<std::uint32_t>& index,
               const std::vector<float>& magnitude) {
    const std::vector<std::uint32_t> counts = n_entries_.to_host();
    const std::vector<f16> entries = entries_.to_host();
    std::size_t begin = 0;
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      const auto n = static_cast<std::size_t>(n_rows[t]);
      std::vector<std::uint32_t> want_index(n);
      std::vector<float> want_magnitude(n);
      const std::vector<float> x = test::widened(rows[t]);
      CodebookTable grown = tables_[t];
      for (std::size_t row = 0; row < n; row += static_cast<std::size_t>(piece_rows)) {
        const std::size_t n_now = std::min(n - row, static_cast<std::size_t>(piece_rows));
        grown.cover(static_cast<std::int64_t>(n_now),
                    x.data() + row * static_cast<std::size_t>(device_.head_dim),
                    weights.empty() ? nullptr : weights.data() + begin + row,
                    want_index.data() + row, want_magnitude.data() + row);
      }
      const bool fits = grown.n_entries() <= device_.capacity;
      EXPECT_EQ(full[t], fits ? 0u : 1u) << "table " << t;
      if (fits) {
        tables_[t] = grown;
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_EQ(index[begin + i], want_index[i]) << "table " << t << " row " << i;
          ASSERT_EQ(bit_cast<std::uint32_t>(magnitude[begin + i]),
                    bit_cast<std::uint32_t>(want_magnitude[i]))
              << "table " << t << " row " << i;
        }
      }
      ASSERT_EQ(counts[t], tables_[t].n_entries()) << "table " << t;
      for (std::size_t i = 0; i < counts[t] * static_cast<std::size_t>(device_.head_dim); ++i) {
        const std::size_t from =
            t * static_cast<std::size_t>(device_.capacity * device_.head_dim) + i;
        ASSERT_EQ(entries[from].bits, tables_[t].entries()[i].bits) << "table " << t;
      }
      begin += n;
    }
  }

  cuda::CodebookTables device_;
  std::vector<CodebookTable> tables_;
  cuda::DeviceBuffer<f16> entries_;
  cuda::DeviceBuffer<std::uint32_t> n_entries_;
};

std::vector<std::int32_t> random_weights(std::int64_t n, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<std::int32_t> weights;
  for (std::int64_t i = 0; i < n; ++i) {
    weights.push_back(1 + static_cast<std::int32_t>(random.below(4)));
  }
  return weights;
}

TEST_F(DeviceCodebook, TablesGrowAsOnTheCpu) {
  for (const float theta : {0.0f, 0.6f, 0.95f, 0.98f}) {
    for (const CodebookMatch match : {CodebookMatch::best, CodebookMatch::first}) {
      BothSides both(64, theta, match, 3, 700);
      // 301: words and tiles not full; an empty table; then rows that match entries, and new ones.
      both.cover({test::sphere_rows(301, 21), {}, test::clustered_rows(130, 15, 22)}, {}, float{});
      both.cover(
          {test::sphere_rows(90, 23), test::sphere_rows(65, 24), test::clustered_rows(33, 15, 25)},
          random_weights(188, 7), float{}, 40);
      both.cover({test::sphere_rows(1, 26), {}, test::sphere_rows(70, 27)}, {}, float{});
      EXPECT_GT(both.n_entries(0), 1u);
    }
  }
}

TEST_F(DeviceCodebook, WeightsDecide) {
  BothSides weighted(64, 0.95f, CodebookMatch::best, 1, 300);
  weighted.cover({test::sphere_rows(200, 41)}, random_weights(200, 42), float{});
  BothSides heavy(64, 0.95f, CodebookMatch::best, 1, 300);
  std::vector<std::int32_t> weights = random_weights(200, 43);
  weights[17] = weights[140] = std::numeric_limits<std::int32_t>::max();
  heavy.cover({test::sphere_rows(200, 41)}, weights, float{});
}

TEST_F(DeviceCodebook, EveryTypeAndHeadSize) {
  const auto run = [](int dim, auto type, bool scattered, std::int64_t gap) {
    SCOPED_TRACE(dim);
    BothSides both(dim, 0.9f, CodebookMatch::best, 2, 200);
    both.scattered = scattered;
    both.gap = gap;
    both.cover({test::clustered_rows(100, 9, 51, dim), test::clustered_rows(40, 9, 52, dim)}, {},
               type);
    both.cover({test::clustered_rows(30, 9, 53, dim), test::clustered_rows(70, 9, 54, dim)}, {},
               type);
  };
  run(80, f16{}, false, 0);
  run(128, bf16{}, true, 8);
  run(128, float{}, true, 3);
  run(256, f16{}, false, 5);
}

TEST_F(DeviceCodebook, PiecesAreCoveredOneAfterTheOther) {
  for (const std::int64_t piece : {1, 50, 64, 200}) {
    BothSides both(64, 0.95f, CodebookMatch::best, 2, 250);
    both.piece_rows = piece;
    const std::int64_t n = piece == 1 ? 20 : 170;
    both.cover({test::sphere_rows(n, 61), test::sphere_rows(n / 2, 62)}, {}, float{});
  }
}

TEST_F(DeviceCodebook, ZeroRowsTiesAndValuesThatAreNotFinite) {
  std::vector<float> x(14 * 64);
  for (std::size_t row = 0; row < 10; ++row) x[row * 64 + (row < 8 ? row % 4 : row)] = 2.0f;
  x[11 * 64] = 1e-9f;  // rounds to 0 in f16, as row 10
  x[12 * 64] = std::numeric_limits<float>::infinity();
  x[12 * 64 + 1] = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t c = 0; c < 64; ++c) x[13 * 64 + c] = 1e30f;
  BothSides both(64, 0.98f, CodebookMatch::best, 1, 20);
  both.cover({x}, {}, float{});
  EXPECT_EQ(both.n_entries(0), 7u);
  both.cover({x}, {}, float{});
  EXPECT_EQ(both.n_entries(0), 7u) << "copies match";
}

TEST_F(DeviceCodebook, CopiesMatchAtTheLargestTheta) {
  const std::vector<float> x = test::gauss_rows(150, 64, 62);
  BothSides both(64, CodebookTable::kMaxTheta, CodebookMatch::best, 1, 150);
  both.cover({x}, {}, float{});
  both.cover({x}, {}, float{});
  EXPECT_EQ(both.n_entries(0), 150u) << "exactly full";
}

// theta is the very cosine of two rows: one more or one less in its last bit decides whether they share
// an entry. A fused product would.
TEST_F(DeviceCodebook, RoundingDecidesAlike) {
  int n_shared = 0;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    const std::vector<float> x = test::clustered_rows(2, 1, 200 + seed);
    std::vector<float> unit(x.size());
    for (std::size_t row = 0; row < 2; ++row) {
      normalise_row(64, x.data() + 64 * row, unit.data() + 64 * row);
    }
    float cosine = 0.0f;
    for (std::size_t c = 0; c < 64; ++c) cosine += unit[c] * unit[64 + c];
    for (const float theta : {cosine, std::nextafter(cosine, 0.0f)}) {
      BothSides both(64, theta, CodebookMatch::best, 1, 2);
      both.cover({x}, {}, float{});
      n_shared += both.n_entries(0) == 1 ? 1 : 0;
    }
  }
  EXPECT_EQ(n_shared, 24) << "theta is not where it decides";
}

// A table without room stays as it was; its neighbours do not notice.
TEST_F(DeviceCodebook, FullTablesAreLeftAlone) {
  for (const std::int64_t piece : {20, 1000}) {  // full in the second piece, in the first
    BothSides both(64, 0.9f, CodebookMatch::best, 2, 60);
    both.piece_rows = piece;
    both.cover({test::gauss_rows(30, 64, 71), test::gauss_rows(20, 64, 72)}, {}, float{});
    both.cover({test::gauss_rows(100, 64, 73), test::gauss_rows(25, 64, 74)}, {}, float{});
    EXPECT_EQ(both.full, (std::vector<std::uint32_t>{1, 0}));
    EXPECT_EQ(both.n_entries(0), 30u);
    both.cover({test::gauss_rows(30, 64, 75), test::gauss_rows(15, 64, 76)}, {}, float{});
    EXPECT_EQ(both.full, (std::vector<std::uint32_t>{0, 0}));
  }
}

// mha-layer3: the items of a layer, their weights, and the independent reference's codes.
TEST_F(DeviceCodebook, CodesAreTheReference) {
  const auto array = [](const std::string& name) {
    return golden::read_npy("tests/data/golden/spindle/mha-layer3/" + name + ".npy");
  };
  const std::vector<std::int64_t> items = array("items").integers();  // [n, 2]: KV head, token
  std::vector<std::int64_t> row_of;
  for (std::size_t i = 0; i < items.size(); i += 2) row_of.push_back(items[i] * 112 + items[i + 1]);
  std::vector<std::int32_t> weights;
  for (const std::int64_t w : array("item_weight").integers()) {
    weights.push_back(static_cast<std::int32_t>(w));
  }
  const auto device_row_of = test::on_device(row_of);
  const auto device_weights = test::on_device(weights);
  const auto first = test::on_device(std::vector<std::int64_t>{0});
  const auto n_rows = test::on_device(std::vector<std::int64_t>{std::ssize(row_of)});
  for (const bool key : {true, false}) {
    const std::string prefix = key ? "k_" : "v_";
    const auto x = test::on_device(array(key ? "k_pre" : "v").floats());
    cuda::DeviceBuffer<f16> entries(row_of.size() * 64);
    auto n_entries = test::on_device(std::vector<std::uint32_t>{0});
    cuda::DeviceBuffer<std::uint32_t> index(row_of.size());
    cuda::DeviceBuffer<float> magnitude(row_of.size());
    cuda::CodebookTables tables{64,
                                key ? 0.98f : 0.95f,
                                CodebookMatch::best,
                                1,
                                std::ssize(row_of),
                                entries.data(),
                                n_entries.data()};
    cuda::CoverRows job;
    job.x = x.data();
    job.row_stride = 64;
    job.row_of = device_row_of.data();
    job.first = first.data();
    job.n_rows = n_rows.data();
    job.max_rows = std::ssize(row_of);
    job.weights = device_weights.data();
    job.index = index.data();
    job.magnitude = magnitude.data();
    test::WorkMemory work(cuda::cover_workspace_bytes(tables, job));
    cuda::cover_rows(tables, job, work.data(), work.bytes());
    std::vector<std::int64_t> codes;
    for (const std::uint32_t i : index.to_host()) codes.push_back(i);
    EXPECT_EQ(codes, array(prefix + "code").integers());
    const std::vector<std::int64_t> chosen = array(prefix + "codebook_items").integers();
    EXPECT_EQ(n_entries.to_host()[0], chosen.size());
    const std::vector<float> norms = array(prefix + "magnitude").floats();
    const std::vector<float> got = magnitude.to_host();
    for (std::size_t i = 0; i < norms.size(); ++i) EXPECT_NEAR(got[i], norms[i], 1e-6f * norms[i]);
  }
}

TEST(DeviceCodebookArguments, AreRefusedByName) {
  alignas(256) static std::byte here[256] = {};
  const cuda::CodebookTables tables{64,
                                    0.9f,
                                    CodebookMatch::best,
                                    1,
                                    100,
                                    reinterpret_cast<f16*>(here),
                                    reinterpret_cast<std::uint32_t*>(here)};
  cuda::CoverRows rows;
  rows.x = here;
  rows.row_stride = 64;
  rows.first = rows.n_rows = reinterpret_cast<const std::int64_t*>(here);
  rows.max_rows = 10;
  rows.index = reinterpret_cast<std::uint32_t*>(here);
  rows.magnitude = reinterpret_cast<float*>(here);
  const auto refused = [&](const auto& spoil, std::vector<std::string> parts) {
    cuda::CodebookTables t = tables;
    cuda::CoverRows r = rows;
    spoil(t, r);
    parts.emplace_back("cover_rows");
    EXPECT_TRUE(test::contains(
        test::message_of<invalid_argument>([&] { cuda::cover_rows(t, r, here, 256); }), parts));
  };
  refused([](auto&, auto&) {}, {"workspace_bytes = 256", "at least"});
  refused([](auto& t, auto&) { t.head_dim = 72; }, {"head_dim = 72"});
  refused([](auto& t, auto&) { t.theta = 1.0f; }, {"theta = 1", "0..0.9999"});
  refused([](auto& t, auto&) { t.theta = std::numeric_limits<float>::quiet_NaN(); }, {"theta = "});
  refused([](auto& t, auto&) { t.n_tables = -1; }, {"n_tables = -1"});
  refused([](auto& t, auto&) { t.capacity = -1; }, {"capacity = -1"});
  refused([](auto& t, auto&) { t.capacity = 0xffffffffll; }, {"capacity = 4294967295"});
  refused([](auto& t, auto&) { t.n_tables = 1000000, t.capacity = 100000; }, {"capacity / "});
  refused([](auto& t, auto&) { t.n_entries = nullptr; }, {"n_entries = null"});
  refused([](auto& t, auto&) { ++t.entries; }, {"entries = ", "a multiple of 16"});
  refused([](auto&, auto& r) { r.piece_rows = 0; }, {"piece_rows = 0", "1..32768"});
  refused([](auto&, auto& r) { r.piece_rows = 32769; }, {"piece_rows = 32769"});
  refused([](auto&, auto& r) { r.max_rows = -1; }, {"max_rows = -1"});
  refused([](auto&, auto& r) { r.x = nullptr; }, {"x = null"});
  refused([](auto&, auto& r) { r.first = nullptr; }, {"first = null"});
  refused([](auto&, auto& r) { r.n_rows = nullptr; }, {"n_rows = null"});
  refused([](auto&, auto& r) { r.index = nullptr; }, {"index = null"});
  refused([](auto&, auto& r) { r.magnitude = nullptr; }, {"magnitude = null"});
  cuda::CodebookTables none = tables;
  none.n_tables = 0;
  cuda::cover_rows(none, {}, nullptr, 0);  // nothing to do
}

}  // namespace
}  // namespace kvcodec
