// Scores and weighted sums of rows that name entries of a table (codec "codebook").

#if defined(KVCODEC_CPU_CODEBOOK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_CODEBOOK_INL_H_
#undef KVCODEC_CPU_CODEBOOK_INL_H_
#else
#define KVCODEC_CPU_CODEBOOK_INL_H_
#endif

#include <cstring>

#include "add-inl.h"
#include "kernels.hpp"
#include "rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

template <class T>
HWY_INLINE T read_at(const std::byte* tile, std::size_t plane, int row) {
  T value;
  std::memcpy(&value, tile + plane + sizeof(T) * static_cast<std::size_t>(row), sizeof(T));
  return value;
}

/// The entry of a row, or null.
HWY_INLINE const std::uint16_t* entry_of(const CodebookTiles& t, int head_dim,
                                         const std::byte* tile, int row) {
  const auto index = read_at<std::uint32_t>(tile, 0, row);
  if (index >= t.n_entries) return nullptr;
  return t.entries + static_cast<std::size_t>(index) * static_cast<std::size_t>(head_dim);
}

// Half a head is a multiple of 8 channels, not of 16.
using DR = hn::CappedTag<float, 8>;
inline constexpr int kRopeN = static_cast<int>(hn::MaxLanes(DR()));

HWY_INLINE hn::Vec<DR> load_entry(const std::uint16_t* entry) {
  const hn::Rebind<std::uint16_t, DR> d16;
  const hn::Rebind<hwy::float16_t, DR> df16;
  return hn::PromoteTo(DR(), hn::BitCast(df16, hn::LoadU(d16, entry)));
}

/// x [head_dim] <- a unit vector, turned to its position as RopeView::rotate does.
HWY_INLINE void turn_entry(const CodebookTiles& t, int head_dim, const std::uint16_t* entry,
                           std::int32_t position, float* x) {
  constexpr std::int32_t kFine = 256;
  const DR d;
  const int half = head_dim / 2;
  const std::int32_t at = HWY_MAX(0, HWY_MIN(position, t.n_positions - 1));
  const float* low = t.fine + static_cast<std::ptrdiff_t>(at % kFine) * head_dim;
  const float* high = t.coarse + static_cast<std::ptrdiff_t>(at / kFine) * head_dim;
  for (int i = 0; i < half; i += kRopeN) {
    const auto low_cos = hn::LoadU(d, low + i);
    const auto low_sin = hn::LoadU(d, low + half + i);
    const auto high_cos = hn::LoadU(d, high + i);
    const auto high_sin = hn::LoadU(d, high + half + i);
    const auto cosine = hn::NegMulAdd(high_sin, low_sin, hn::Mul(high_cos, low_cos));
    const auto sine = hn::MulAdd(high_sin, low_cos, hn::Mul(high_cos, low_sin));
    const auto a = load_entry(entry + i);
    const auto b = load_entry(entry + half + i);
    hn::StoreU(hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), d, x + i);
    hn::StoreU(hn::MulAdd(a, sine, hn::Mul(b, cosine)), d, x + half + i);
  }
}

/// A ScoreCodebook: 16 rows at a time become keys in f32, magnitudes scale the scores.
inline void score_codebook(const CodebookTiles& t, int head_dim, const std::byte* tile,
                           const float* q, int n_q, float* scores) {
  HWY_ALIGN float keys[kLanes * kMaxHeadDim];
  for (int first = 0; first < kTileRows; first += kLanes) {
    for (int r = 0; r < kLanes; ++r) {
      float* x = keys + r * head_dim;
      const std::uint16_t* entry = entry_of(t, head_dim, tile, first + r);
      if (entry == nullptr) {
        for (int c = 0; c < head_dim; c += kN) hn::StoreU(hn::Zero(DF()), DF(), x + c);
      } else if (t.fine != nullptr) {
        turn_entry(t, head_dim, entry, read_at<std::int32_t>(tile, t.position_offset, first + r),
                   x);
      } else {
        for (int c = 0; c < head_dim; c += kN) hn::StoreU(load_f16(entry + c), DF(), x + c);
      }
    }
    score_rows<DType::f32>(head_dim, keys, head_dim, kLanes, q, n_q, scores + first);
    for (int r = first; r < first + kLanes; r += kN) {
      const VF magnitude = load_f16(tile + t.magnitude_offset + 2 * r);
      for (int i = 0; i < n_q; ++i) {
        float* at = scores + i * kTileRows + r;
        hn::StoreU(hn::Mul(hn::LoadU(DF(), at), magnitude), DF(), at);
      }
    }
  }
}

