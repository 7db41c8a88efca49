#include "bench/cuda/cases.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "bench/cuda/device_rows.hpp"
#include "bench/cuda/device_tools.hpp"
#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/cuda/append.hpp"
#include "kvcodec/cuda/attend.hpp"
#include "kvcodec/cuda/score.hpp"
#include "kvcodec/transform/builtin.hpp"

namespace kvcodec::bench {
namespace {

constexpr int kPageSize = kTileRows;

/// Lists of pages: page p of a stream is number p * n_streams + stream, as in a pool that all streams
/// grew in together.
struct PageLists {
  cuda::DeviceBuffer<std::int64_t> indptr;
  cuda::DeviceBuffer<std::int32_t> indices, last_page_len;

  PageLists(std::int64_t n_streams, std::int64_t n_pages) {
    std::vector<std::int64_t> ends;
    std::vector<std::int32_t> numbers;
    for (std::int64_t s = 0; s <= n_streams; ++s) ends.push_back(s * n_pages);
    for (std::int64_t s = 0; s < n_streams; ++s) {
      for (std::int64_t p = 0; p < n_pages; ++p) {
        numbers.push_back(static_cast<std::int32_t>(p * n_streams + s));
      }
    }
    indptr = on_device(ends);
    indices = on_device(numbers);
    last_page_len =
        on_device(std::vector<std::int32_t>(static_cast<std::size_t>(n_streams), kPageSize));
  }
};

/// Everything that encode_rows reads but the pages.
class EncodeSubject {
 public:
  EncodeSubject(const FormatPair& formats, std::int32_t n_seq, std::int64_t rows_per_seq)
      : n_tokens_(n_seq * rows_per_seq),
        k_rows_(rows_on_device(n_tokens_, 1)),
        v_rows_(rows_on_device(n_tokens_, 2)),
        k_codec_(formats.k, kHeadDim),
        v_codec_(formats.v, kHeadDim),
        k_transform_(formats.k_transform),
        v_transform_(formats.v_transform),
        format_(make_page_format(formats.k, formats.v, kHeadDim, kKvHeads, kPageSize)),
        lists_(n_seq * kKvHeads / format_.span, rows_per_seq / kPageSize) {
    std::vector<std::int64_t> ends;
    for (std::int64_t s = 0; s <= n_seq; ++s) ends.push_back(s * rows_per_seq);
    row_indptr_ = on_device(ends);
    job_.shape = {kKvHeads, kKvHeads, kHeadDim};
    job_.format = format_;
    job_.k = side(k_codec_, k_transform_, formats.k, k_rows_);
    job_.v = side(v_codec_, v_transform_, formats.v, v_rows_);
    job_.n_seq = n_seq;
    job_.max_rows = rows_per_seq;
    job_.row_indptr = row_indptr_.data();
    job_.indptr = lists_.indptr.data();
    job_.indices = lists_.indices.data();
    job_.page_stride = static_cast<std::int64_t>(format_.page_bytes());
  }

  std::size_t n_pages() const { return lists_.indices.size(); }
  std::size_t page_bytes() const { return n_pages() * format_.page_bytes(); }
  std::size_t row_bytes() const { return k_rows_.bytes() + v_rows_.bytes(); }
  void run(std::byte* pages) {
    job_.pages = pages;
    cuda::encode_rows(job_);
  }

 private:
  cuda::EncodeSide side(const cuda::DeviceCodec& codec, const cuda::DeviceTransform& transform,
                        const AnyCodec& host, const cuda::DeviceBuffer<f16>& rows) const {
    return {codec.codec(), transform.chain(), default_raw_dtype(host), nullptr,
            dense_rows(rows.data(), n_tokens_, kKvHeads, kHeadDim)};
  }

