#include "src/bench/pages.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <random>

#include "kvcodec/attend/reference.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::bench {
namespace {

constexpr int kDirections = 512;
constexpr float kNoise = 0.1f;

std::vector<float> clustered_values(std::size_t n_rows, std::size_t head_dim, unsigned seed) {
  const std::vector<float> directions = gaussian_values(kDirections * head_dim, seed);
  std::vector<float> x = gaussian_values(n_rows * head_dim, seed + 1);
  for (std::size_t row = 0; row < n_rows; ++row) {
    const float* direction = &directions[row * 2654435761u % kDirections * head_dim];
    for (std::size_t c = 0; c < head_dim; ++c) {
      float& value = x[row * head_dim + c];
      value = direction[c] + kNoise * value;
    }
  }
  return x;
}

/// Encoded rows of the first stream.
std::int64_t rows_in(const Cache& cache, SeqId seq) {
  ViewBuffers buffers;
  return cache.view(0, {&seq, 1}, buffers).encoded_rows(0);
}

}  // namespace

std::vector<float> gaussian_values(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(engine);
  return x;
}

UniqueRows UniqueRows::gaussian(std::int64_t n, int n_kv_heads, int head_dim) {
  const auto values = static_cast<std::size_t>(n * n_kv_heads * head_dim);
  return {head_dim, n_kv_heads, n, gaussian_values(values, 11), gaussian_values(values, 12)};
}

UniqueRows UniqueRows::clustered(std::int64_t n, int n_kv_heads, int head_dim) {
  const auto n_rows = static_cast<std::size_t>(n * n_kv_heads);
  const auto width = static_cast<std::size_t>(head_dim);
  return {head_dim, n_kv_heads, n, clustered_values(n_rows, width, 21),
          clustered_values(n_rows, width, 23)};
}

std::string plan_of(const std::string& format) {
  const bool is_plan = format.find('=') != std::string::npos;
  const std::string plan = is_plan ? format : "kv=" + format;
  return plan.find("recent=") == std::string::npos ? "recent=0," + plan : plan;
}

Pages::Pages(const std::string& plan, const UniqueRows& rows, std::size_t bytes,
             std::int64_t n_tokens, int n_seq) {
  const HeadShape shape{rows.n_kv_heads, rows.n_kv_heads, rows.head_dim};
  cache_ = std::make_unique<Cache>(make_cache_config(plan, shape, 1, rows.n));
  seq_ = cache_->open();
  const std::int64_t width = std::int64_t{rows.n_kv_heads} * rows.head_dim;
  std::int64_t half = 0;
  for (std::int64_t first = 0; first < rows.n; first += rows.n / 2) {
    if (first > 0) half = rows_in(*cache_, seq_);
    cache_->append(
        seq_, 0,
        dense_rows(rows.k.data() + first * width, rows.n / 2, rows.n_kv_heads, rows.head_dim),
        dense_rows(rows.v.data() + first * width, rows.n / 2, rows.n_kv_heads, rows.head_dim));
  }
  view_ = cache_->view(0, {&seq_, 1}, buffers_);
  drops_rows_ = static_cast<bool>(layer().policy);
  if (view_.slot_mask != nullptr) {
    throw unsupported("bench: plan " + plan + " keeps different rows per query head");
  }
  kept_share_ =
      2.0 * static_cast<double>(view_.encoded_rows(0) - half) / static_cast<double>(rows.n);

  const std::size_t page_bytes = view_.format.page_bytes();
  const std::int64_t n_streams = view_.n_streams_per_seq();
  n_pages_ = std::max(static_cast<std::int64_t>((bytes + page_bytes - 1) / page_bytes),
                      pages_of(n_tokens) * n_streams * n_seq);
  n_pages_ = (n_pages_ + n_streams - 1) / n_streams * n_streams;
  data_ = allocate_page_memory(static_cast<std::size_t>(n_pages_) * page_bytes);
  const std::int64_t n_whole = view_.encoded_rows(0) / view_.format.page_size;
  if (n_whole == 0 || pages_of(n_tokens) == 0) {
    throw unsupported("bench: plan " + plan + " keeps no encoded page of " +
                      std::to_string(n_tokens) + " tokens");
  }
  for (std::int64_t page = 0; page < n_pages_; ++page) {
    const std::int64_t stream = page % n_streams;
    const std::int64_t row = page / n_streams % n_whole * view_.format.page_size;
    std::memcpy(data_.get() + static_cast<std::size_t>(page) * page_bytes,
                view_.page_data(view_.page_of(stream, row)), page_bytes);
  }
  if (view_.slot_pos != nullptr) {
    positions_.resize(static_cast<std::size_t>(n_pages_ * view_.format.page_size));
  }
}

