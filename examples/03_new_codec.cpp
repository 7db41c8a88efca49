// A complete codec of one's own in one file, used in a cache without being on any list.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cache/layer_cache.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/core/arith.hpp"

// [codec]
// Codec "ternary": 2-bit codes -1, 0, +1 and one f16 scale per token.
//
// Bytes    one plane of codes, 2 bits per value: code + 1 in 0..2; then one plane of f16 scales.
// Scale    s = f16(1.2 * mean |x|).   Code: sign of x where |x| > s / 2, else 0.   Value: code * s.
struct Ternary {
  static constexpr const char* family = "ternary";
  static constexpr const char* options_help = "no options";
  static constexpr bool bit_exact = false;  // the mean is a sum whose order may differ

  static Ternary parse(const std::string& options) {
    if (options.empty()) return {};
    throw kvcodec::invalid_argument(kvcodec::bad_value(family, "options", options, "none"));
  }
  std::string name() const { return family; }
  constexpr int head_span(int) const noexcept { return 1; }
  constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kvcodec::kMinHeadDim && head_dim % kvcodec::kLanes == 0;
  }
  constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return layout(kvcodec::Side::key, head_dim).plane_bytes() + kvcodec::kScalePlaneBytes;
  }
  constexpr kvcodec::LossBounds loss(int) const noexcept { return {0.15, 0.25}; }

  bool encode_tile(kvcodec::Side side, int head_dim, const float* x,
                   std::byte* out) const noexcept {
    const kvcodec::TileLayout at = layout(side, head_dim);
    bool finite = true;
    for (int row = 0; row < kvcodec::kTileRows; ++row) {
      float sum = 0.0f;
      for (int c = 0; c < head_dim; ++c) {
        finite = finite && kvcodec::is_finite(x[row * head_dim + c]);
        sum += kvcodec::abs_of(kvcodec::clamp_finite(x[row * head_dim + c], 1e4f));
      }
      const kvcodec::f16 scale = kvcodec::to_f16(1.2f * sum / static_cast<float>(head_dim));
      const float half = 0.5f * to_f32(scale);
      for (int c = 0; c < head_dim; ++c) {
        const float value = x[row * head_dim + c];
        at.put(out, row, c, value > half ? 2u : value < -half ? 0u : 1u);
      }
      kvcodec::put_scale(out + at.plane_bytes(), row, scale.bits);
    }
    return finite;
  }

  void decode_tile(kvcodec::Side side, int head_dim, const std::byte* in, float* x) const noexcept {
    const kvcodec::TileLayout at = layout(side, head_dim);
    for (int row = 0; row < kvcodec::kTileRows; ++row) {
      const float scale = to_f32(kvcodec::f16{kvcodec::get_scale(in + at.plane_bytes(), row)});
      for (int c = 0; c < head_dim; ++c) {
        x[row * head_dim + c] = scale * (static_cast<float>(at.get(in, row, c)) - 1.0f);
      }
    }
  }

 private:
  static constexpr kvcodec::TileLayout layout(kvcodec::Side side, int head_dim) noexcept {
    return {side, 2, head_dim};
  }
};
static_assert(kvcodec::Codec<Ternary>);
// [/codec]

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> k(1000 * 2 * 64);
  std::vector<float> v(1000 * 2 * 64);
  std::vector<float> q(4 * 64);
  for (auto* values : {&k, &v, &q}) {
    for (float& x : *values) x = normal(random);
  }

  // [use]
  kvcodec::LayerCache<Ternary, kvcodec::Int8Token> layer({4, 2, 64}, /*max_tokens=*/1000);
  const kvcodec::SeqId seq = layer.open();
  layer.append(seq, kvcodec::dense_rows(k.data(), 1000, 2, 64),
               kvcodec::dense_rows(v.data(), 1000, 2, 64));
  // [/use]

  std::vector<float> out(q.size());
  kvcodec::AttendWorkspace workspace;
  kvcodec::Step step;
  step.seqs = {&seq, 1};
  step.q = kvcodec::dense_rows(q.data(), 1, 4, 64);
  kvcodec::attend(layer.cache(), 0, step, out.data(), nullptr, {.sm_scale = 0.125f}, workspace);

  // The list of a program's own: built-in codecs and this one, all by name.
  using MyCodecs = kvcodec::TypeList<kvcodec::RawF16, kvcodec::Nqkv, Ternary>;
  const kvcodec::AnyCodec by_name = kvcodec::make_codec<MyCodecs>("ternary");
  std::printf("%s: %zu bytes per tile, out[0] = %.4f, codecs: %s\n", by_name.name().c_str(),
              by_name.tile_bytes(64), static_cast<double>(out[0]),
              kvcodec::codec_families<MyCodecs>().c_str());
  return std::isfinite(out[0]) ? 0 : 1;
}
