#include "src/eval/captured.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>

#include "examples/llama/safetensors.hpp"
#include "kvcodec/core/error.hpp"
#include "src/verify/npy.hpp"

namespace kvcodec::eval {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNames[] = {"k", "v", "q"};
constexpr const char* kLayouts[] = {"n_kv_heads, tokens, head_dim", "n_kv_heads, tokens, head_dim",
                                    "queries, n_q_heads, head_dim"};

/// One of the three arrays.
struct Source {
  std::string name;  ///< for messages
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

void check_axes(const Source& a, const std::string& layout) {
  const bool empty = std::find(a.shape.begin(), a.shape.end(), 0) != a.shape.end();
  if ((a.shape.size() == 3 || a.shape.size() == 4) && !empty) return;
  throw invalid_argument(a.name + ": shape = " + golden::shape_text(a.shape) +
                         ", allowed: [layers, " + layout + "] or [" + layout + "], no axis empty");
}

Source read_array(const fs::path& file, const std::string& layout) {
  const golden::Array a = golden::read_npy(file);
  Source out{file.string(), a.shape, {}};
  if (!a.is_float()) {
    throw invalid_argument(out.name + ": dtype = " + a.dtype + ", allowed: f2, f4 or f8");
  }
  check_axes(out, layout);
  out.values = a.floats();
  return out;
}

Source read_tensor(const llama::TensorStore& store, const fs::path& file, const std::string& name,
                   const std::string& layout) {
  Source out{file.string() + ": tensor " + name, {}, {}};
  const auto found = store.tensors().find(name);
  if (found == store.tensors().end()) {
    throw invalid_argument(file.string() + ": tensor " + name +
                           " is missing, allowed: tensors k, v and q");
  }
  out.shape = found->second.shape;
  check_axes(out, layout);
  out.values = store.load(name, out.shape);
  return out;
}

[[noreturn]] void refuse(const Source& a, const std::string& allowed) {
  throw invalid_argument(a.name + ": shape = " + golden::shape_text(a.shape) +
                         ", allowed: " + allowed);
}

std::int32_t to_size(const Source& a, std::size_t axis) {
  const std::int64_t n = a.shape[axis];
  if (n > (1 << 30)) refuse(a, "up to 2^30 along every axis");
  return static_cast<std::int32_t>(n);
}

std::array<Source, 3> read_sources(const fs::path& source) {
  std::array<Source, 3> arrays;
  if (source.extension() == ".safetensors") {
    const llama::TensorStore store = llama::TensorStore::open_file(source);
    for (std::size_t i = 0; i < 3; ++i) {
      arrays[i] = read_tensor(store, source, kNames[i], kLayouts[i]);
    }
    return arrays;
  }
  if (!fs::is_directory(source)) {
    throw invalid_argument(bad_value("eval", "--kv", source.string(),
                                     "a folder with k.npy, v.npy and q.npy, or a file "
                                     "*.safetensors with tensors k, v and q"));
  }
  for (std::size_t i = 0; i < 3; ++i) {
    arrays[i] = read_array(source / (std::string(kNames[i]) + ".npy"), kLayouts[i]);
  }
  return arrays;
}

}  // namespace

Captured read_captured(const fs::path& source) {
  auto [k, v, q] = read_sources(source);
  if (v.shape != k.shape) refuse(v, golden::shape_text(k.shape) + ", the shape of k");
  const std::size_t axis = k.shape.size() - 3;
  const std::string head_dim = std::to_string(k.shape[axis + 2]);
  if (q.shape.size() != k.shape.size() || q.shape[axis + 2] != k.shape[axis + 2] ||
      (axis == 1 && q.shape[0] != k.shape[0])) {
    const std::string layers = axis == 1 ? std::to_string(k.shape[0]) + ", " : "";
    refuse(q, "[" + layers + "queries, n_q_heads, " + head_dim + "] to match k");
  }
  Captured data;
  data.shape = {to_size(q, axis + 1), to_size(k, axis), to_size(k, axis + 2)};
  try {
    check(data.shape);
  } catch (const error& e) {
    throw invalid_argument(k.name + " and q: shapes = " + golden::shape_text(k.shape) + " and " +
                           golden::shape_text(q.shape) + ": " + e.what());
  }
  data.n_layers = axis == 1 ? to_size(k, 0) : 1;
  data.n_tokens = to_size(k, axis + 1);
  data.n_queries = to_size(q, axis);
  data.k = std::move(k.values);
  data.v = std::move(v.values);
  data.q = std::move(q.values);
  return data;
}

Captured capture(const llama::Model& model, std::span<const std::int32_t> tokens,
                 std::int64_t n_queries) {
  if (tokens.empty()) throw invalid_argument("capture: no tokens");
  if (n_queries < 1)
    throw invalid_argument(bad_value("capture", "n_queries", n_queries, "1 and above"));
  Captured data;
  data.shape = model.head_shape();
  data.n_layers = model.config().n_layers;
  data.n_tokens = std::ssize(tokens);
  data.n_queries = std::min(n_queries, data.n_tokens);
  data.window = model.config().window;
  data.rope_frequencies = model.frequencies();
  const std::int64_t d = data.shape.head_dim, n_kv = data.shape.n_kv_heads;
  data.k.resize(static_cast<std::size_t>(data.n_layers * n_kv * data.n_tokens * d));
  data.v.resize(data.k.size());
  const auto attention = [&](const llama::AttentionCall& call) {
    for (std::int64_t head = 0; head < n_kv; ++head) {
      for (std::int64_t t = 0; t < call.n; ++t) {
        const std::int64_t from = (t * n_kv + head) * d;
        const std::int64_t to = ((call.layer * n_kv + head) * data.n_tokens + t) * d;
        std::copy_n(call.k + from, d, data.k.begin() + to);
        std::copy_n(call.v + from, d, data.v.begin() + to);
      }
    }
    const std::int64_t width = data.shape.n_q_heads * d;
    data.q.insert(data.q.end(), call.q + (call.n - data.n_queries) * width,
                  call.q + call.n * width);
    llama::dense_attention(call, data.shape, data.window[static_cast<std::size_t>(call.layer)],
                           model.executor());
  };
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> hidden = model.embed(tokens);
  llama::Workspace work;
  model.run_layers(0, model.config().n_layers, hidden, positions, attention, work);
  return data;
}

void write_captured(const Captured& data, const fs::path& folder) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) throw error(folder.string() + ": cannot be made: " + failed.message());
  const std::int64_t d = data.shape.head_dim;
  const std::vector<std::int64_t> rows = {data.n_layers, data.shape.n_kv_heads, data.n_tokens, d};
  golden::write_npy(folder / "k.npy", golden::make_array<float>("f4", rows, data.k));
  golden::write_npy(folder / "v.npy", golden::make_array<float>("f4", rows, data.v));
  golden::write_npy(folder / "q.npy",
                    golden::make_array<float>(
                        "f4", {data.n_layers, data.n_queries, data.shape.n_q_heads, d}, data.q));
}

}  // namespace kvcodec::eval
