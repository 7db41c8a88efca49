// The owners of windows and of pages.
#include <algorithm>
#include <limits>

#include "cuda/codec/encode.hpp"
#include "cuda/core/check.hpp"
#include "kvcodec/cuda/append.hpp"
#include "src/cache/center.hpp"
#include "src/cache/layer_info.hpp"

namespace kvcodec::cuda {
namespace {

constexpr const char* kDeviceWindow = "DeviceWindow";

/// Addresses of arrays that follow each other in one allocation. Used twice: once to learn the size.
class Layout {
 public:
  explicit Layout(std::byte* base) : base_(base) {}

  template <class T>
  T* add(std::int64_t n) {
    const std::size_t at = (used_ + 255) / 256 * 256;
    used_ = at + static_cast<std::size_t>(n) * sizeof(T);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  std::size_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

std::int64_t n_heads(const LayerWindow& w) { return std::int64_t{w.n_seq} * w.shape.n_kv_heads; }
std::int64_t n_streams(const LayerWindow& w) { return n_heads(w) / w.format.span; }

/// Sets the pointers of the window; returns the bytes they take.
std::size_t place_arrays(LayerWindow& w, bool k_centered, bool v_centered, std::byte* base) {
  Layout layout(base);
  const std::int64_t row = n_heads(w) * w.shape.head_dim;
  for (WindowSide* side : {&w.k, &w.v}) {
    const auto bytes = row * static_cast<std::int64_t>(dtype_bytes(side->raw_dtype));
    side->sinks = layout.add<std::byte>(bytes * w.n_sink);
    side->recent = layout.add<std::byte>(bytes * w.rule.capacity());
    const bool centered = side == &w.k ? k_centered : v_centered;
    side->center = centered ? layout.add<float>(row) : nullptr;
  }
  w.counts = layout.add<WindowCounts>(w.n_seq);
  w.n_encoded = layout.add<std::int64_t>(n_streams(w));
  w.first_pos = layout.add<std::int32_t>(n_streams(w));
  w.sinks = layout.add<RawRows>(n_heads(w));
  w.recent = layout.add<RawRows>(n_heads(w));
  w.status = layout.add<std::uint32_t>(w.n_seq);
  w.clamped = layout.add<std::uint32_t>(w.n_seq);
  w.plans = layout.add<WindowPlan>(w.n_seq);
  return layout.used();
}

template <class T>
void upload(T* device, const std::vector<std::remove_const_t<T>>& host, Stream stream) {
  using Value = std::remove_const_t<T>;
  detail::copy_in(const_cast<Value*>(device), host.data(), host.size() * sizeof(Value), stream);
}

template <class T>
std::vector<T> download(const T* device, std::int64_t n, Stream stream) {
  std::vector<T> host(static_cast<std::size_t>(n));
  detail::copy_out(host.data(), device, host.size() * sizeof(T), stream);
  synchronize(stream);
  return host;
}

/// What attention sees of one sequence with these counts.
void upload_counts(const LayerWindow& w, std::int32_t seq, const WindowCounts& counts,
                   Stream stream) {
  const std::int64_t first = std::int64_t{seq} * w.shape.n_kv_heads;
  const auto row_of = [&](const WindowSide& side, const std::byte* rows, std::int64_t unit,
                          std::int64_t capacity) {
    const auto bytes = w.shape.head_dim * static_cast<std::int64_t>(dtype_bytes(side.raw_dtype));
    return rows + unit * capacity * bytes;
  };
  std::vector<RawRows> sinks(static_cast<std::size_t>(w.shape.n_kv_heads));
  std::vector<RawRows> recent(sinks.size());
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    const std::int64_t unit = first + static_cast<std::int64_t>(i);
    sinks[i].k = row_of(w.k, w.k.sinks, unit, w.n_sink);
    sinks[i].v = row_of(w.v, w.v.sinks, unit, w.n_sink);
    sinks[i].row_stride = w.shape.head_dim;
    sinks[i].n_rows = counts.n_sink;
    recent[i].k = row_of(w.k, w.k.recent, unit, w.rule.capacity());
    recent[i].v = row_of(w.v, w.v.recent, unit, w.rule.capacity());
    recent[i].row_stride = w.shape.head_dim;
    recent[i].n_rows = counts.n_recent;
    recent[i].first_pos = static_cast<std::int32_t>(counts.n_sink + counts.n_encoded);
  }
  upload(w.sinks + first, sinks, stream);
  upload(w.recent + first, recent, stream);
  const auto per_seq = static_cast<std::size_t>(w.shape.n_kv_heads / w.format.span);
  const std::int64_t stream_of = std::int64_t{seq} * static_cast<std::int64_t>(per_seq);
  upload(w.n_encoded + stream_of, std::vector<std::int64_t>(per_seq, counts.n_encoded), stream);
  upload(w.first_pos + stream_of, std::vector<std::int32_t>(per_seq, counts.n_sink), stream);
  upload(w.counts + seq, std::vector<WindowCounts>{counts}, stream);
  upload(w.status + seq, std::vector<std::uint32_t>{kWindowOk}, stream);
}

/// Rows of the heads of one sequence of a host's view, into [n_kv_heads, capacity, head_dim].
void upload_rows(const RawRows* rows, Side which, const LayerWindow& w, const WindowSide& side,
                 std::byte* to, std::int64_t capacity, Stream stream) {
  const std::size_t row_bytes =
      static_cast<std::size_t>(w.shape.head_dim) * dtype_bytes(side.raw_dtype);
  for (std::int32_t head = 0; head < w.shape.n_kv_heads; ++head) {
    const RawRows& r = rows[head];
    if (r.n_rows == 0) continue;
    const std::size_t pitch = static_cast<std::size_t>(r.row_stride) * dtype_bytes(side.raw_dtype);
    std::byte* at = to + static_cast<std::size_t>(head * capacity) * row_bytes;
    check(cudaMemcpy2DAsync(at, row_bytes, which == Side::key ? r.k : r.v, pitch, row_bytes,
                            static_cast<std::size_t>(r.n_rows), cudaMemcpyHostToDevice, stream),
          "cudaMemcpy2DAsync");
  }
}

WindowCounts counts_of(const KvView& view, std::int32_t seq) {
  const std::int64_t head = std::int64_t{seq} * view.shape.n_kv_heads;
  WindowCounts counts;
  counts.n_encoded = view.encoded_rows(std::int64_t{seq} * view.n_streams_per_seq());
  if (view.sinks != nullptr) counts.n_sink = view.sinks[head].n_rows;
  if (view.recent != nullptr) counts.n_recent = view.recent[head].n_rows;
  return counts;
}

void require_slots(const char* where, std::int32_t first_seq, std::int32_t n, std::int64_t n_seq) {
  if (first_seq >= 0 && first_seq <= n_seq - n) return;
  throw invalid_argument(
      bad_value(where, "first_seq", first_seq,
                "0.." + std::to_string(n_seq) + " - view.n_seq = " + std::to_string(n)));
}

void check_view(const LayerWindow& w, const KvView& host) {
  const auto refuse = [](const std::string& what) {
    throw invalid_argument(std::string("DeviceWindow::load: ") + what);
  };
  if (!(host.format == w.format) || host.shape.n_kv_heads != w.shape.n_kv_heads) {
    refuse("the view has another page format or other heads than this window");
  }
  if (host.k_codec.name() != w.k.codec.name() || host.v_codec.name() != w.v.codec.name()) {
    refuse("the view has codecs " + host.k_codec.name() + " and " + host.v_codec.name() +
           ", allowed: " + w.k.codec.name() + " and " + w.v.codec.name());
  }
  if (host.k_raw_dtype != w.k.raw_dtype || host.v_raw_dtype != w.v.raw_dtype) {
    refuse("the view has rows of another type than this window");
  }
  if (host.slot_pos != nullptr || host.kept != nullptr)
    refuse("the view is of a layer with a policy");
  if ((host.k_center == nullptr) != (w.k.center == nullptr) ||
      (host.v_center == nullptr) != (w.v.center == nullptr)) {
    refuse("the view and this window must both have centers or both have none");
  }
  for (std::int32_t seq = 0; seq < host.n_seq; ++seq) {
    const WindowCounts c = counts_of(host, seq);
    const std::string sequence = "sequence " + std::to_string(seq) + " of the view ";
    if (c.n_sink > w.n_sink || c.n_recent >= w.rule.capacity() ||
        (c.n_sink < w.n_sink && c.n_encoded + c.n_recent > 0)) {
      refuse(sequence + "has " + std::to_string(c.n_sink) + " sinks and " +
             std::to_string(c.n_recent) + " recent rows, which no append to this window leaves");
    }
    if (w.n_centered == 0 || c.n_encoded > 0 || c.n_tokens() == 0) continue;
    throw unsupported("DeviceWindow::load: " + sequence +
                      "has no encoded row, so the mean of its prompt is not settled");
  }
}

}  // namespace

DeviceWindow::DeviceWindow(const CacheConfig& config, std::int32_t layer, Stream stream) {
  kvcodec::check(config.shape);
  check_range(kDeviceWindow, "layer", layer, 0,
              static_cast<std::int64_t>(config.layers.size()) - 1);
  check_range(kDeviceWindow, "max_sequences", config.max_sequences, 1, 1 << 20);
  const LayerInfo info = make_layer(config, static_cast<std::size_t>(layer));
  if (info.stages_rows) {
    throw unsupported("DeviceWindow: layer " + std::to_string(layer) + " has " +
                      (info.config.policy ? "policy " + info.config.policy.name() : "a codebook") +
                      ", which works on the host only");
  }
  const int head_dim = config.shape.head_dim;
  LayerWindow& w = window_;
  w.shape = config.shape;
  w.format = info.format;
  w.n_seq = config.max_sequences;
  w.n_sink = info.config.n_sink;
  w.rule = info.rule();
  w.k.raw_dtype = info.k_dtype;
  w.v.raw_dtype = info.v_dtype;
  const Center centers[2] = {Center(info, Side::key), Center(info, Side::value)};
  w.n_centered = static_cast<std::int32_t>(std::max(centers[0].n_needed(), centers[1].n_needed()));
  w.cuts_tiles = true;
  for (const Side side : {Side::key, Side::value}) {
    const AnyCodec& codec = info.side(side).codec;
    const char* name = side == Side::key ? "k" : "v";
    static_cast<void>(packed_transform(kDeviceWindow, name, info.side(side).transform, head_dim));
    w.cuts_tiles = w.cuts_tiles && codec.row_independent() && holds_tile(codec, head_dim);
  }
  k_codec_ = DeviceCodec(info.config.k.codec, head_dim, stream);
  v_codec_ = DeviceCodec(info.config.v.codec, head_dim, stream);
  k_transform_ = DeviceTransform(info.config.k.transform, stream);
  v_transform_ = DeviceTransform(info.config.v.transform, stream);
  w.k.codec = k_codec_.codec();
  w.v.codec = v_codec_.codec();
  require_encoder(kDeviceWindow, w.k.codec, Side::key, head_dim);
  require_encoder(kDeviceWindow, w.v.codec, Side::value, head_dim);
  w.k.transform = k_transform_.chain();
  w.v.transform = v_transform_.chain();
  const bool centered[2] = {centers[0].active(), centers[1].active()};
  memory_ = DeviceBuffer<std::byte>(place_arrays(w, centered[0], centered[1], nullptr));
  place_arrays(w, centered[0], centered[1], memory_.data());
  memory_.fill(0, stream);
  const std::int64_t width = std::int64_t{w.shape.n_kv_heads} * head_dim;
  for (int i = 0; i < 2; ++i) {
    if (centers[i].values() == nullptr) continue;
    const std::vector<float> values(centers[i].values(), centers[i].values() + width);
    for (std::int64_t seq = 0; seq < w.n_seq; ++seq) {
      upload((i == 0 ? w.k : w.v).center + seq * width, values, stream);
    }
  }
  for (std::int32_t seq = 0; seq < w.n_seq; ++seq) upload_counts(w, seq, {}, stream);
}

KvView DeviceWindow::view(const PageTable& pages) const {
  KvView view;
  view.shape = window_.shape;
  view.n_seq = window_.n_seq;
  view.k_codec = window_.k.codec;
  view.v_codec = window_.v.codec;
  view.format = window_.format;
  view.pages = pages.pages;
  view.page_stride = pages.page_stride;
  view.indptr = pages.indptr;
  view.indices = pages.indices;
  view.n_encoded = window_.n_encoded;
  view.first_pos = window_.first_pos;
  view.k_center = window_.k.center;
  view.v_center = window_.v.center;
  view.sinks = window_.sinks;
  view.recent = window_.recent;
  view.k_raw_dtype = window_.k.raw_dtype;
  view.v_raw_dtype = window_.v.raw_dtype;
  return view;
}

std::size_t DeviceWindow::bytes() const noexcept { return memory_.bytes(); }

void DeviceWindow::load(const KvView& host, std::int32_t first_seq, Stream stream) {
  const LayerWindow& w = window_;
  require_slots("DeviceWindow::load", first_seq, host.n_seq, w.n_seq);
  check_view(w, host);
  const std::int64_t width = std::int64_t{w.shape.n_kv_heads} * w.shape.head_dim;
  for (std::int32_t i = 0; i < host.n_seq; ++i) {
    const std::int32_t slot = first_seq + i;
    const std::int64_t from = std::int64_t{i} * w.shape.n_kv_heads;
    for (const Side which : {Side::key, Side::value}) {
      const WindowSide& side = which == Side::key ? w.k : w.v;
      const auto row = slot * width * static_cast<std::int64_t>(dtype_bytes(side.raw_dtype));
      if (host.sinks != nullptr) {
        upload_rows(host.sinks + from, which, w, side, side.sinks + row * w.n_sink, w.n_sink,
                    stream);
      }
      if (host.recent != nullptr) {
        upload_rows(host.recent + from, which, w, side, side.recent + row * w.rule.capacity(),
                    w.rule.capacity(), stream);
      }
      const float* center = which == Side::key ? host.k_center : host.v_center;
      if (center == nullptr) continue;
      upload(side.center + slot * width,
             std::vector<float>(center + i * width, center + (i + 1) * width), stream);
    }
    upload_counts(w, slot, counts_of(host, i), stream);
    upload(w.clamped + slot, std::vector<std::uint32_t>{0}, stream);
  }
}

std::vector<WindowCounts> DeviceWindow::counts(Stream stream) const {
  return download(window_.counts, window_.n_seq, stream);
}
std::vector<std::uint32_t> DeviceWindow::status(Stream stream) const {
  return download(window_.status, window_.n_seq, stream);
}
std::vector<std::uint32_t> DeviceWindow::clamped(Stream stream) const {
  return download(window_.clamped, window_.n_seq, stream);
}
void DeviceWindow::clear_status(Stream stream) {
  const auto n = static_cast<std::size_t>(window_.n_seq);
  detail::fill(window_.status, 0, n * sizeof(std::uint32_t), stream);
}

DevicePages::DevicePages(const LayerWindow& window, std::int64_t pages_per_stream,
                         std::int64_t n_pages, Stream stream)
    : format_(window.format), pages_per_stream_(pages_per_stream) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  check_range("DevicePages", "pages_per_stream", pages_per_stream, 1, kMost);
  check_range("DevicePages", "n_pages", n_pages, 0, kMost);
  streams_per_seq_ = window.shape.n_kv_heads / window.format.span;
  n_listed_.resize(static_cast<std::size_t>(window.n_seq));
  lists_.resize(static_cast<std::size_t>(n_streams(window) * pages_per_stream), -1);
  for (std::int64_t i = n_pages; i-- > 0;) free_.push_back(static_cast<std::int32_t>(i));
  std::vector<std::int64_t> indptr;
  for (std::int64_t s = 0; s <= n_streams(window); ++s) indptr.push_back(s * pages_per_stream);
  pages_ = DeviceBuffer<std::byte>(static_cast<std::size_t>(n_pages) * format_.page_bytes());
  indptr_ = DeviceBuffer<std::int64_t>(std::span<const std::int64_t>(indptr), stream);
  indices_ = DeviceBuffer<std::int32_t>(std::span<const std::int32_t>(lists_), stream);
}

PageTable DevicePages::table() const noexcept {
  const auto page_bytes = format_.page_bytes();
  return {const_cast<std::byte*>(pages_.data()), static_cast<std::int64_t>(page_bytes),
          static_cast<std::int64_t>(page_bytes == 0 ? 0 : pages_.bytes() / page_bytes),
          indptr_.data(), indices_.data()};
}

std::size_t DevicePages::bytes() const noexcept {
  return pages_.bytes() + indptr_.bytes() + indices_.bytes();
}

std::int64_t& DevicePages::n_listed(std::int32_t seq) {
  check_range("DevicePages", "seq", seq, 0, static_cast<std::int64_t>(n_listed_.size()) - 1);
  return n_listed_[static_cast<std::size_t>(seq)];
}

void DevicePages::reserve(std::int32_t seq, std::int64_t n, Stream stream) {
  std::int64_t& listed = n_listed(seq);
  if (n <= listed) return;
  const std::int64_t wanted = (n - listed) * streams_per_seq_;
  if (n > pages_per_stream_ || wanted > n_free()) {
    throw out_of_pages("DevicePages::reserve: sequence " + std::to_string(seq) + " wants " +
                       std::to_string(n) + " pages per stream and has " + std::to_string(listed) +
                       "; pages_per_stream = " + std::to_string(pages_per_stream_) +
                       ", free pages: " + std::to_string(n_free()));
  }
  const std::int64_t first = std::int64_t{seq} * streams_per_seq_ * pages_per_stream_;
  for (std::int32_t s = 0; s < streams_per_seq_; ++s) {
    for (std::int64_t i = listed; i < n; ++i) {
      lists_[static_cast<std::size_t>(first + s * pages_per_stream_ + i)] = free_.back();
      free_.pop_back();
    }
  }
  listed = n;
  const auto count = static_cast<std::size_t>(streams_per_seq_ * pages_per_stream_);
  detail::copy_in(indices_.data() + first, lists_.data() + first, count * sizeof(std::int32_t),
                  stream);
}

void DevicePages::release(std::int32_t seq, Stream stream) {
  std::int64_t& listed = n_listed(seq);
  const std::int64_t first = std::int64_t{seq} * streams_per_seq_ * pages_per_stream_;
  for (std::int32_t s = streams_per_seq_; s-- > 0;) {
    for (std::int64_t i = listed; i-- > 0;) {
      std::int32_t& page = lists_[static_cast<std::size_t>(first + s * pages_per_stream_ + i)];
      free_.push_back(page);
      page = -1;
    }
  }
  listed = 0;
  const auto count = static_cast<std::size_t>(streams_per_seq_ * pages_per_stream_);
  detail::copy_in(indices_.data() + first, lists_.data() + first, count * sizeof(std::int32_t),
                  stream);
}

void DevicePages::load(const KvView& host, std::int32_t first_seq, Stream stream) {
  const char* where = "DevicePages::load";
  require_slots(where, first_seq, host.n_seq, static_cast<std::int64_t>(n_listed_.size()));
  if (!(host.format == format_) || host.n_streams_per_seq() != streams_per_seq_) {
    throw invalid_argument(std::string(where) + ": the view has another page format");
  }
  const std::size_t page_bytes = format_.page_bytes();
  for (std::int32_t i = 0; i < host.n_seq; ++i) {
    const std::int64_t of_view = std::int64_t{i} * streams_per_seq_;
    const std::int64_t n = (host.encoded_rows(of_view) + format_.page_size - 1) / format_.page_size;
    reserve(first_seq + i, n, stream);
    for (std::int32_t s = 0; s < streams_per_seq_; ++s) {
      const std::int64_t list =
          ((std::int64_t{first_seq} + i) * streams_per_seq_ + s) * pages_per_stream_;
      for (std::int64_t p = 0; p < n; ++p) {
        const auto to = static_cast<std::size_t>(lists_[static_cast<std::size_t>(list + p)]);
        const std::int32_t from = host.page_of(of_view + s, p * format_.page_size);
        detail::copy_in(pages_.data() + to * page_bytes, host.page_data(from), page_bytes, stream);
      }
    }
  }
}

}  // namespace kvcodec::cuda
