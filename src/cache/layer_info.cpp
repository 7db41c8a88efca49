// From the configuration of a layer to what its sequences share.
#include "src/cache/layer_info.hpp"

#include "kvcodec/core/error.hpp"

namespace kvcodec {

void check_range(const std::string& where, const char* name, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value >= low && value <= high) return;
  throw invalid_argument(
      bad_value(where, name, value, std::to_string(low) + ".." + std::to_string(high)));
}

namespace {

void check_side(const std::string& where, const SideConfig& side, const char* name,
                std::int32_t head_dim) {
  if (!side.codec) {
    throw invalid_argument(bad_value(where, (std::string(name) + ".codec").c_str(), "", "a codec"));
  }
  if (!side.transform.supports(head_dim)) {
    throw unsupported(where + ": transform " + side.transform.name() +
                      " does not take head_dim = " + std::to_string(head_dim));
  }
  check_range(where + " " + name, "center.n_rows", side.center.n_rows, 1, 1 << 30);
  if (side.center.kind == Centering::Kind::fixed && side.center.values == nullptr) {
    throw invalid_argument(where + ": " + name + ".center.values is null, allowed: " +
                           "[n_kv_heads, head_dim] values for a fixed center");
  }
}

void check_staging(const std::string& where, const LayerConfig& c, const PageFormat& format) {
  if (format.span == 1) return;
  const std::string who = c.policy ? "policy " + c.policy.name() : "a codebook";
  throw unsupported(where + ": " + who + " lets heads keep different tokens, so " +
                    c.k.codec.name() + " and " + c.v.codec.name() +
                    " must not share scales between heads");
}

/// Codebooks store rows as the model made them: keys unrotated, so that they are alike.
void check_books(const std::string& where, const LayerConfig& c, const CacheConfig& config) {
  for (const SideConfig* side : {&c.k, &c.v}) {
    const char* name = side == &c.k ? "k" : "v";
    const Codebook* book = side->codec.as<Codebook>();
    if (book == nullptr) continue;
    if (side->center.kind != Centering::Kind::none || !side->transform.is_identity()) {
      throw unsupported(where + " " + name + ": codec " + side->codec.name() +
                        " takes rows as they are, without a center and transforms");
    }
    const auto half = static_cast<std::size_t>(config.shape.head_dim / 2);
    if (side == &c.k && book->positions && config.rope_frequencies.size() != half) {
      throw invalid_argument(
          where + " k: codec " + side->codec.name() +
          " with rope_frequencies.size() = " + std::to_string(config.rope_frequencies.size()) +
          ", allowed: head_dim / 2 = " + std::to_string(half) + ", or the codec's option norope");
    }
  }
}

}  // namespace

LayerInfo make_layer(const CacheConfig& config, std::size_t index) {
  const std::string where = "CacheConfig layer " + std::to_string(index);
  LayerInfo layer;
  layer.index = static_cast<std::int32_t>(index);
  layer.n_layers = static_cast<std::int32_t>(config.layers.size());
  layer.shape = config.shape;
  layer.config = config.layers[index];
  if (const Codebook* book = layer.book(Side::value)) {
    Codebook values = *book;
    values.positions = false;
    layer.config.v.codec = values;
  }
  const LayerConfig& c = layer.config;
  check_range(where, "n_sink", c.n_sink, 0, 65536);
  check_range(where, "n_recent", c.n_recent, 0, 65536);
  check_range(where, "flush_rows", c.flush_rows, kTileRows, 65536);
  if (c.flush_rows % kTileRows != 0) {
    throw invalid_argument(
        bad_value(where, "flush_rows", c.flush_rows, "multiples of " + std::to_string(kTileRows)));
  }
  check_range(where, "rollback_rows", c.rollback_rows, 0, 65536);
  check_side(where, c.k, "k", config.shape.head_dim);
  check_side(where, c.v, "v", config.shape.head_dim);
  layer.format = make_page_format(c.k.codec, c.v.codec, config.shape.head_dim,
                                  config.shape.n_kv_heads, config.page_size);
  check_books(where, c, config);
  layer.config.k.codec = c.k.codec.with_tables(config.shape.head_dim);
  layer.config.v.codec = c.v.codec.with_tables(config.shape.head_dim);
  layer.stages_rows = static_cast<bool>(c.policy) || layer.book(Side::key) != nullptr ||
                      layer.book(Side::value) != nullptr;
  if (layer.stages_rows) check_staging(where, c, layer.format);
  layer.k_dtype = c.k.raw_dtype.value_or(default_raw_dtype(c.k.codec));
  layer.v_dtype = c.v.raw_dtype.value_or(default_raw_dtype(c.v.codec));
  return layer;
}

}  // namespace kvcodec
