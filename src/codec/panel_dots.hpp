// Products of rows with panels: the inner loop of the codebook's cosines.
#pragma once

#include <cstdint>

namespace kvcodec {

/// Rows that stand side by side in a panel.
inline constexpr int kPanelRows = 16;

/// dots[r][j] = sum over c of x[r][c] * panel[c][j]: x [n, dim], panel [dim, kPanelRows],
/// dots [n, kPanelRows].
///
/// Products and sums are rounded one by one in the order of c, so that the bits are the same on
/// every instruction set.
void panel_dots(std::int64_t n, int dim, const float* x, const float* panel, float* dots) noexcept;

}  // namespace kvcodec
