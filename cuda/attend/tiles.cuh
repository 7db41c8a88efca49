// Attention over encoded rows: one warp per tile, scores and sums on the tensor cores, codes never
// leave registers as anything but operands.
//
// Per tile of 64 tokens a warp
//   1. multiplies key codes with the query fragments: D [16 query rows x 64 tokens], group by group,
//      each group's sums times the tokens' scales (scales are f32 factors of f32 sums);
//   2. takes one step of the online softmax, in registers;
//   3. multiplies weights times the tokens' value scales, rounded to f16, with the value codes.
// Loads are 16 bytes per lane and one load ahead of their use. Warps of a CTA take every fourth tile;
// their states are merged in order at the end.
#pragma once

#include "cuda/attend/queries.cuh"

namespace kvcodec::cuda {

/// One instantiation: formats of both sides, and how many query rows it serves (8 per half).
template <CodeKind kKeyKind, int kKeyWidth, CodeKind kValueKind, int kHeadDimension, int kRowHalves,
          bool kHasZeros>
struct TilesConfig {
  static constexpr CodeKind kKey = kKeyKind;
  static constexpr CodeKind kValue = kValueKind;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kHalves = kRowHalves;
  static constexpr bool kZeros = kHasZeros;
  /// 16-byte loads in flight per lane: many sums leave fewer registers for them.
  static constexpr int kMostQuads = kHeadDimension > 128 || kRowHalves > 1 ? 4 : 8;
  using K = KeyPlane<kKeyKind, kKeyWidth, kMostQuads>;
  using V = ValuePlane<kValueKind, kHeadDimension, kMostQuads>;
  static constexpr int kQuads = K::load_quads > V::load_quads ? K::load_quads : V::load_quads;
  /// Loads of a tile, even so that the two buffers take turns across tiles.
  static constexpr int kLoads = (K::loads + V::loads + 1) / 2 * 2;
};

/// Dynamic shared memory of a CTA, bytes; where its parts begin.
template <class C>
struct TilesMemory {
  static constexpr int key_table = 0;
  static constexpr int value_table = table_bytes_of(C::kKey);
  /// With one_table the value table is the key table and the rest moves down.
  __host__ __device__ static constexpr int fragments(bool one_table) {
    return value_table + (one_table ? 0 : table_bytes_of(C::kValue));
  }
  __host__ __device__ static constexpr int queries(bool one_table) {
    return fragments(one_table) + C::K::steps * 32 * 16;
  }
  __host__ __device__ static constexpr int work_bytes(bool one_table) {
    return queries(one_table) + static_cast<int>(sizeof(QueryTable));
  }
  /// States of the warps, once the tiles are done: [kUnitRows] m and l per warp, then the sums.
  static constexpr int merge_bytes =
      4 * (2 * kUnitRows * (kAttendThreads / 32) + kUnitRows * C::kHeadDim);
  __host__ __device__ static constexpr int bytes(bool one_table) {
    return work_bytes(one_table) > merge_bytes ? work_bytes(one_table) : merge_bytes;
  }
};

/// A warp at work on the tiles of a split.
template <class C>
struct TilesWarp {
  using K = typename C::K;
  using V = typename C::V;
  using KeyCodes = Codes<C::kKey>;
  using ValueCodes = Codes<C::kValue>;
  static constexpr int kValueGroups = (C::kHeadDim + 31) / 32;

  /// A tile of both sides. Few values, because every one of them costs registers across the loop.
  struct Tile {
    const std::byte* strip;  ///< of the page
    std::int32_t page;
    std::int32_t row;  ///< of its first row, in the stream
  };

  const AttendParams& p;
  const Unit& u;
  int lane;
  int g;
  int t;
  CodeTable key_table;
  CodeTable value_table;
  const uint4* fragments;  ///< in shared memory
  const QueryTable& queries;
  QueryRows<C::kHalves> q;
  std::int32_t first_q_pos;  ///< smallest position of a query row of the unit
  std::int32_t last_q_pos;
  std::int32_t stream_pos;  ///< position of row 0 of the stream
  std::int32_t end_row;     ///< of the split
  std::uint32_t k_tile;     ///< offset in a strip
  std::uint32_t v_tile;
  int k_head;  ///< of a tile
  int v_head;

