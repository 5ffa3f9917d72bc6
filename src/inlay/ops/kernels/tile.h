// A small product kept in registers: c [R, PANEL] = start + a [R, k] · b [k, PANEL], with b packed for it.
//
// b is [k / step][PANEL][step]: `step` neighbours along k lie together, for the instruction that multiplies them and
// adds them all to one sum. That is 1 float, 2 of bfloat16, or 4 bytes (a unsigned, b signed). Sums are floats, of
// bytes 32-bit integers. The sum over k has one order, whatever R is and in how many calls k is summed up.
#pragma once
#include <utility>

#include "simd.h"

namespace inlay {

constexpr int64_t PANEL = 2 * Vec::size;
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12;  // 24 of 32 registers hold sums
#else
constexpr int MOST_ROWS = 6;  // 12 of 16
#endif

// As few tiles as possible, of nearly the same size.
inline int rows_at_once(int64_t left) {
  int64_t tiles = (left + MOST_ROWS - 1) / MOST_ROWS;
  return static_cast<int>((left + tiles - 1) / tiles);
}

template <class E>
struct Element;

struct FloatSums {
  using Number = float;  // of c
  using Sum = Vec;
  static Vec start(const float* from) { return Vec::load(from); }
  static Vec nothing() { return Vec::all(0.0f); }
  static void store(Vec sum, float* c) { sum.store(c); }
};

template <>
struct Element<float> : FloatSums {
  using Factor = float;  // of b
  static constexpr int64_t step = 1;
  static Vec load(const float* b) { return Vec::load(b); }
  static Vec spread(const float* a) { return Vec::all(*a); }
  static Vec add_product(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

#if defined(__AVX512F__)
template <class A>
inline __m512i spread_word(const A* a) {
  int32_t word;
  std::memcpy(&word, a, sizeof(word));
  return _mm512_set1_epi32(word);
}
#endif

#if defined(__AVX512BF16__)
template <>
struct Element<bf16> : FloatSums {
  using Factor = bf16;
  static constexpr int64_t step = 2;
  static __m512i load(const bf16* b) { return _mm512_loadu_si512(b); }
  static __m512i spread(const bf16* a) { return spread_word(a); }
  static Vec add_product(Vec sum, __m512i a, __m512i b) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)}; }
};
using Half = bf16;  // what bfloat16 inputs are computed in
#else
using Half = float;
#endif

#if defined(__AVX512VNNI__)
template <>
struct Element<uint8_t> {
  using Factor = int8_t;
  using Number = int32_t;
  using Sum = __m512i;
  static constexpr int64_t step = 4;
  static __m512i start(const int32_t* from) { return _mm512_loadu_si512(from); }
  static __m512i nothing() { return _mm512_setzero_si512(); }
  static __m512i load(const int8_t* b) { return _mm512_loadu_si512(b); }
  static __m512i spread(const uint8_t* a) { return spread_word(a); }
  static __m512i add_product(__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
  static void store(__m512i sum, int32_t* c) { _mm512_storeu_si512(c, sum); }
};
#endif

// A tile of one element type. `start` [R, PANEL] may be null, or c itself; with a stride of 0 all rows have one start.
template <class E>
using Tile = void (*)(const E* a, int64_t a_stride, const typename Element<E>::Factor* b, int64_t k,
                      const typename Element<E>::Number* start, int64_t start_stride, typename Element<E>::Number* c,
                      int64_t c_stride);

template <int R, class E>
void tile_of(const E* a, int64_t a_stride, const typename Element<E>::Factor* b, int64_t k,
             const typename Element<E>::Number* start, int64_t start_stride, typename Element<E>::Number* c,
             int64_t c_stride) {
  using X = Element<E>;
  typename X::Sum sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    sums[r][0] = start == nullptr ? X::nothing() : X::start(start + r * start_stride);
    sums[r][1] = start == nullptr ? X::nothing() : X::start(start + r * start_stride + Vec::size);
  }
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
    X::store(sums[r][0], c + r * c_stride);
    X::store(sums[r][1], c + r * c_stride + Vec::size);
  }
}

template <class E, int... R>
Tile<E> tile_among(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile<E> tiles[] = {tile_of<R + 1, E>...};
  return tiles[rows - 1];
}

// The tile of 1 … MOST_ROWS rows.
template <class E>
Tile<E> tile(int rows) {
  return tile_among<E>(rows, std::make_integer_sequence<int, MOST_ROWS>());
}

}  // namespace inlay
