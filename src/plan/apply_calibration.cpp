// A calibration's numbers into the configuration of a cache.
#include "kvcodec/codec/affine_token.hpp"
#include "kvcodec/plan/calibration.hpp"

namespace kvcodec {
namespace {

void apply(SideConfig& config, const SideCalibration& found, const ChannelScales& scales,
           const float* shift, float clip) {
  bool affine = false;
  config.transform.for_each([&](AnyTransform& t) {
    if (t.as<ChannelAffine>() == nullptr) return;
    t = ChannelAffine::bind(scales, scales.n_kv_heads, scales.head_dim);
    affine = true;
  });
  if (!affine) return;
  if (config.center.kind == Centering::Kind::none) {
    config.center.kind = Centering::Kind::fixed;
    config.center.values = shift;
  }
  const auto* codec = config.codec.as<AffineToken>();
  if (codec == nullptr || codec->clip != 0.0f) return;
  if (codec->bits != found.bits || codec->group != found.group) return;
  AffineToken clipped = *codec;
  clipped.clip = clip;
  config.codec = clipped;
}

}  // namespace

void apply_calibration(CacheConfig& config, std::shared_ptr<const Calibration> calibration) {
  const Calibration& c = *calibration;
  check_fits(c, config.shape, static_cast<std::int32_t>(config.layers.size()));
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    const auto layer = static_cast<std::int32_t>(l);
    for (const Side side : {Side::key, Side::value}) {
      SideConfig& target = side == Side::key ? config.layers[l].k : config.layers[l].v;
      apply(target, c.side(side), c.scales(side, layer), c.shift(side, layer).data(),
            c.clip(side, layer));
    }
  }
  config.tables = std::move(calibration);
}

}  // namespace kvcodec