  uint4 buffer[2][C::kQuads];
  float sum[V::rounds][4][4];  ///< D fragments: channels first_channel_of(t, round) + 4 e + i
  float zero_sum[C::kZeros ? kValueGroups : 1][C::kHalves];  ///< this lane's part of w . zeros
  SoftmaxState<C::kHalves> state;

  __device__ TilesWarp(const AttendParams& params, const Unit& unit, const CodeTable& k_table,
                       const CodeTable& v_table, const uint4* query_fragments,
                       const QueryTable& query_table)
      : p(params),
        u(unit),
        lane(static_cast<int>(threadIdx.x % 32)),
        g(lane / 4),
        t(lane % 4),
        key_table(k_table),
        value_table(v_table),
        fragments(query_fragments),
        queries(query_table),
        q(query_rows_of<C::kHalves>(params, unit, query_table, g)) {
    first_q_pos = p.q_pos[u.token(0)];
    last_q_pos = first_q_pos;
    for (int row = 1; row < u.n_rows; ++row) {
      const std::int32_t pos = p.q_pos[u.token(row)];
      first_q_pos = pos < first_q_pos ? pos : first_q_pos;
      last_q_pos = pos > last_q_pos ? pos : last_q_pos;
    }
    const std::byte* const zero = nullptr;
    const int head_in_page = u.head % p.view.format.span;
    const TileRef<const std::byte> k = p.view.format.k_tile(zero, 0, head_in_page);
    const TileRef<const std::byte> v = p.view.format.v_tile(zero, 0, head_in_page);
    k_tile = static_cast<std::uint32_t>(k.tile - zero);
    v_tile = static_cast<std::uint32_t>(v.tile - zero);
    k_head = k.head;
    v_head = v.head;
    start();
  }

  __device__ __forceinline__ Tile tile_in(std::int32_t page, std::int32_t row) const {
    const int strip = row % p.view.format.page_size / kTileRows;
    return {p.view.page_data(page) + strip * p.view.format.strip_bytes(), page, row};
  }
  __device__ __forceinline__ const std::byte* k_of(const Tile& tile) const {
    return tile.strip + k_tile;
  }
  __device__ __forceinline__ const std::byte* v_of(const Tile& tile) const {
    return tile.strip + v_tile;
  }

  /// The load-th load of a tile into a buffer.
  template <int kLoad>
  __device__ __forceinline__ void load(const Tile& tile, uint4 (&to)[C::kQuads]) const {
    if constexpr (kLoad < K::loads) {
      const auto* plane = reinterpret_cast<const uint4*>(k_of(tile)) + k_head * (K::words * 16);
#pragma unroll
      for (int n = 0; n < K::load_quads; ++n) {
        const int r = n % 2;
        const int w = n / 2;  // words of this load, unit by unit
        const int word = K::word(t, kLoad * K::load_units, w);
        to[n] = word < K::words
                    ? load_streaming(plane + K::quad_index(word, key_quad<C::kValue>(g, r)))
                    : make_uint4(0, 0, 0, 0);
      }
    } else if constexpr (kLoad < K::loads + V::loads) {
      constexpr int kFirst = (kLoad - K::loads) * V::load_rounds;
      const auto* plane =
          reinterpret_cast<const uint4*>(v_of(tile)) + v_head * (C::kHeadDim * V::words / 4);
#pragma unroll
      for (int n = 0; n < V::load_quads; ++n) {
        const int quad = g + 8 * (kFirst + n / V::lane_words);
        to[n] = quad < V::quads
                    ? load_streaming(plane + V::quad_index(V::word(t, n % V::lane_words), quad))
                    : make_uint4(0, 0, 0, 0);
      }
    }
  }

  /// Eight neighbouring f16 of a plane of scales or zeros, those of half r.
  __device__ __forceinline__ static void eight_of(const std::byte* plane, int t, int r,
                                                  float (&x)[8]) {
    const uint4 bits = *reinterpret_cast<const uint4*>(plane + 2 * first_token_of<C::kValue>(t, r));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(half2_of(word_of(bits, i)));
      x[2 * i] = two.x;
      x[2 * i + 1] = two.y;
    }
  }