/// The entries that the rows of a tile name, each once, and which of them every row names.
struct TileEntries {
  /// Rows without an entry name none: their weights are left out.
  HWY_INLINE TileEntries(const CodebookTiles& t, int head_dim, const std::byte* tile) {
    HWY_ALIGN std::uint32_t known[kTileRows];
    const auto all_known = [&](std::uint32_t index) HWY_ATTR {
      for (int e = 0; e < n; e += kN) {
        const auto same = hn::Eq(hn::Load(DU(), known + e), hn::Set(DU(), index));
        const std::intptr_t at = hn::FindFirstTrue(DU(), same);
        if (at >= 0 && e + static_cast<int>(at) < n) return e + static_cast<int>(at);
      }
      return n;
    };
    for (int row = 0; row < kTileRows; ++row) {
      const auto index = read_at<std::uint32_t>(tile, 0, row);
      of_row[row] = -1;
      if (index >= t.n_entries) continue;
      of_row[row] = all_known(index);
      if (of_row[row] < n) continue;
      known[n] = index;
      entry[n++] = t.entries + static_cast<std::size_t>(index) * static_cast<std::size_t>(head_dim);
    }
  }

  const std::uint16_t* entry[kTileRows];
  int of_row[kTileRows];
  int n = 0;
};

/// acc += weights of the entries . entries, for kParts vectors of channels from `channel` on.
template <int kQueries, int kParts>
HWY_INLINE void add_entries(const TileEntries& entries, const float* weights, int head_dim,
                            int channel, float* acc) {
  VF sum[kQueries][kParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) sum[i][p] = hn::Zero(DF());
  }
  for (int e = 0; e < entries.n; ++e) {
    VF values[kParts];
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) values[p] = load_f16(entries.entry[e] + channel + p * kN);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const VF weight = hn::Set(DF(), weights[i * kTileRows + e]);
      KVCODEC_UNROLL
      for (int p = 0; p < kParts; ++p) sum[i][p] = hn::MulAdd(weight, values[p], sum[i][p]);
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      float* out = acc + i * head_dim + channel + p * kN;
      hn::StoreU(hn::Add(hn::LoadU(DF(), out), sum[i][p]), DF(), out);
    }
  }
}

struct AddCodebookPass {
  const TileEntries& entries;
  const float* magnitudes;  ///< [kTileRows]
  int head_dim;

  /// Weights of rows that share an entry are summed first.
  template <int kQueries>
  HWY_INLINE void run(const float* w, float* acc) const {
    constexpr int kParts = kQueries == 1 ? 4 : 2;
    HWY_ALIGN float weights[kQueries * kTileRows];
    for (int i = 0; i < kQueries; ++i) {
      for (int e = 0; e < kTileRows; ++e) weights[i * kTileRows + e] = 0.0f;
      for (int row = 0; row < kTileRows; ++row) {
        const int e = entries.of_row[row];
        if (e >= 0) weights[i * kTileRows + e] += w[i * kTileRows + row] * magnitudes[row];
      }
    }
    int channel = 0;
    for (; channel + kParts * kN <= head_dim; channel += kParts * kN) {
      add_entries<kQueries, kParts>(entries, weights, head_dim, channel, acc);
    }
    for (; channel < head_dim; channel += kN) {
      add_entries<kQueries, 1>(entries, weights, head_dim, channel, acc);
    }
  }
};

/// An AddCodebook.
inline void add_codebook(const CodebookTiles& t, int head_dim, const std::byte* tile,
                         const float* w, int n_q, float* acc) {
  const TileEntries entries(t, head_dim, tile);
  HWY_ALIGN float magnitudes[kTileRows];
  for (int row = 0; row < kTileRows; row += kN) {
    hn::Store(load_f16(tile + t.magnitude_offset + 2 * row), DF(), magnitudes + row);
  }
  add_queries<4>(head_dim, w, n_q, acc, AddCodebookPass{entries, magnitudes, head_dim});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