  std::int64_t n_tokens_;
  cuda::DeviceBuffer<f16> k_rows_, v_rows_;
  cuda::DeviceCodec k_codec_, v_codec_;
  cuda::DeviceTransform k_transform_, v_transform_;
  PageFormat format_;
  PageLists lists_;
  cuda::DeviceBuffer<std::int64_t> row_indptr_;
  cuda::EncodeRows job_;
};

void need(std::size_t bytes, const cuda::DeviceBuffer<std::byte>& pool) {
  if (bytes <= pool.bytes()) return;
  throw TooLarge("needs " + std::to_string(bytes >> 20) + " MiB of pages, there are " +
                 std::to_string(pool.bytes() >> 20));
}

/// "hadamard+lm:b4": the codec behind the last plus sign.
void parse_side(const std::string& text, TransformChain& transform, AnyCodec& codec) {
  std::size_t at = 0;
  for (std::size_t plus = text.find('+'); plus != std::string::npos; plus = text.find('+', at)) {
    transform.append(make_transform(text.substr(at, plus - at)));
    at = plus + 1;
  }
  codec = make_codec(text.substr(at));
}

template <class T>
void check_finite(const cuda::DeviceBuffer<T>& out) {
  double largest = 0.0;
  for (const T x : out.to_host()) {
    const double value = std::abs(static_cast<double>(to_f32(x)));
    if (!std::isfinite(value)) throw std::runtime_error("an output is not finite");
    largest = std::max(largest, value);
  }
  if (largest == 0.0) throw std::runtime_error("all outputs are 0");
}

}  // namespace

Plan make_plan(Extent extent) {
  Plan plan;
  // The first ones take the fused path, the others the general one, at fewer shapes.
  const std::vector<std::string> fused = {"f16",   "int8",           "fp8",   "nqkv:g64",
                                          "lm:b4", "k=int8,v=nqsym", "lm:b2", "k=qjl:m256,v=lm:b4"};
  const std::vector<std::string> general = {"wkv:b4:g128", "kivi:b2:g32", "rabitq:b4", "nvfp4",
                                            "k=qjl:m256:o8:mo256,v=kivi:b2:g32"};
  plan.encode_formats = {"int8", "nqkv:g64", "hadamard+nqkv:g64", "hadamard+lm:b4", "kivi"};
  plan.decode_formats = {"int8", "nqkv:g64", "lm:b4", "kivi"};
  plan.policies = {"lagkv:l128:r0.5", "snapkv:r0.5", "keydiff:r0.5"};
  plan.n_samples = 9;
  plan.sample_ms = 3.0;
  plan.bandwidth_bytes = std::size_t{1} << 30;
  plan.rotated_bytes = std::size_t{512} << 20;
  plan.pool_bytes = std::size_t{36} << 30;
  plan.encode_tokens = 65536;
  plan.judged_tokens = 262144;
  plan.append_batch = 64;
  std::vector<std::int64_t> contexts = {4096, 16384, 32768, 65536, 131072};
  std::vector<int> batches = {1, 8, 64};
  std::vector<int> gqas = {1, 4, 8};
  if (extent == Extent::quick) {
    contexts = {4096, 32768};
    plan.n_samples = 5;
    plan.pool_bytes = std::size_t{10} << 30;
  }
  if (extent == Extent::tiny) {
    contexts = {128};
    batches = {1};
    gqas = {4};
    plan.n_samples = 1;
    plan.sample_ms = 0.0;
    plan.bandwidth_bytes = std::size_t{1} << 16;
    plan.rotated_bytes = 0;
    plan.pool_bytes = std::size_t{2} << 20;
    plan.encode_tokens = 128;
    plan.judged_tokens = 256;
    plan.policies[1] = "snapkv:r0.5:w4";
    plan.append_batch = 2;
  }
  std::vector<AttendShape> all, few;
  for (const std::int64_t context : contexts) {
    for (const int batch : batches) {
      for (const int gqa : gqas) all.push_back({gqa, context, batch});
    }
  }
  std::copy_if(all.begin(), all.end(), std::back_inserter(few), [&](const AttendShape& s) {
    return extent == Extent::tiny || (s.context == 32768 && s.batch == 8);
  });
  for (const std::string& format : fused) plan.attend.push_back({format, all});
  for (const std::string& format : general) plan.attend.push_back({format, few});
  for (const char* format : {"qjl:m256", "nqkv:g64", "rabitq:b4"}) {
    plan.score.push_back({std::string("k=") + format + ",v=lm:b4", few});
  }
  return plan;
}

FormatPair::FormatPair(const std::string& text) {
  const std::size_t comma = text.find(",v=");
  if (text.rfind("k=", 0) == 0 && comma != std::string::npos) {
    parse_side(text.substr(2, comma - 2), k_transform, k);
    parse_side(text.substr(comma + 3), v_transform, v);
  } else {
    parse_side(text, k_transform, k);
    parse_side(text, v_transform, v);
  }
}

AttendSubject::AttendSubject(const std::string& format, cuda::DeviceBuffer<std::byte>& pool)
    : formats_(format),
      pool_(pool),
      k_(formats_.k, kHeadDim),
      v_(formats_.v, kHeadDim),
      format_(make_page_format(formats_.k, formats_.v, kHeadDim, kKvHeads, kPageSize)) {
  const std::string why = cuda::why_unsupported(view_of({1, kPageSize, 1}));
  if (!why.empty()) throw std::runtime_error(why);
  EncodeSubject few(formats_, 1, kTemplateRows);
  need(few.page_bytes(), pool_);
  few.run(pool_.data());
  repeat_on_device(pool_.data(), few.page_bytes(), pool_.bytes(), nullptr);
  cuda::synchronize(nullptr);
}

KvView AttendSubject::view_of(const AttendShape& shape) const {
  KvView view;
  view.shape = {kKvHeads * shape.gqa, kKvHeads, kHeadDim};
  view.n_seq = shape.batch;
  view.k_codec = k_.codec();
  view.v_codec = v_.codec();
  view.format = format_;
  view.page_stride = static_cast<std::int64_t>(format_.page_bytes());
  return view;
}

/// What a decode step of one token per sequence reads.
struct AttendSubject::Step {
  KvView view;
  PageLists lists;
  cuda::DeviceBuffer<f16> q;
  cuda::DeviceBuffer<std::int64_t> indptr;
  cuda::DeviceBuffer<std::int32_t> pos;
  cuda::AttendLimits limits;
  AttendOptions options;
  std::size_t bytes;      ///< of the step's pages
  std::int64_t n_copies;  ///< of them in the pool