  /// Scores of a tile += sums of one group times the scales, + zeros; the sums start anew.
  __device__ __forceinline__ void fold(const Tile& tile, int group, Scores& part, Scores& s) const {
    const std::byte* scales =
        k_of(tile) + p.k.scale_offset + kScalePlaneBytes * static_cast<std::size_t>(group);
    const std::byte* zeros =
        k_of(tile) + p.k.zero_offset + kScalePlaneBytes * static_cast<std::size_t>(group);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float scale[8];
      float zero[8];
      if (p.k.group > 0) eight_of(scales, t, r, scale);
      else
        for (float& x : scale) x = 1.0f;
      if (C::kZeros && p.k.has_zeros()) eight_of(zeros, t, r, zero);
      else
        for (float& x : zero) x = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2 * C::kHalves; ++c) {
          const int token = 4 * (c % 2) + i;
          s[r][i][c] = fmaf(part[r][i][c], scale[token], s[r][i][c]);
          if (C::kZeros && p.k.has_zeros()) {
            s[r][i][c] = fmaf(queries.sums[g + 8 * (c / 2)][group], zero[token], s[r][i][c]);
          }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) part[r][i][c] = 0.0f;
      }
    }
  }

  /// Products of the units of one load with the queries.
  template <int kLoad>
  __device__ __forceinline__ void score(const Tile& tile, const uint4 (&words)[C::kQuads],
                                        Scores& part, Scores& s) const {
    constexpr int kUnitCodes = 4 * KeyCodes::unit_words * KeyCodes::per_word;
#pragma unroll
    for (int local = 0; local < K::load_units; ++local) {
      constexpr int kFirst = kLoad * K::load_units;
      const int unit = kFirst + local;
      if (unit < K::units) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            std::uint32_t w[KeyCodes::unit_words];
#pragma unroll
            for (int n = 0; n < KeyCodes::unit_words; ++n) {
              w[n] = word_of(words[2 * (local * KeyCodes::unit_words + n) + r], i);
            }
            std::uint32_t b[KeyCodes::unit_steps][2];
            KeyCodes::fragments(key_table, w, b);
#pragma unroll
            for (int step = 0; step < KeyCodes::unit_steps; ++step) {
              const int index = unit * KeyCodes::unit_steps + step;
              const uint4 a = fragments[index * 32 + lane];
              const std::uint32_t operand[4] = {a.x, a.y, a.z, a.w};
              mma_m16n8k16_f16(part[r][i], operand, b[step]);
            }
          }
        }
        // The group ends with this unit: the host lets only such groups in here.
        const int end = (unit + 1) * kUnitCodes;
        const bool last = unit + 1 == K::units;
        if (last || (p.k.group > 0 && end % p.k.group == 0)) {
          const int first =
              p.k.group > 0 ? (k_head * p.k.width + (last ? p.k.width : end) - 1) / p.k.group : 0;
          fold(tile, first, part, s);
        }
      }
    }
  }

  /// Weights of the tile times the scales of one group of channels, as fragments A; sums of weights
  /// times zeros.
  __device__ __forceinline__ void weigh(const Tile& tile, int group, int round, const Scores& s,
                                        std::uint32_t (&a)[4][4]) {
    float scale[2][8];
    float zero[2][8];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::byte* scales =
          v_of(tile) + p.v.scale_offset + kScalePlaneBytes * static_cast<std::size_t>(group);
      if (p.v.group > 0) eight_of(scales, t, r, scale[r]);
      else
        for (float& x : scale[r]) x = 1.0f;
      if (C::kZeros && p.v.has_zeros()) {
        eight_of(v_of(tile) + p.v.zero_offset + kScalePlaneBytes * static_cast<std::size_t>(group),
                 t, r, zero[r]);
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) {
          float more = 0.0f;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            more = fmaf(s[r][i][2 * half], zero[r][i], more);
            more = fmaf(s[r][i][2 * half + 1], zero[r][4 + i], more);
          }
          zero_sum[C::kZeros ? round : 0][half] += more;
        }
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const int half = reg % 2;
        const int pair = reg / 2;
        if (half >= C::kHalves) {
          a[step][reg] = 0;
          continue;
        }
        const int r = step / 2;
        float two[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int i = V::pairs_by_column ? 2 * (step % 2) + pair : 2 * pair + n;
          const int e = V::pairs_by_column ? n : step % 2;
          two[n] = s[r][i][2 * half + e] * scale[r][4 * e + i];
        }
        a[step][reg] = bits_of(__floats2half2_rn(two[0], two[1]));
      }
    }
  }

  /// Rows of a tile and who sees them; the stream has n_rows rows in this split.
  __device__ __forceinline__ TileRowsInfo rows_of(const Tile& tile) const {
    TileRowsInfo rows;
    rows.n_rows = end_row - tile.row < kTileRows ? end_row - tile.row : kTileRows;
    rows.first_pos = stream_pos + tile.row;
    const std::int64_t slot =
        std::int64_t{tile.page} * p.view.format.page_size + tile.row % p.view.format.page_size;
    rows.listed = p.view.slot_pos == nullptr ? nullptr : p.view.slot_pos + slot;
    rows.masks = p.view.slot_mask == nullptr ? nullptr : p.view.slot_mask + slot;
    const std::int64_t last = std::int64_t{rows.first_pos} + kTileRows - 1;
    rows.all_visible = rows.n_rows == kTileRows && rows.listed == nullptr &&
                       rows.masks == nullptr && last <= first_q_pos &&
                       (p.window <= 0 || rows.first_pos > std::int64_t{last_q_pos} - p.window);
    return rows;
  }

  /// One step of the softmax; older sums are made to match.
  __device__ __forceinline__ void soften(const Tile& tile, Scores& s) {
    const TileRowsInfo rows = rows_of(tile);
    float shrink[C::kHalves];
    softmax_step<C::kValue>(p, rows, q, t, s, state, shrink);
    bool same = true;
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) same = same && shrink[half] == 1.0f;
    if (__all_sync(0xffffffffu, same)) return;
