// Kernels for all tiles that a TileFormat describes.
#include "cuda/attend/general/launch.cuh"

namespace kvcodec::cuda {
namespace {

FormatTiles tiles_of(const TileFormat& format, Side side, int head_dim, int span,
                     std::size_t tile_bytes) {
  const TileLayout plane{side, format.bits, head_dim};
  FormatTiles tiles;
  tiles.format = format;
  tiles.plane_bytes = static_cast<std::uint32_t>(plane.plane_bytes());
  tiles.params_offset = static_cast<std::uint32_t>(span) * tiles.plane_bytes;
  tiles.params_bytes = static_cast<std::uint32_t>(tile_bytes) - tiles.params_offset;
  return tiles;
}

}  // namespace

cudaError_t launch_formatted_scores(const GeneralParams& g, const TileFormat& format,
                                    cudaStream_t stream) {
  const PageFormat& page = g.p.view.format;
  return launch_scores(
      g, tiles_of(format, Side::key, page.head_dim, page.k_span, page.k_tile_bytes), stream);
}

cudaError_t launch_formatted_sums(const GeneralParams& g, const TileFormat& format,
                                  cudaStream_t stream) {
  const PageFormat& page = g.p.view.format;
  return launch_sums(
      g, tiles_of(format, Side::value, page.head_dim, page.v_span, page.v_tile_bytes), stream);
}

}  // namespace kvcodec::cuda
