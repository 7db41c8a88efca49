// Kernels for all tiles that a TileFormat describes.
#include "cuda/attend/general/launch.cuh"

namespace kvcodec::cuda {
cudaError_t launch_formatted_scores(const GeneralParams& g, const TileFormat& format,
                                    cudaStream_t stream) {
  const PageFormat& page = g.p.view.format;
  return launch_scores(
      g, FormatTiles::make(format, Side::key, page.head_dim, page.k_span, page.k_tile_bytes),
      stream);
}

cudaError_t launch_formatted_sums(const GeneralParams& g, const TileFormat& format,
                                  cudaStream_t stream) {
  const PageFormat& page = g.p.view.format;
  return launch_sums(
      g, FormatTiles::make(format, Side::value, page.head_dim, page.v_span, page.v_tile_bytes),
      stream);
}

}  // namespace kvcodec::cuda