#pragma unroll
    for (int round = 0; round < V::rounds; ++round) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2 * C::kHalves; ++c) sum[round][i][c] *= shrink[c / 2];
      }
    }
    if constexpr (C::kZeros) {
#pragma unroll
      for (int i = 0; i < kValueGroups; ++i) {
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) zero_sum[i][half] *= shrink[half];
      }
    }
  }

  /// Empty sums.
  __device__ void start() {
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      state.m[half] = minus_infinity();
      state.l[half] = 0.0f;
    }
#pragma unroll
    for (int round = 0; round < V::rounds; ++round) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[round][i][c] = 0.0f;
      }
    }
#pragma unroll
    for (auto& of_group : zero_sum) {
      for (float& x : of_group) x = 0.0f;
    }
  }

  /// After the last tile: the factor that all values share, and zeros.
  __device__ void finish() {
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      float zero = 0.0f;
#pragma unroll
      for (int round = 0; round < V::rounds; ++round) {
        if (C::kZeros && p.v.has_zeros() && (32 * round) % p.v.group == 0) {
          zero = zero_sum[C::kZeros ? round : 0][half];
          zero += __shfl_xor_sync(0xffffffffu, zero, 1);
          zero += __shfl_xor_sync(0xffffffffu, zero, 2);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = sum[round][i][2 * half + e];
            x = fmaf(x, p.v.scale, zero);
          }
        }
      }
    }
  }

  /// Products of the weights with the value codes of one load.
  template <int kLoad>
  __device__ __forceinline__ void add(const Tile& tile, const uint4 (&words)[C::kQuads],
                                      const Scores& s, std::uint32_t (&a)[4][4]) {
#pragma unroll
    for (int local = 0; local < V::load_rounds; ++local) {
      constexpr int kFirst = (kLoad - K::loads) * V::load_rounds;
      const int round = kFirst + local;
      if (round < V::rounds) {
        const int channel = 32 * round;
        if (round == 0 || (p.v.group > 0 && (v_head * C::kHeadDim + channel) % p.v.group == 0)) {
          const int group = p.v.group > 0 ? (v_head * C::kHeadDim + channel) / p.v.group : 0;
          weigh(tile, group, round, s, a);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          std::uint32_t b[4][2];
#pragma unroll
          for (int n = 0; n < V::lane_words; n += ValueCodes::unit_words) {
            std::uint32_t w[ValueCodes::unit_words];
#pragma unroll
            for (int m = 0; m < ValueCodes::unit_words; ++m) {
              w[m] = word_of(words[local * V::lane_words + n + m], i);
            }
            std::uint32_t made[ValueCodes::unit_steps][2];
            ValueCodes::fragments(value_table, w, made);
#pragma unroll
            for (int step = 0; step < ValueCodes::unit_steps; ++step) {
              const int at = n / ValueCodes::unit_words * ValueCodes::unit_steps + step;
              b[at][0] = made[step][0];
              b[at][1] = made[step][1];
            }
          }
#pragma unroll
          for (int step = 0; step < 4; ++step) mma_m16n8k16_f16(sum[round][i], a[step], b[step]);
        }
      }
    }
  }
};