  Step(const AttendSubject& subject, const AttendShape& shape, const Plan& plan)
      : view(subject.view_of(shape)),
        lists(std::int64_t{shape.batch} * view.n_streams_per_seq(), shape.context / kPageSize),
        q(on_device(
            gaussian(static_cast<std::size_t>(shape.batch * view.shape.n_q_heads) * kHeadDim, 3))),
        bytes(lists.indices.size() * static_cast<std::size_t>(view.page_stride)) {
    need(bytes, subject.pool_);
    view.indptr = lists.indptr.data();
    view.indices = lists.indices.data();
    view.last_page_len = lists.last_page_len.data();
    std::vector<std::int64_t> ends;
    for (std::int64_t i = 0; i <= shape.batch; ++i) ends.push_back(i);
    indptr = on_device(ends);
    pos = on_device(std::vector<std::int32_t>(static_cast<std::size_t>(shape.batch),
                                              static_cast<std::int32_t>(shape.context - 1)));
    limits.max_encoded_rows = shape.context;
    options.sm_scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
    const std::size_t wanted = (plan.rotated_bytes + bytes - 1) / bytes;
    n_copies = static_cast<std::int64_t>(
        std::clamp<std::size_t>(wanted, 1, subject.pool_.bytes() / bytes));
  }