std::int64_t Pages::encoded_rows(std::int64_t n_tokens) const {
  if (!drops_rows_) return n_tokens;
  return static_cast<std::int64_t>(kept_share_ * static_cast<double>(n_tokens));
}

std::int64_t Pages::pages_of(std::int64_t n_tokens) const {
  return (encoded_rows(n_tokens) + view_.format.page_size - 1) / view_.format.page_size;
}

double Pages::table_bytes() const {
  double bytes = 0.0;
  for (const AnyCodec* codecs : {view_.k_codecs, view_.v_codecs}) {
    const Codebook* codebook = codecs == nullptr ? nullptr : codecs[0].as<Codebook>();
    if (codebook == nullptr) continue;
    bytes += 2.0 * static_cast<double>(codebook->n_entries) * view_.format.head_dim *
             (codebook->scope == CodebookScope::head ? view_.shape.n_kv_heads : 1);
  }
  return bytes;
}

PagedAttention::PagedAttention(Pages& pages, const Shape& shape, const std::vector<float>& q,
                               const AttendOptions& options)
    : pages_(pages), shape_(shape), options_(options), view_(pages.view()), q_(q), out_(q.size()) {
  view_.shape.n_q_heads = shape.n_q_heads();
  view_.n_seq = shape.n_seq;
  view_.pages = pages.data();
  view_.page_stride = static_cast<std::int64_t>(view_.format.page_bytes());
  if (view_.slot_pos != nullptr) view_.slot_pos = pages.positions();
  if (!pages.drops_rows()) view_.sinks = view_.kept = view_.recent = nullptr;
  view_.first_pos = nullptr;  // queries come after every row
  // The view is of one sequence.
  const auto repeat = [&](auto*& of_heads, auto& all) {
    if (of_heads == nullptr) return;
    for (int s = 0; s < shape.n_seq; ++s) {
      all.insert(all.end(), of_heads, of_heads + view_.shape.n_kv_heads);
    }
    of_heads = all.data();
  };
  repeat(view_.k_codecs, k_codecs_);
  repeat(view_.v_codecs, v_codecs_);
  repeat(view_.sinks, sinks_);
  repeat(view_.kept, kept_);
  repeat(view_.recent, recent_);
  const std::int64_t n_encoded = pages.encoded_rows(shape.n_tokens);
  const std::int64_t per_copy =
      pages.pages_of(shape.n_tokens) * view_.n_streams_per_seq() * shape.n_seq;
  fill_lists(n_encoded, std::max<std::int64_t>(1, pages.n_pages() / per_copy));

  const int d = shape.head_dim;
  for (int row = 0; row < shape.n_seq * shape.n_q_heads(); ++row) {
    pages.layer().k.transform.query(d, row % shape.n_q_heads() / shape.gqa,
                                    &q_[static_cast<std::size_t>(row * d)]);
  }
  for (int s = 0; s <= shape.n_seq; ++s) query_indptr_.push_back(s);
  query_pos_.assign(static_cast<std::size_t>(shape.n_seq),
                    std::numeric_limits<std::int32_t>::max());
}