/// Loads kLoad .. of a tile, each one ahead of its use; the tile that begins with next_row in
/// next_page follows.
template <class C, int kLoad>
__device__ __forceinline__ void take_loads(TilesWarp<C>& w, typename TilesWarp<C>::Tile& tile,
                                           std::int32_t next_page, std::int32_t next_row,
                                           Scores& part, Scores& s, std::uint32_t (&a)[4][4]) {
  using K = typename C::K;
  using V = typename C::V;
  if constexpr (kLoad < C::kLoads) {
    typename TilesWarp<C>::Tile next = tile;
    if constexpr (kLoad + 1 < C::kLoads) {
      w.template load<kLoad + 1>(tile, w.buffer[(kLoad + 1) % 2]);
    } else {
      next = w.tile_in(next_page, next_row);
      w.template load<0>(next, w.buffer[0]);
    }
    if constexpr (kLoad < K::loads) {
      w.template score<kLoad>(tile, w.buffer[kLoad % 2], part, s);
    } else if constexpr (kLoad < K::loads + V::loads) {
      if constexpr (kLoad == K::loads) w.soften(tile, s);
      w.template add<kLoad>(tile, w.buffer[kLoad % 2], s, a);
    }
    tile = next;
    take_loads<C, kLoad + 1>(w, tile, next_page, next_row, part, s, a);
  }
}

/// Every fourth tile of encoded rows begin .. end - 1 of a stream, from the warp's own first one on.
/// A stream has fewer than 2^31 rows.
template <class C>
__device__ void take_tiles(TilesWarp<C>& w, std::int64_t begin, std::int64_t end) {
  constexpr int kStep = kTileRows * (kAttendThreads / 32);
  const KvView& view = w.p.view;
  const std::int64_t stream = w.u.seq * view.n_streams_per_seq() + w.u.head / view.format.span;
  w.stream_pos = view.first_pos == nullptr ? 0 : view.first_pos[stream];
  w.end_row = static_cast<std::int32_t>(end);
  std::int32_t row =
      static_cast<std::int32_t>(begin) + kTileRows * static_cast<std::int32_t>(threadIdx.x / 32);
  if (row >= w.end_row) return;
  auto tile = w.tile_in(view.page_of(stream, row), row);
  w.template load<0>(tile, w.buffer[0]);
  while (row < w.end_row) {
    // After the last tile its own page is read once more, for nothing.
    const std::int32_t next_row = row + kStep < w.end_row ? row + kStep : row;
    const std::int32_t next_page = view.page_of(stream, next_row);
    Scores part = {};
    Scores s = {};
    std::uint32_t a[4][4];
    take_loads<C, 0>(w, tile, next_page, next_row, part, s, a);
    row += kStep;
  }
}