  cuda::DeviceQueries queries() const { return {q.data(), DType::f16, indptr.data(), pos.data()}; }
  /// Turns to the i-th copy of the pages.
  void turn(const std::byte* pool, std::int64_t i) {
    view.pages = pool + static_cast<std::size_t>(i % n_copies) * bytes;
  }
};

void AttendSubject::attend(const AttendShape& shape, const Plan& plan, Row& row) const {
  Step step(*this, shape, plan);
  cuda::DeviceBuffer<f16> out(step.q.size());
  cuda::DeviceBuffer<std::byte> workspace(cuda::attend_workspace_bytes(step.view, step.limits));
  row.ms = median_ms(
      [&](std::int64_t i) {
        step.turn(pool_.data(), i);
        cuda::attend(step.view, step.queries(), {out.data(), DType::f16}, step.options, step.limits,
                     workspace.data(), workspace.bytes());
      },
      plan.n_samples, plan.sample_ms);
  row.bytes = static_cast<double>(step.bytes);
  check_finite(out);
}

void AttendSubject::score(const AttendShape& shape, const Plan& plan, Row& row) const {
  Step step(*this, shape, plan);
  const std::size_t n_rows = step.q.size() / kHeadDim;
  cuda::DeviceBuffer<float> scores(n_rows * static_cast<std::size_t>(shape.context));
  cuda::DeviceBuffer<std::byte> workspace(cuda::score_workspace_bytes(step.view, step.limits));
  row.ms = median_ms(
      [&](std::int64_t i) {
        step.turn(pool_.data(), i);
        cuda::score(step.view, step.queries(), step.options, step.limits, scores.data(),
                    shape.context, workspace.data(), workspace.bytes());
      },
      plan.n_samples, plan.sample_ms);
  const double keys = static_cast<double>(shape.batch * kKvHeads / formats_.k.head_span(kHeadDim)) *
                      static_cast<double>(shape.context / kTileRows) *
                      static_cast<double>(formats_.k.tile_bytes(kHeadDim));
  row.bytes = keys + static_cast<double>(scores.bytes());
  check_finite(scores);
}

void measure_encode(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row) {
  const std::int32_t n_seq = plan.encode_tokens >= 4096 ? 16 : 1;
  EncodeSubject subject(FormatPair(row.format), n_seq, plan.encode_tokens / n_seq);
  need(subject.page_bytes(), pool);
  row.ms =
      median_ms([&](std::int64_t) { subject.run(pool.data()); }, plan.n_samples, plan.sample_ms);
  row.bytes = static_cast<double>(subject.row_bytes() + subject.page_bytes());
}

void measure_append(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row) {
  const FormatPair formats(row.format);
  CacheConfig config;
  config.shape = {kKvHeads, kKvHeads, kHeadDim};
  config.layers.resize(1);
  config.layers[0].k = {formats.k_transform, {}, formats.k, {}};
  config.layers[0].v = {formats.v_transform, {}, formats.v, {}};
  config.page_size = kPageSize;
  config.max_sequences = plan.append_batch;
  const cuda::DeviceWindow window(config, 0);
  const PageFormat& format = window.window().format;
  const std::int64_t n_steps =
      plan.append_batch < 64 ? 128 : 1024;  // then the sequences start anew
  const PageLists lists(std::int64_t{plan.append_batch} * kKvHeads / format.span,
                        window.window().pages_needed(n_steps));
  need(lists.indices.size() * format.page_bytes(), pool);
  const cuda::PageTable table{pool.data(), static_cast<std::int64_t>(format.page_bytes()),
                              static_cast<std::int64_t>(lists.indices.size()), lists.indptr.data(),
                              lists.indices.data()};
  const auto k = rows_on_device(plan.append_batch, 5);
  const auto v = rows_on_device(plan.append_batch, 6);
  std::vector<std::int64_t> ends;
  for (std::int64_t s = 0; s <= plan.append_batch; ++s) ends.push_back(s);
  const auto indptr = on_device(ends);
  const auto nothing = on_device(std::vector<std::int64_t>(ends.size(), 0));
  cuda::AppendRows rows;
  rows.k = dense_rows(k.data(), plan.append_batch, kKvHeads, kHeadDim);
  rows.v = dense_rows(v.data(), plan.append_batch, kKvHeads, kHeadDim);
  rows.indptr = indptr.data();
  row.ms = median_ms(
      [&](std::int64_t i) {
        if (i % n_steps == 0) cuda::truncate_rows(window.window(), nothing.data());
        cuda::append_rows(window.window(), table, rows);
      },
      plan.n_samples, plan.sample_ms);
  for (const std::uint32_t status : window.status()) {
    if (status != cuda::kWindowOk) throw std::runtime_error("a sequence took no rows");
  }
  const auto row_bytes = static_cast<double>(k.bytes() + v.bytes());
  const double page_bytes = static_cast<double>(plan.append_batch * kKvHeads / format.span) *
                            static_cast<double>(format.page_bytes()) / kPageSize;
  row.bytes = 3.0 * row_bytes + page_bytes;
}

void measure_decode(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Row& row) {
  const cuda::DeviceCodec codec(make_codec(row.format), kHeadDim);
  const auto span = static_cast<std::size_t>(codec.codec().head_span(kHeadDim));
  const std::size_t n_tiles =
      static_cast<std::size_t>(plan.encode_tokens) * kKvHeads / kTileRows / span;
  const std::size_t tile_bytes = codec.codec().tile_bytes(kHeadDim);
  need(n_tiles * tile_bytes, pool);
  const cuda::DeviceBuffer<f16> x =
      rows_on_device(plan.encode_tokens, 4);  // the right number of values in any order
  const auto n = static_cast<std::int64_t>(n_tiles);
  cuda::encode_tiles(codec.codec(), Side::key, kHeadDim, n, {x.data(), DType::f16}, pool.data(),
                     nullptr);
  cuda::DeviceBuffer<f16> y(x.size());
  row.ms = median_ms(
      [&](std::int64_t) {
        cuda::decode_tiles(codec.codec(), Side::key, kHeadDim, n, pool.data(),
                           {y.data(), DType::f16});
      },
      plan.n_samples, plan.sample_ms);
  row.bytes = static_cast<double>(n_tiles * tile_bytes + y.bytes());
  check_finite(y);
}

}  // namespace kvcodec::bench
