// Matrix instructions against plain products, with fragments loaded by their documented layout and
// through ldmatrix.
#include <cstdint>
#include <vector>

#include "tests/simt/launches.hpp"

namespace kvcodec::cuda {
namespace {

// Small numbers that all three types hold and whose sums are exact.
int a_value(int row, int k) { return (row * 29 + k * 7) % 17 - 8; }
int b_value(int k, int column) { return (k * 31 + column * 5) % 23 - 11; }

std::vector<int> product(int depth) {  // [16, 8]
  std::vector<int> d;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < depth; ++k) sum += a_value(row, k) * b_value(k, column);
      d.push_back(sum);
    }
  }
  return d;
}

struct F16 {
  static std::uint16_t bits(int v) { return bits_of(__float2half_rn(static_cast<float>(v))); }
  __device__ static void mma(float (&d)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b);
  }
};
struct Bf16 {
  static std::uint16_t bits(int v) { return bits_of(__float2bfloat16_rn(static_cast<float>(v))); }
  __device__ static void mma(float (&d)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(d, a, b);
  }
};

__device__ std::uint32_t pair(const std::uint16_t* p, unsigned stride) {
  return std::uint32_t{p[0]} | std::uint32_t{p[stride]} << 16;
}

// c [16, 8] starts the sums. Fragments straight from global memory.
template <class Type>
__global__ void multiply_direct(const std::uint16_t* a, const std::uint16_t* b, float* c) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  std::uint32_t fa[4];
  std::uint32_t fb[2];
  float d[4];
  for (unsigned r = 0; r < 4; ++r) {
    fa[r] = pair(a + (g + 8 * (r & 1)) * 16 + 2 * t + 8 * (r >> 1), 1);
    d[r] = c[(g + 8 * (r >> 1)) * 8 + 2 * t + (r & 1)];
  }
  for (unsigned r = 0; r < 2; ++r) fb[r] = pair(b + (2 * t + 8 * r) * 8 + g, 8);
  Type::mma(d, fa, fb);
  for (unsigned r = 0; r < 4; ++r) c[(g + 8 * (r >> 1)) * 8 + 2 * t + (r & 1)] = d[r];
}

template <class Type>
void check_direct() {
  std::vector<std::uint16_t> a;
  std::vector<std::uint16_t> b;
  a.reserve(256);
  b.reserve(128);
  for (int i = 0; i < 256; ++i) a.push_back(Type::bits(a_value(i / 16, i % 16)));
  for (int i = 0; i < 128; ++i) b.push_back(Type::bits(b_value(i / 8, i % 8)));
  const std::vector<int> want = product(16);
  simt::for_each_schedule([&](const simt::Schedule&) {
    std::vector<float> c(128, 0.5f);
    EXPECT_LAUNCHES(launch(multiply_direct<Type>, {1, 32}, a.data(), b.data(), c.data()));
    for (std::size_t i = 0; i < 128; ++i) {
      ASSERT_EQ(c[i], static_cast<float>(want[i]) + 0.5f) << "element " << i;
    }
  });
}

TEST(Mma, F16) { check_direct<F16>(); }
TEST(Mma, Bf16) { check_direct<Bf16>(); }

__global__ void multiply_tf32(const float* a, const float* b, float* c) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  std::uint32_t fa[4];
  std::uint32_t fb[2];
  float d[4] = {0.5f, 0.5f, 0.5f, 0.5f};
  for (unsigned r = 0; r < 4; ++r) fa[r] = tf32_of(a[(g + 8 * (r & 1)) * 8 + t + 4 * (r >> 1)]);
  for (unsigned r = 0; r < 2; ++r) fb[r] = tf32_of(b[(t + 4 * r) * 8 + g]);
  mma_m16n8k8_tf32(d, fa, fb);
  for (unsigned r = 0; r < 4; ++r) c[(g + 8 * (r >> 1)) * 8 + 2 * t + (r & 1)] = d[r];
}

