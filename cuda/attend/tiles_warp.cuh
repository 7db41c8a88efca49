// A warp at work on tiles: loads, products, softmax, sums. Codes never leave registers as anything but
// operands.
#pragma once

#include "cuda/attend/softmax.cuh"

namespace kvcodec::cuda {

/// One instantiation: formats of both sides, and how many query rows it serves (8 per octet).
template <CodeKind kKeyKind, int kKeyWidth, CodeKind kValueKind, int kHeadDimension,
          int kQueryOctets, bool kHasZeros>
struct TilesConfig {
  static constexpr CodeKind kKey = kKeyKind;
  static constexpr CodeKind kValue = kValueKind;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kOctets = kQueryOctets;
  static constexpr bool kZeros = kHasZeros;
  /// 16-byte loads in flight per lane: many sums leave fewer registers for them, and two-bit codes and
  /// zeros need more of their own.
  static constexpr bool kManySums = kHeadDimension * kQueryOctets >= 256;
  static constexpr bool kManyOthers = kHasZeros || kKeyKind == CodeKind::table2;
  static constexpr int kMostQuads = !kManySums ? 8 : kManyOthers ? 2 : 4;
  using K = KeyPlane<kKeyKind, kKeyWidth, kMostQuads>;
  using V = ValuePlane<kValueKind, kHeadDimension, kMostQuads>;
  static constexpr int kQuads = K::load_quads > V::load_quads ? K::load_quads : V::load_quads;
  /// Loads of a tile, even so that the two buffers take turns across tiles.
  static constexpr int kLoads = (K::loads + V::loads + 1) / 2 * 2;
};

/// Four neighbouring f16 of a plane of scales or zeros: those of a quad of tokens.
__device__ __forceinline__ void four_of(const std::byte* plane, int quad, float (&x)[4]) {
  const uint2 bits = load_vector(reinterpret_cast<const uint2*>(plane + 8 * quad));
  const float2 low = __half22float2(half2_of(bits.x));
  const float2 high = __half22float2(half2_of(bits.y));
  x[0] = low.x;
  x[1] = low.y;
  x[2] = high.x;
  x[3] = high.y;
}

template <class C>
struct TilesWarp {
  using K = typename C::K;
  using V = typename C::V;
  using KeyCodes = Codes<C::kKey>;
  using ValueCodes = Codes<C::kValue>;
  static constexpr int kOctets = C::kOctets;
  static constexpr int kValueGroups = C::kZeros ? (C::kHeadDim + 31) / 32 : 1;

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
  const uint2* fragments;  ///< of the queries, in shared memory
  const QueryTable& queries;
  std::int32_t first_q_pos;  ///< smallest position of a query row of the unit
  std::int32_t last_q_pos;
  std::int32_t stream_pos;  ///< position of row 0 of the stream
  std::int32_t end_row;     ///< of the split
  std::uint32_t k_tile;     ///< offset in a strip
  std::uint32_t v_tile;
  int k_head;  ///< of a tile
  int v_head;

  uint4 buffer[2][C::kQuads];
  /// Register c of pair n belongs to channel 4 * (g + 8 * round) + 2 * n + c / 2 and to query row
  /// 8 * octet + 2 * t + c % 2.
  float sum[kOctets][V::rounds][2][4];
  float zero_sum[kValueGroups][kOctets][2];  ///< this lane's part of weights times zeros
  SoftmaxState<kOctets> state;

  __device__ TilesWarp(const AttendParams& params, const Unit& unit, const CodeTable& k_table,
                       const CodeTable& v_table, const uint2* query_fragments,
                       const QueryTable& query_table)
      : p(params),
        u(unit),
        lane(static_cast<int>(threadIdx.x % 32)),
        g(lane / 4),
        t(lane % 4),
        key_table(k_table),
        value_table(v_table),
        fragments(query_fragments),
        queries(query_table) {
    first_q_pos = queries.pos[0];
    last_q_pos = first_q_pos;
    for (int row = 1; row < u.n_rows; ++row) {
      const std::int32_t pos = queries.pos[row];
      first_q_pos = pos < first_q_pos ? pos : first_q_pos;
      last_q_pos = pos > last_q_pos ? pos : last_q_pos;
    }
    const int head_in_page = u.head % p.view.format.span;
    k_tile = static_cast<std::uint32_t>(p.view.format.k_offset(head_in_page));
    v_tile = static_cast<std::uint32_t>(p.view.format.v_offset(head_in_page));
    k_head = head_in_page % p.view.format.k_span;
    v_head = head_in_page % p.view.format.v_span;
    start();
  }