/// Merges the states of the warps of a CTA, in their order, into the state of the split. `memory` is
/// all of the CTA's shared memory, used by nobody any more.
template <class C>
__device__ void merge_warps(TilesWarp<C>& w, float* memory, float* out) {
  constexpr int kWarps = kAttendThreads / 32;
  float* maxima = memory;                        // [kWarps][kUnitRows]
  float* weights = maxima + kWarps * kUnitRows;  // [kWarps][kUnitRows]
  float* sums = weights + kWarps * kUnitRows;    // [kUnitRows][head_dim]
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int n_rows = w.u.n_rows;
  float shrink[C::kHalves];
#pragma unroll
  for (int half = 0; half < C::kHalves; ++half) {
    float l = w.state.l[half];
    l += __shfl_xor_sync(0xffffffffu, l, 1);
    l += __shfl_xor_sync(0xffffffffu, l, 2);
    if (w.t == 0) {
      maxima[warp * kUnitRows + w.g + 8 * half] = w.state.m[half];
      weights[warp * kUnitRows + w.g + 8 * half] = l;
    }
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < C::kHalves; ++half) {
    float top = minus_infinity();
    for (int i = 0; i < kWarps; ++i) top = fmaxf(top, maxima[i * kUnitRows + w.g + 8 * half]);
    shrink[half] = top == minus_infinity() ? 0.0f : shrink_of(w.state.m[half], top);
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int round = 0; round < C::V::rounds; ++round) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int c = 0; c < 2 * C::kHalves; ++c) {
            const int row = w.g + 8 * (c / 2);
            const int channel = first_channel_of(w.t, round) + 4 * (c % 2) + i;
            if (row >= n_rows || channel >= C::kHeadDim) continue;
            float* at = sums + row * C::kHeadDim + channel;
            const float mine = w.sum[round][i][c] * shrink[c / 2];
            *at = turn == 0 ? mine : *at + mine;
          }
        }
      }
    }
    __syncthreads();
  }
  const float* center =
      w.p.view.v_center == nullptr
          ? nullptr
          : w.p.view.v_center + (w.u.seq * w.p.view.shape.n_kv_heads + w.u.head) * C::kHeadDim;
  const int unit_rows = w.p.unit_rows;
  for (int i = static_cast<int>(threadIdx.x); i < n_rows * C::kHeadDim; i += kAttendThreads) {
    const int row = i / C::kHeadDim;
    float top = minus_infinity();
    for (int n = 0; n < kWarps; ++n) top = fmaxf(top, maxima[n * kUnitRows + row]);
    float l = 0.0f;
    for (int n = 0; n < kWarps; ++n) {
      if (top == minus_infinity()) break;
      l += weights[n * kUnitRows + row] * shrink_of(maxima[n * kUnitRows + row], top);
    }
    const float lifted = center == nullptr ? 0.0f : l * center[i % C::kHeadDim];
    out[2 * unit_rows + i] = sums[i] + lifted;
    if (i % C::kHeadDim == 0) {
      out[row] = top;
      out[unit_rows + row] = l;
    }
  }
}

/// The state of one split of encoded rows.
template <class C>
__device__ void attend_tiles(const AttendParams& p, const Unit& u, std::int64_t begin,
                             std::int64_t end, float* out) {
  using M = TilesMemory<C>;
  std::byte* memory = dynamic_shared<std::byte>();
  auto* key_table = reinterpret_cast<std::uint32_t*>(memory + M::key_table);
  auto* value_table =
      p.one_table ? key_table : reinterpret_cast<std::uint32_t*>(memory + M::value_table);
  auto* fragments = reinterpret_cast<uint4*>(memory + M::fragments(p.one_table));
  auto& queries = *reinterpret_cast<QueryTable*>(memory + M::queries(p.one_table));
  fill_table<C::kKey>(p.k, key_table);
  if (!p.one_table) fill_table<C::kValue>(p.v, value_table);
  fill_query_table(p, u, queries);
  __syncthreads();
  fill_query_fragments<typename C::K>(p, u, queries, fragments);
  __syncthreads();
  TilesWarp<C> w(p, u, table_for(p.k, key_table), table_for(p.v, value_table), fragments, queries);
  take_tiles(w, begin, end);
  w.finish();
  __syncthreads();
  merge_warps(w, reinterpret_cast<float*>(memory), out);
}

}  // namespace kvcodec::cuda