TEST(Mma, Tf32) {
  std::vector<float> a;
  std::vector<float> b;
  a.reserve(128);
  b.reserve(64);
  for (int i = 0; i < 128; ++i) a.push_back(static_cast<float>(a_value(i / 8, i % 8)));
  for (int i = 0; i < 64; ++i) b.push_back(static_cast<float>(b_value(i / 8, i % 8)));
  const std::vector<int> want = product(8);
  std::vector<float> c(128);
  EXPECT_LAUNCHES(launch(multiply_tf32, {1, 32}, a.data(), b.data(), c.data()));
  for (std::size_t i = 0; i < 128; ++i) {
    ASSERT_EQ(c[i], static_cast<float>(want[i]) + 0.5f) << "element " << i;
  }
}

__device__ std::uint32_t four(const std::int8_t* p, unsigned stride) {
  std::uint32_t word = 0;
  for (unsigned i = 0; i < 4; ++i) {
    word |= std::uint32_t{static_cast<std::uint8_t>(p[i * stride])} << (8 * i);
  }
  return word;
}

__global__ void multiply_s8(const std::int8_t* a, const std::int8_t* b, std::int32_t* c) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  std::uint32_t fa[4];
  std::uint32_t fb[2];
  std::int32_t d[4] = {0, 0, 0, 0};
  for (unsigned r = 0; r < 4; ++r) {
    fa[r] = four(a + (g + 8 * (r & 1)) * 32 + 4 * t + 16 * (r >> 1), 1);
  }
  for (unsigned r = 0; r < 2; ++r) fb[r] = four(b + (4 * t + 16 * r) * 8 + g, 8);
  mma_m16n8k32_s8(d, fa, fb);
  mma_m16n8k32_s8(d, fa, fb);
  for (unsigned r = 0; r < 4; ++r) c[(g + 8 * (r >> 1)) * 8 + 2 * t + (r & 1)] = d[r];
}

TEST(Mma, S8) {
  std::vector<std::int8_t> a;
  std::vector<std::int8_t> b;
  a.reserve(512);
  b.reserve(256);
  for (int i = 0; i < 512; ++i) a.push_back(static_cast<std::int8_t>(a_value(i / 32, i % 32)));
  for (int i = 0; i < 256; ++i) b.push_back(static_cast<std::int8_t>(b_value(i / 8, i % 8)));
  const std::vector<int> want = product(32);
  std::vector<std::int32_t> c(128);
  EXPECT_LAUNCHES(launch(multiply_s8, {1, 32}, a.data(), b.data(), c.data()));
  for (std::size_t i = 0; i < 128; ++i) ASSERT_EQ(c[i], 2 * want[i]) << "element " << i;
}

// a [16, 16] row-major and b [16, 16] row-major (two fragments side by side) through shared memory.
__global__ void multiply_staged(const std::uint16_t* a, const std::uint16_t* b, float* c) {
  KVCODEC_SHARED(sa, uint4[32]);
  KVCODEC_SHARED(sb, uint4[32]);
  const unsigned lane = threadIdx.x;
  cp_async16(&sa[lane], a + 8 * lane);
  cp_async16(&sb[lane], b + 8 * lane);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  std::uint32_t fa[4];
  std::uint32_t fb[4];
  ldmatrix_x4(fa, &sa[lane % 16 * 2 + lane / 16]);
  ldmatrix_x4_trans(fb, &sb[lane % 16 * 2 + lane / 16]);
  for (unsigned half = 0; half < 2; ++half) {
    const std::uint32_t column[2] = {fb[2 * half], fb[2 * half + 1]};
    float d[4] = {};
    mma_m16n8k16_f16(d, fa, column);
    for (unsigned r = 0; r < 4; ++r) {
      c[(lane / 4 + 8 * (r >> 1)) * 16 + 8 * half + lane % 4 * 2 + (r & 1)] = d[r];
    }
  }
}