  __device__ __forceinline__ Tile tile_in(std::int32_t page, std::int32_t row) const {
    const int strip = row % p.view.format.page_size / kTileRows;
    const std::size_t offset = static_cast<std::size_t>(strip) * p.view.format.strip_bytes();
    return {p.view.page_data(page) + offset, page, row};
  }
  __device__ __forceinline__ const std::byte* k_plane(const Tile& tile, std::uint32_t offset,
                                                      int group) const {
    return tile.strip + k_tile + offset + kScalePlaneBytes * static_cast<std::size_t>(group);
  }
  __device__ __forceinline__ const std::byte* v_plane(const Tile& tile, std::uint32_t offset,
                                                      int group) const {
    return tile.strip + v_tile + offset + kScalePlaneBytes * static_cast<std::size_t>(group);
  }

  /// Empty sums.
  __device__ void start() {
#pragma unroll
    for (int octet = 0; octet < kOctets; ++octet) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        state.m[octet][j] = minus_infinity();
        state.l[octet][j] = 0.0f;
#pragma unroll
        for (auto& of_group : zero_sum) of_group[octet][j] = 0.0f;
      }
#pragma unroll
      for (auto& of_round : sum[octet]) {
#pragma unroll
        for (auto& of_pair : of_round) {
#pragma unroll
          for (float& x : of_pair) x = 0.0f;
        }
      }
    }
  }

  /// The load-th load of a tile into a buffer: key codes first, then value codes.
  template <int kLoad>
  __device__ __forceinline__ void load(const Tile& tile, uint4 (&to)[C::kQuads]) const {
    if constexpr (kLoad < K::loads) {
      const auto* plane =
          reinterpret_cast<const uint4*>(tile.strip + k_tile) + k_head * (K::words * 16);
#pragma unroll
      for (int n = 0; n < K::load_quads; ++n) {
        const int word = K::word(t, kLoad * K::load_units, n / 2);
        to[n] = word < K::words
                    ? load_streaming(plane + K::quad_index(word, key_quad<C::kValue>(g, n % 2)))
                    : make_uint4(0, 0, 0, 0);
      }
    } else if constexpr (kLoad < K::loads + V::loads) {
      constexpr int kFirst = (kLoad - K::loads) * V::load_rounds;
      const auto* plane = reinterpret_cast<const uint4*>(tile.strip + v_tile) +
                          v_head * (C::kHeadDim * V::words / 4);
#pragma unroll
      for (int n = 0; n < V::load_quads; ++n) {
        const int quad = g + 8 * (kFirst + n / V::lane_words);
        to[n] = quad < V::quads
                    ? load_streaming(plane + V::quad_index(V::word(t, n % V::lane_words), quad))
                    : make_uint4(0, 0, 0, 0);
      }
    }
  }

  /// Scores of a tile += sums of one group times the scales, + zeros; the sums start anew.
  __device__ __forceinline__ void fold(const Tile& tile, int group, Scores<kOctets>& part,
                                       Scores<kOctets>& s) const {
    const bool zeros = C::kZeros && p.k.has_zeros();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int quad = key_quad<C::kValue>(g, r);
      float scale[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      float zero[4] = {};
      if (p.k.group > 0) four_of(k_plane(tile, p.k.scale_offset, group), quad, scale);
      if (zeros) four_of(k_plane(tile, p.k.zero_offset, group), quad, zero);
#pragma unroll
      for (int octet = 0; octet < kOctets; ++octet) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          const int c = n % 4;
          const int i = 2 * (n / 4) + c / 2;
          float& x = s[octet][r][n / 4][c];
          x = fmaf(part[octet][r][n / 4][c], scale[i], x);
          if (zeros) x = fmaf(queries.sums[8 * octet + 2 * t + c % 2][group], zero[i], x);
          part[octet][r][n / 4][c] = 0.0f;
        }
      }
    }
  }

  /// Products of one unit of key words with the queries.
  __device__ __forceinline__ void score_unit(int unit, const uint4* words,
                                             Scores<kOctets>& part) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        std::uint32_t rows[2][KeyCodes::unit_steps][2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          std::uint32_t w[KeyCodes::unit_words];
#pragma unroll
          for (int m = 0; m < KeyCodes::unit_words; ++m)
            w[m] = word_of(words[2 * m + r], 2 * pair + n);
          KeyCodes::fragments(key_table, w, rows[n]);
        }
