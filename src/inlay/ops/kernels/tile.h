// A small product kept in registers: c [R, PANEL] = start + a [R, k] · b [k, PANEL], with b packed for it.
//
// b is [k / step][PANEL][step]: `step` neighbours along k lie together in a word of 32 bits: 1 float, 2 of bfloat16, or
// 4 bytes (a unsigned, b signed). An element says how words are multiplied and added to one sum, in one or several
// parts. Sums are floats, of bytes 32-bit integers. The sum over k has one order, whatever R is and in how many calls k
// is summed up.
#pragma once
#include <utility>

#include "element.h"

namespace inlay {

constexpr int64_t PANEL = 2 * Vec::size;
#if defined(INLAY_512_BITS) || defined(__aarch64__)
constexpr int MOST_ROWS = 12;  // 24 of 32 registers hold sums
#else
constexpr int MOST_ROWS = 6;  // 12 of 16
#endif

// As few tiles as possible, of nearly the same size.
inline int rows_at_once(int64_t left) {
  int64_t tiles = (left + MOST_ROWS - 1) / MOST_ROWS;
  return static_cast<int>((left + tiles - 1) / tiles);
}

// A tile of one element type. `start` [R, PANEL] may be null, or c itself; with a stride of 0 all rows have one start.
template <class X>
using Tile = void (*)(const typename X::Row* a, int64_t a_stride, const typename X::Factor* b, int64_t k,
                      const typename X::Number* start, int64_t start_stride, typename X::Number* c, int64_t c_stride);

// One part of a step along k.
template <int R, class X, int part>
inline void add_part(typename X::Sum (&sums)[R][2], const typename X::Row* a, int64_t a_stride,
                     const typename X::Factor* b) {
  auto left = X::template load<part>(b), right = X::template load<part>(b + Vec::size * X::step);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    auto x = X::template spread<part>(a + r * a_stride);
    sums[r][0] = X::add_product(sums[r][0], x, left);
    sums[r][1] = X::add_product(sums[r][1], x, right);
  }
}

template <int R, class X>
void tile_of(const typename X::Row* a, int64_t a_stride, const typename X::Factor* b, int64_t k,
             const typename X::Number* start, int64_t start_stride, typename X::Number* c, int64_t c_stride) {
  typename X::Sum sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    sums[r][0] = start == nullptr ? X::nothing() : X::start(start + r * start_stride);
    sums[r][1] = start == nullptr ? X::nothing() : X::start(start + r * start_stride + Vec::size);
  }
  for (int64_t i = 0; i < k; i += X::step, b += PANEL * X::step) {
    add_part<R, X, 0>(sums, a + i, a_stride, b);
    if constexpr (X::parts == 2) add_part<R, X, 1>(sums, a + i, a_stride, b);
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    X::store(sums[r][0], c + r * c_stride);
    X::store(sums[r][1], c + r * c_stride + Vec::size);
  }
}

template <class X, int... R>
Tile<X> tile_among(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile<X> tiles[] = {tile_of<R + 1, X>...};
  return tiles[rows - 1];
}

// The tile of 1 … MOST_ROWS rows.
template <class X>
Tile<X> tile(int rows) {
  return tile_among<X>(rows, std::make_integer_sequence<int, MOST_ROWS>());
}

}  // namespace inlay
