// A small product kept in registers: c [R, PANEL] = a [R, k] · b [k, PANEL], with b packed for it.
//
// float: b is [k][PANEL]. bfloat16: pairs of neighbours along k lie together, [k / 2][PANEL][2], for the instruction
// that multiplies pairs and adds both to a float. The sum over k has one order whatever R is.
#pragma once
#include "simd.h"

namespace inlay {

constexpr int64_t PANEL = 2 * Vec::size;
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12;  // 24 of 32 registers hold sums
#else
constexpr int MOST_ROWS = 6;  // 12 of 16
#endif

inline int rows_at_once(int64_t left) {
  for (int rows = MOST_ROWS; rows > 1; rows /= 2)
    if (left >= rows) return rows;
  return 1;
}

template <class E>
struct Element;

template <>
struct Element<float> {
  static constexpr int64_t step = 1;
  static Vec load(const float* b) { return Vec::load(b); }
  static Vec spread(const float* a) { return Vec::all(*a); }
  static Vec add_product(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

#if defined(__AVX512BF16__)
template <>
struct Element<bf16> {
  static constexpr int64_t step = 2;
  static __m512i load(const bf16* b) { return _mm512_loadu_si512(b); }
  static __m512i spread(const bf16* a) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static Vec add_product(Vec sum, __m512i a, __m512i b) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)}; }
};
using Half = bf16;  // what bfloat16 inputs are computed in
#else
using Half = float;
#endif

template <int R, class E>
void tile(const E* a, int64_t a_stride, const E* b, int64_t k, float* c, int64_t c_stride) {
  using X = Element<E>;
  Vec sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = Vec::all(0.0f);
  for (int64_t i = 0; i < k; i += X::step, b += PANEL * X::step) {
    auto left = X::load(b), right = X::load(b + Vec::size * X::step);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      auto x = X::spread(a + r * a_stride + i);
      sums[r][0] = X::add_product(sums[r][0], x, left);
      sums[r][1] = X::add_product(sums[r][1], x, right);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    sums[r][0].store(c + r * c_stride);
    sums[r][1].store(c + r * c_stride + Vec::size);
  }
}

template <class E>
void tile(int rows, const E* a, int64_t a_stride, const E* b, int64_t k, float* c, int64_t c_stride) {
  switch (rows) {
#if defined(__AVX512F__)
    case 12: return tile<12>(a, a_stride, b, k, c, c_stride);
#endif
    case 6: return tile<6>(a, a_stride, b, k, c, c_stride);
    case 3: return tile<3>(a, a_stride, b, k, c, c_stride);
    default: return tile<1>(a, a_stride, b, k, c, c_stride);
  }
}

}  // namespace inlay