#pragma unroll
        for (int step = 0; step < KeyCodes::unit_steps; ++step) {
          const std::uint32_t a[4] = {rows[0][step][0], rows[1][step][0], rows[0][step][1],
                                      rows[1][step][1]};
#pragma unroll
          for (int octet = 0; octet < kOctets; ++octet) {
            const int at = (unit * KeyCodes::unit_steps + step) * 32 + lane;
            const uint2 query = load_vector(fragments + at * kOctets + octet);
            const std::uint32_t b[2] = {query.x, query.y};
            mma_m16n8k16_f16(part[octet][r][pair], a, b);
          }
        }
      }
    }
  }

  /// Products of the units of one load with the queries.
  template <int kLoad>
  __device__ __forceinline__ void score(const Tile& tile, const uint4 (&words)[C::kQuads],
                                        Scores<kOctets>& part, Scores<kOctets>& s) const {
    constexpr int kUnitCodes = 4 * KeyCodes::unit_words * KeyCodes::per_word;
#pragma unroll
    for (int local = 0; local < K::load_units; ++local) {
      const int unit = kLoad * K::load_units + local;
      if (unit >= K::units) continue;
      score_unit(unit, words + 2 * local * KeyCodes::unit_words, part);
      // Groups end with units: the host lets no others in here.
      const bool last = unit + 1 == K::units;
      const int end = last ? p.k.width : (unit + 1) * kUnitCodes;
      if (last || (p.k.group > 0 && end % p.k.group == 0)) {
        fold(tile, p.k.group > 0 ? (k_head * p.k.width + end - 1) / p.k.group : 0, part, s);
      }
    }
  }

  /// Rows of a tile and who sees them.
  __device__ __forceinline__ TileRowsInfo rows_of(const Tile& tile) const {
    TileRowsInfo rows = tile_rows_in(p, tile.page, tile.row, end_row, stream_pos);
    const std::int64_t last = std::int64_t{rows.first_pos} + kTileRows - 1;
    rows.all_visible = rows.n_rows == kTileRows && rows.listed == nullptr &&
                       rows.masks == nullptr && last <= first_q_pos &&
                       (p.window <= 0 || rows.first_pos > std::int64_t{last_q_pos} - p.window);
    return rows;
  }

  /// One step of the softmax; older sums are made to match.
  __device__ __forceinline__ void soften(const Tile& tile, Scores<kOctets>& s) {
    float shrink[kOctets][2];
    softmax_step<C::kValue, kOctets>(p, rows_of(tile), queries, g, t, s, state, shrink);
    bool same = true;
#pragma unroll
    for (int i = 0; i < 2 * kOctets; ++i) same = same && shrink[i / 2][i % 2] == 1.0f;
    if (__all_sync(0xffffffffu, same)) return;
#pragma unroll
    for (int octet = 0; octet < kOctets; ++octet) {
#pragma unroll
      for (auto& of_round : sum[octet]) {
#pragma unroll
        for (int n = 0; n < 8; ++n) of_round[n / 4][n % 4] *= shrink[octet][n % 2];
      }
#pragma unroll
      for (auto& of_group : zero_sum) {
#pragma unroll
        for (int j = 0; j < 2; ++j) of_group[octet][j] *= shrink[octet][j];
      }
    }
  }

  /// Weights of the tile times the scales of one group of channels, as fragments B of the four steps;
  /// sums of weights times zeros.
  __device__ __forceinline__ void weigh(const Tile& tile, int group, int round,
                                        const Scores<kOctets>& s,
                                        std::uint32_t (&b)[kOctets][4][2]) {
    const bool zeros = C::kZeros && p.v.has_zeros();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int quad = key_quad<C::kValue>(g, r);
      float scale[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      float zero[4];
      if (p.v.group > 0) four_of(v_plane(tile, p.v.scale_offset, group), quad, scale);
      if (zeros) four_of(v_plane(tile, p.v.zero_offset, group), quad, zero);
#pragma unroll
      for (int octet = 0; octet < kOctets; ++octet) {
        std::uint32_t turned[4];  // of neighbour i: tokens of g = 2 t and 2 t + 1, query row g
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* w = &s[octet][r][i / 2][2 * (i % 2)];
          if (zeros) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              float& x = zero_sum[C::kZeros ? round : 0][octet][j];
              x = fmaf(w[j], zero[i], x);
            }
          }
          turned[i] = movmatrix_trans(bits_of(__floats2half2_rn(w[0] * scale[i], w[1] * scale[i])));
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          std::uint32_t& to = b[octet][2 * r + n / 2][n % 2];
          to = V::pairs_quads ? turned[n]
                              : __byte_perm(turned[2 * (n % 2)], turned[2 * (n % 2) + 1],
                                            n / 2 == 0 ? 0x5410 : 0x7632);
        }
      }
    }
  }

  /// Fragments of one channel of a quad of value words, of the four steps.
  __device__ __forceinline__ void value_rows(const uint4* words, int i,
                                             std::uint32_t (&rows)[4][2]) const {
#pragma unroll
    for (int n = 0; n < V::lane_words; n += ValueCodes::unit_words) {
      std::uint32_t w[ValueCodes::unit_words];
#pragma unroll
      for (int m = 0; m < ValueCodes::unit_words; ++m) w[m] = word_of(words[n + m], i);
      std::uint32_t made[ValueCodes::unit_steps][2];
      ValueCodes::fragments(value_table, w, made);
#pragma unroll
      for (int step = 0; step < ValueCodes::unit_steps; ++step) {
        const int at = n / ValueCodes::unit_words * ValueCodes::unit_steps + step;
        rows[at][0] = made[step][0];
        rows[at][1] = made[step][1];
      }
    }
  }

  /// Products of the value codes of one load with the weights.
  template <int kLoad>
  __device__ __forceinline__ void add(const Tile& tile, const uint4 (&words)[C::kQuads],
                                      const Scores<kOctets>& s, std::uint32_t (&b)[kOctets][4][2]) {
#pragma unroll
    for (int local = 0; local < V::load_rounds; ++local) {
      const int round = (kLoad - K::loads) * V::load_rounds + local;
      if (round >= V::rounds) continue;
      const int channel = v_head * C::kHeadDim + 32 * round;
      if (round == 0 || (p.v.group > 0 && channel % p.v.group == 0)) {
        weigh(tile, p.v.group > 0 ? channel / p.v.group : 0, round, s, b);
      }
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        std::uint32_t rows[2][4][2];
        value_rows(words + local * V::lane_words, 2 * pair, rows[0]);
        value_rows(words + local * V::lane_words, 2 * pair + 1, rows[1]);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          const std::uint32_t a[4] = {rows[0][step][0], rows[1][step][0], rows[0][step][1],
                                      rows[1][step][1]};
#pragma unroll
          for (int octet = 0; octet < kOctets; ++octet) {
            mma_m16n8k16_f16(sum[octet][round][pair], a, b[octet][step]);
          }
        }
      }
    }
  }

  /// A lane's part of a sum over tokens becomes the sum.
  __device__ __forceinline__ static float over_tokens(float x) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
  }

  /// After the last tile: the factor that all values share, zeros, whole sums of weights.
  __device__ void finish() {
#pragma unroll
    for (int at = 0; at < 2 * kOctets; ++at) {
      const int octet = at / 2;
      const int j = at % 2;
      state.l[octet][j] = over_tokens(state.l[octet][j]);
      float zero = 0.0f;
#pragma unroll
      for (int round = 0; round < V::rounds; ++round) {
        if (C::kZeros && p.v.has_zeros() && (32 * round) % p.v.group == 0) {
          zero = over_tokens(zero_sum[C::kZeros ? round : 0][octet][j]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& x = sum[octet][round][i / 2][2 * (i % 2) + j];
          x = fmaf(x, p.v.scale, zero);
        }
      }
    }
  }
};

}  // namespace kvcodec::cuda