TEST(Mma, ThroughCopiesAndLdmatrix) {
  DeviceArray<std::uint16_t> a(256);
  DeviceArray<std::uint16_t> b(256);
  for (int i = 0; i < 256; ++i) {
    a[static_cast<std::size_t>(i)] = F16::bits(a_value(i / 16, i % 16));
    b[static_cast<std::size_t>(i)] = F16::bits(b_value(i / 16, i % 16));
  }
  simt::for_each_schedule([&](const simt::Schedule&) {
    std::vector<float> c(256);
    EXPECT_LAUNCHES(launch(multiply_staged, {1, 32}, a.data(), b.data(), c.data()));
    for (int i = 0; i < 256; ++i) {
      int want = 0;
      for (int k = 0; k < 16; ++k) want += a_value(i / 16, k) * b_value(k, i % 16);
      ASSERT_EQ(c[static_cast<std::size_t>(i)], static_cast<float>(want)) << "element " << i;
    }
  });
}

__global__ void transpose(const std::uint32_t* from, std::uint32_t* to) {
  to[threadIdx.x] = movmatrix_trans(from[threadIdx.x]);
}

TEST(Mma, MovmatrixTransposes) {
  std::vector<std::uint32_t> from(32);
  std::vector<std::uint32_t> to(32);
  const auto element = [](const std::vector<std::uint32_t>& words, std::size_t row,
                          std::size_t column) {
    return (words[4 * row + column / 2] >> (16 * (column % 2))) & 0xffffu;
  };
  for (std::uint32_t i = 0; i < 32; ++i) from[i] = (2 * i) | ((2 * i + 1) << 16);
  EXPECT_LAUNCHES(launch(transpose, {1, 32}, from.data(), to.data()));
  for (std::size_t row = 0; row < 8; ++row) {
    for (std::size_t column = 0; column < 8; ++column) {
      ASSERT_EQ(element(to, row, column), element(from, column, row)) << row << ", " << column;
    }
  }
}

__global__ void scalars(float* y, std::uint32_t* bits) {
  y[0] = exp2_approx(3.0f);
  y[1] = exp2_approx(-140.0f);
  y[2] = log2_approx(8.0f);
  y[3] = rcp_approx(4.0f);
  y[4] = tanh_approx(0.0f);
  y[5] = exp2_approx(-INFINITY);
  bits[0] = lop3<0xea>(0xff00ff00u, 0x0ff00ff0u, 0x1u);  // (a & b) | c
  bits[1] = lop3<0x96>(0x3u, 0x5u, 0x9u);                // a ^ b ^ c
  bits[2] = __byte_perm(0x33221100u, 0x77665544u, 0x7531u);
  bits[3] = __byte_perm(0x80u, 0u, 0x8880u);
  bits[4] = static_cast<std::uint32_t>(__dp4a(static_cast<int>(0xff02fe01u), 0x01020304, 10));
  bits[5] = tf32_of(1.0f + 0x1p-11f);  // a tie
  bits[6] = tf32_of(-1.0f - 0x1.fp-12f);
}

TEST(Scalars, FollowTheirInstructions) {
  std::vector<float> y(6);
  std::vector<std::uint32_t> bits(7);
  EXPECT_LAUNCHES(launch(scalars, {1, 1}, y.data(), bits.data()));
  EXPECT_EQ(y, (std::vector<float>{8.0f, 0.0f, 3.0f, 0.25f, 0.0f, 0.0f}));
  EXPECT_EQ(bits, (std::vector<std::uint32_t>{0x0f000f01u, 0x3u ^ 0x5u ^ 0x9u, 0x77553311u,
                                              0xffffff80u, 10u + 4u - 2u * 3u + 2u * 2u - 1u,
                                              0x3f802000u, 0xbf800000u}));
}

}  // namespace
}  // namespace kvcodec::cuda