void PagedAttention::fill_lists(std::int64_t n_encoded, std::int64_t n_copies) {
  const std::int64_t n_streams = view_.n_streams_per_seq();
  const std::int64_t n_pages = pages_.pages_of(shape_.n_tokens);
  for (std::int64_t i = 0; i <= shape_.n_seq * n_streams; ++i) indptr_.push_back(i * n_pages);
  n_encoded_.assign(static_cast<std::size_t>(shape_.n_seq * n_streams), n_encoded);
  for (std::int64_t copy = 0; copy < n_copies; ++copy) {
    std::vector<std::int32_t>& list = indices_.emplace_back();
    for (std::int64_t seq = copy * shape_.n_seq; seq < (copy + 1) * shape_.n_seq; ++seq) {
      for (std::int64_t stream = 0; stream < n_streams; ++stream) {
        for (std::int64_t i = 0; i < n_pages; ++i) {
          list.push_back(static_cast<std::int32_t>((seq * n_pages + i) * n_streams + stream));
        }
      }
    }
  }
  view_.indptr = indptr_.data();
  view_.n_encoded = n_encoded_.data();
}

void PagedAttention::step(const Executor& executor) {
  view_.indices = indices_[pages_.take_turn() % indices_.size()].data();
  const Queries queries{q_.data(), query_indptr_.data(), query_pos_.data(), nullptr, nullptr};
  const int n_workers = executor.run == nullptr ? 1 : executor.n_workers;
  const Status status =
      attend(view_, queries, out_.data(), nullptr, options_,
             workspace_.bytes(attend_workspace_bytes(view_, queries, n_workers)), executor);
  if (status != Status::ok) throw error(std::string("bench: attend: ") + to_string(status));
}

double PagedAttention::bytes() const {
  // Tiles are read whole.
  const std::int64_t n_tiles = (pages_.encoded_rows(shape_.n_tokens) + kTileRows - 1) / kTileRows;
  const double encoded = static_cast<double>(n_tiles * shape_.n_seq * view_.n_streams_per_seq()) *
                         static_cast<double>(view_.format.strip_bytes());
  double raw = 0.0;
  for (const RawRows* rows : {view_.sinks, view_.kept, view_.recent}) {
    for (int h = 0; rows != nullptr && h < view_.shape.n_kv_heads; ++h) {
      raw += static_cast<double>(rows[h].n_rows) * shape_.head_dim *
             static_cast<double>(dtype_bytes(view_.k_raw_dtype) + dtype_bytes(view_.v_raw_dtype));
    }
  }
  return encoded + raw + pages_.table_bytes();
}

std::vector<float> PagedAttention::output() const {
  std::vector<float> out = out_;
  const int d = shape_.head_dim;
  for (int row = 0; row < shape_.n_seq * shape_.n_q_heads(); ++row) {
    pages_.layer().v.transform.output(d, row % shape_.n_q_heads() / shape_.gqa,
                                      &out[static_cast<std::size_t>(row * d)]);
  }
  return out;
}

double sample_error(const UniqueRows& rows, const Shape& shape, const std::vector<float>& q,
                    float sm_scale, const std::vector<float>& out) {
  const int d = shape.head_dim;
  const std::vector<std::int32_t> pos(static_cast<std::size_t>(rows.n));
  AttendOptions options;
  options.sm_scale = sm_scale;
  std::vector<double> want(static_cast<std::size_t>(d));
  double error = 0.0;
  double norm = 0.0;
  for (int h = 0; h < shape.n_q_heads(); ++h) {
    const int head = h / shape.gqa;
    if (head != 0 && head != shape.n_kv_heads - 1) continue;
    reference_attend(d, std::min(rows.n, shape.n_tokens), q.data() + h * d,
                     rows.k.data() + head * d, rows.v.data() + head * d,
                     std::int64_t{rows.n_kv_heads} * d, pos.data(), 0, options,
                     -std::numeric_limits<double>::infinity(), want.data());
    for (int c = 0; c < d; ++c) {
      const double x = want[static_cast<std::size_t>(c)];
      const double difference = static_cast<double>(out[static_cast<std::size_t>(h * d + c)]) - x;
      error += difference * difference;
      norm += x * x;
    }
  }
  return std::sqrt(error / norm);
}

}  // namespace kvcodec::bench
