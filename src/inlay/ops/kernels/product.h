// Rows of a product, computed where they are used: what follows them reads sums that are still in the cache.
//
// The weight lies in panels of PANEL outputs, each [in / step][PANEL][step] as a tile wants it. Many rows are shared
// out among the threads in blocks: a thread computes a block and goes on with it. With few rows, or a weight that no
// cache holds, the threads share out the panels first and the rows then. Sums stay floats, so both give the same bits.
#pragma once
#include "rows.h"
#include "tile.h"

namespace inlay {

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline int64_t num_panels(const Input& in) { return (in.width_out + PANEL - 1) / PANEL; }
// Floats from a row of sums to the next: an odd number of lines, or the rows of a tile would share one set of the
// cache.
inline int64_t sums_stride(const Input& in) { return num_panels(in) * PANEL + Vec::size; }

// Rows [first, first + rows) of the product, panels [begin, end), into to [rows, sums_stride]; panel 0 begins at to.
void multiply(const Input& in, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to);
// All of those rows, on all threads.
void multiply_together(const Input& in, int64_t first, int64_t rows, float* to);
// Rows of a block; 0 where a product is better computed together.
int64_t block_rows(const Input& in, int64_t rows);

constexpr int64_t MOST_SUMS = 1 << 22;  // floats that are computed together

template <class F>
void each_row_in_blocks(const Input& in, int64_t rows, int64_t block, F f) {
  int64_t stride = sums_stride(in);
  auto task = [&](int64_t index) {
    int64_t first = index * block, count = std::min(block, rows - first);
    float* sums = scratch<Input>(block * stride);
    multiply(in, first, count, 0, num_panels(in), sums);
    for (int64_t row = 0; row < count; ++row)
      f(first + row, Values{sums + row * stride, in.scale(first + row), FLOAT32});
  };
  each_task((rows + block - 1) / block, task);
}

// Calls f(row, values) for every row.
template <class F>
void each_row(const Input& in, int64_t rows, F f) {
  if (in.panels == nullptr)
    return each_row(rows, in.width, [&](int64_t row) { f(row, Values{in.at(row), in.scale(row), in.dtype}); });
  if (int64_t block = block_rows(in, rows)) return each_row_in_blocks(in, rows, block, f);
  int64_t stride = sums_stride(in), at_once = std::max<int64_t>(MOST_SUMS / stride, 1);
  for (int64_t first = 0; first < rows; first += at_once) {
    int64_t count = std::min(at_once, rows - first);
    float* sums = scratch<Input>(count * stride);
    multiply_together(in, first, count, sums);
    each_row(count, in.width_out,
             [&](int64_t row) { f(first + row, Values{sums + row * stride, in.scale(first + row), FLOAT32}); });
  }
}

}  // namespace inlay
