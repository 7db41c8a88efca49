#include "bench/peers/peer.hpp"

#include <ggml.h>
#if defined(KVCODEC_PEER_HAS_CPU_H)
#include <ggml-cpu.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kvcodec/core/error.hpp"
#include "kvcodec/page/page_memory.hpp"

namespace kvcodec::bench {
namespace {

const std::string kPeer = KVCODEC_PEER_NAME;
const char* const kProductsOnly = " mul_mat";  // flash attention off

/// The peer's number of a type, or -1.
int type_of(const std::string& name) {
  for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
    const auto type = static_cast<ggml_type>(t);
    const char* text = ggml_type_name(type);
    if (text != nullptr && name == text && ggml_blck_size(type) > 0) return t;
  }
  return -1;
}

/// One row of n values into the peer's type.
void encode(ggml_type type, const float* x, void* to, std::int64_t n) {
#if defined(KVCODEC_PEER_HAS_CPU_H)
  const auto from_float = ggml_get_type_traits_cpu(type)->from_float;
  if (from_float != nullptr) from_float(x, to, n);
  else ggml_get_type_traits(type)->from_float_ref(x, to, n);
#else
  ggml_internal_get_type_traits(type).from_float(x, to, n);
#endif
}

struct FreeContext {
  void operator()(ggml_context* c) const { ggml_free(c); }
};

class Peer : public Participant {
 public:
  Peer(ggml_type type, bool products_only, const Shape& shape, const UniqueRows& rows,
       const std::vector<float>& q, std::size_t rotated_bytes)
      : type_(type), products_only_(products_only), shape_(shape) {
    const auto head_dim = static_cast<std::int64_t>(shape.head_dim);
    row_bytes_ = ggml_row_size(type, head_dim);
    k_bytes_ = row_bytes_ * static_cast<std::size_t>(shape.n_kv_heads * shape.n_tokens);
    v_bytes_ = k_bytes_;
    const std::size_t n_layers = (rotated_bytes + k_bytes_ + v_bytes_ - 1) / (k_bytes_ + v_bytes_);
    cache_ = allocate_page_memory(n_layers * (k_bytes_ + v_bytes_));
    fill(rows);
    for (std::size_t i = 1; i < n_layers; ++i) {
      std::memcpy(layer(i), layer(0), k_bytes_ + v_bytes_);
    }
    make_graphs(n_layers, q);
  }

  void step(const Executor& executor) override {
    ggml_cgraph* graph = graphs_[turn_++ % graphs_.size()];
    const int n_threads = executor.run == nullptr ? 1 : executor.n_workers;
#if defined(KVCODEC_PEER_HAS_CPU_H)
    ggml_cplan plan = ggml_graph_plan(graph, n_threads, nullptr);
#else
    ggml_cplan plan = ggml_graph_plan(graph, n_threads);
#endif
    if (work_.size() < plan.work_size + 64) work_.resize(plan.work_size + 64);
    plan.work_data = work_.data();
    ggml_graph_compute(graph, &plan);
  }

  double bytes() const override { return static_cast<double>(k_bytes_ + v_bytes_); }

  std::vector<float> output() const override {
    const auto* data = static_cast<const float*>(ggml_graph_node(graphs_[0], -1)->data);
    return {data, data + shape_.n_q_heads() * shape_.head_dim};
  }

  /// OpenMP's threads look for work before they sleep.
  double seconds_awake() const override { return 0.02; }

 private:
  std::byte* layer(std::size_t i) const { return cache_.get() + i * (k_bytes_ + v_bytes_); }

  /// Layer 0: tokens after each other, heads of a token side by side; V transposed for products.
  void fill(const UniqueRows& rows) {
    const std::int64_t heads = shape_.n_kv_heads;
    const std::int64_t head_dim = shape_.head_dim;
    const auto put = [&](const std::vector<float>& x, std::byte* to) {
      for (std::int64_t row = 0; row < shape_.n_tokens * heads; ++row) {
        const float* from = x.data() + row % (rows.n * heads) * head_dim;
        encode(type_, from, to + static_cast<std::size_t>(row) * row_bytes_, head_dim);
      }
    };
    put(rows.k, layer(0));
    if (!products_only_) {
      put(rows.v, layer(0) + k_bytes_);
      return;
    }
    std::vector<float> column(static_cast<std::size_t>(shape_.n_tokens));
    auto* to = reinterpret_cast<ggml_fp16_t*>(layer(0) + k_bytes_);
    for (std::int64_t c = 0; c < heads * head_dim; ++c) {
      for (std::int64_t t = 0; t < shape_.n_tokens; ++t) {
        column[static_cast<std::size_t>(t)] =
            rows.v[static_cast<std::size_t>(t % rows.n * heads * head_dim + c)];
      }
      ggml_fp32_to_fp16_row(column.data(), to + c * shape_.n_tokens, shape_.n_tokens);
    }
  }

  void make_graphs(std::size_t n_layers, const std::vector<float>& q) {
    const std::size_t scores =
        products_only_ ? 8 * static_cast<std::size_t>(shape_.n_tokens * shape_.n_q_heads()) : 0;
    const std::size_t of_graph = 64 * ggml_tensor_overhead() + 16 * q.size() + scores +
                                 ggml_graph_overhead_custom(64, false);
    const std::size_t of_mask = 2 * 64 * static_cast<std::size_t>(shape_.n_tokens);
    const ggml_init_params memory = {n_layers * of_graph + of_mask + (std::size_t{1} << 22),
                                     nullptr, false};
    context_.reset(ggml_init(memory));
    if (context_ == nullptr) throw error("bench: " + kPeer + " cannot allocate");
    ggml_tensor* mask = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, shape_.n_tokens, 64);
    std::memset(mask->data, 0, ggml_nbytes(mask));
    for (std::size_t i = 0; i < n_layers; ++i) graphs_.push_back(make_graph(i, mask, q));
  }

  ggml_cgraph* make_graph(std::size_t i, ggml_tensor* mask, const std::vector<float>& q) {
    ggml_context* c = context_.get();
    const std::int64_t head_dim = shape_.head_dim;
    const std::int64_t heads = shape_.n_kv_heads;
    const auto n_heads = static_cast<std::size_t>(heads);
    ggml_set_no_alloc(c, true);
    const auto rows_at = [&](std::byte* data) {
      ggml_tensor* all = ggml_new_tensor_2d(c, type_, head_dim, heads * shape_.n_tokens);
      all->data = data;
      ggml_tensor* view = ggml_view_3d(c, all, head_dim, shape_.n_tokens, heads,
                                       row_bytes_ * n_heads, row_bytes_, 0);
      view->data = data;
      return view;
    };
    ggml_tensor* k = rows_at(layer(i));
    ggml_tensor* v = nullptr;
    if (products_only_) {
      ggml_tensor* all = ggml_new_tensor_2d(c, GGML_TYPE_F16, shape_.n_tokens, heads * head_dim);
      all->data = layer(i) + k_bytes_;
      const std::size_t row = 2 * static_cast<std::size_t>(shape_.n_tokens);
      v = ggml_view_3d(c, all, shape_.n_tokens, head_dim, heads, row,
                       row * static_cast<std::size_t>(head_dim), 0);
      v->data = all->data;
    } else {
      v = rows_at(layer(i) + k_bytes_);
    }
    ggml_set_no_alloc(c, false);
    ggml_tensor* query = ggml_new_tensor_3d(c, GGML_TYPE_F32, head_dim, 1, shape_.n_q_heads());
    std::memcpy(query->data, q.data(), q.size() * sizeof(float));
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    ggml_tensor* out = nullptr;
    if (products_only_) {
      ggml_tensor* weights = ggml_soft_max_ext(c, ggml_mul_mat(c, k, query), mask, scale, 0.0f);
      out = ggml_mul_mat(c, v, weights);
    } else {
      out = ggml_flash_attn_ext(c, query, k, v, mask, scale, 0.0f, 0.0f);
      ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
    }
    ggml_cgraph* graph = ggml_new_graph_custom(c, 64, false);
    ggml_build_forward_expand(graph, out);
    return graph;
  }

  ggml_type type_;
  bool products_only_;
  Shape shape_;
  std::size_t row_bytes_ = 0, k_bytes_ = 0, v_bytes_ = 0;
  PageMemory cache_;  // as our formats have theirs
  std::unique_ptr<ggml_context, FreeContext> context_;
  std::vector<ggml_cgraph*> graphs_;  ///< one per layer
  std::vector<std::uint8_t> work_;
  std::size_t turn_ = 0;
};

}  // namespace

std::vector<std::string> peer_formats() {
  std::vector<std::string> list;
  for (const char* type : {"f16", "q8_0", "q8_KV", "q4_0"}) {
    if (type_of(type) >= 0) list.push_back(kPeer + " " + type);
  }
  list.push_back(kPeer + " f16" + kProductsOnly);
  return list;
}

std::unique_ptr<Participant> make_peer(const std::string& format, const Shape& shape,
                                       const UniqueRows& rows, const std::vector<float>& q,
                                       std::size_t rotated_bytes) {
#if defined(KVCODEC_PEER_HAS_CPU_H)
  ggml_cpu_init();
#else
  // Fills the peer's tables.
  static const bool ready = [] {
    ggml_free(ggml_init({1 << 20, nullptr, false}));
    return true;
  }();
  (void)ready;
#endif
  std::string type = format.substr(kPeer.size() + 1);
  const std::size_t suffix = type.find(kProductsOnly);
  const bool products_only = suffix != std::string::npos;
  if (products_only) type.resize(suffix);
  return std::make_unique<Peer>(static_cast<ggml_type>(type_of(type)), products_only, shape, rows,
                                q, rotated_bytes);
}

}  // namespace kvcodec::bench
