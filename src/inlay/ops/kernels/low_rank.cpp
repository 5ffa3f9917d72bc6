// What an adapter adds to a product: two small matrices, one behind the other, for rows that are there.
#include "program.h"

using namespace inlay;

namespace {

constexpr int ROWS = 8;  // at a time: so often is a factor used that was loaded

struct Middle;
struct Given;

// A [width, stride], of which `rank` columns are used, and B [rank, width_out].
struct Factors {
  const void* a;
  const void* b;
  int64_t rank;
  int64_t stride;  // whole vectors of every build
  Dtype dtype;
};

// Columns of a product's rows, each number for value · scale of the row.
struct Target {
  void* data;
  int64_t stride;  // from row to row
  int64_t width;
  const float* scales;   // [rows] or null
  const float* columns;  // [width] or null: times the sum
  const float* shift;    // [width] or null: behind that
};

// z [count, stride] = x A, in the order of x's columns.
template <class F>
void multiply_a(const float* const* x, int64_t width, int count, const F* a, int64_t stride, float* z) {
  for (int64_t j = 0; j < stride; j += Vec::size) {
    Vec sums[ROWS];
    for (Vec& sum : sums) sum = Vec::all(0.0f);
    if (count == ROWS) {
      for (int64_t k = 0; k < width; ++k) {
        Vec factor = Vec::load(a + k * stride + j);
        for (int row = 0; row < ROWS; ++row) sums[row] = fma(Vec::all(x[row][k]), factor, sums[row]);
      }
    } else {
      for (int row = 0; row < count; ++row)
        for (int64_t k = 0; k < width; ++k)
          sums[row] = fma(Vec::all(x[row][k]), Vec::load(a + k * stride + j), sums[row]);
    }
    for (int row = 0; row < count; ++row) sums[row].store(z + row * stride + j);
  }
}

// y [count, width] += z B; then scaled and shifted.
template <class F, class T>
void add_b(const float* z, int count, const F* b, const Factors& factors, const Target& to, T* const* y) {
  each_vector(to.width, [&](int64_t i, int n) {
    Vec sums[ROWS];
    for (int row = 0; row < count; ++row) sums[row] = Vec::load(y[row] + i, n);
    for (int64_t j = 0; j < factors.rank; ++j) {
      Vec factor = Vec::load(b + j * to.width + i, n);
      for (int row = 0; row < count; ++row)
        sums[row] = fma(Vec::all(z[row * factors.stride + j]), factor, sums[row]);
    }
    for (int row = 0; row < count; ++row) {
      Vec sum = sums[row];
      if (to.columns != nullptr) sum = sum * Vec::load(to.columns + i, n);
      if (to.shift != nullptr) sum = sum + Vec::load(to.shift + i, n);
      sum.store(y[row] + i, n);
    }
  });
}

template <class F, class T>
void add_rows(const Input& in, const Factors& factors, const Target& to, int64_t first, int count) {
  float* z = scratch<Middle>(ROWS * factors.stride);
  float* given = in.dtype == FLOAT32 ? nullptr : scratch<Given>(ROWS * in.width);
  const float* x[ROWS];
  T* y[ROWS];
  for (int row = 0; row < count; ++row) {
    const void* from = in.at(first + row);
    if (in.dtype == BFLOAT16) {
      float* place = given + row * in.width;
      each_vector(in.width, [&](int64_t i, int n) {
        Vec::load(static_cast<const bf16*>(from) + i, n).store(place + i, n);
      });
      from = place;
    }
    x[row] = static_cast<const float*>(from);
    y[row] = static_cast<T*>(to.data) + (first + row) * to.stride;
  }
  multiply_a(x, in.width, count, static_cast<const F*>(factors.a), factors.stride, z);
  if (to.scales != nullptr) {
    for (int row = 0; row < count; ++row) {
      float scale = to.scales[first + row], inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
      for (int64_t j = 0; j < factors.rank; ++j) z[row * factors.stride + j] *= inverse;
    }
  }
  add_b(z, count, static_cast<const F*>(factors.b), factors, to, y);
}

}  // namespace

// y [rows, width_out] = ((y · scales + (x A) B) · columns + shift) / scales, in place; the factors in a dtype of floats.
INLAY_EXPORT int32_t inlay_add_low_rank(int64_t rows, const Input* in, const void* a, const void* b, int64_t rank,
                                        int64_t rank_stride, int32_t factor_dtype, void* y, int64_t y_stride,
                                        int64_t width_out, const float* scales, const float* columns,
                                        const float* shift, int32_t y_dtype) {
  return perform([=, in = *in] {
    if (in.panels != nullptr || in.dtype == BYTES) throw Failure{FAILED};
    Factors factors{a, b, rank, rank_stride, static_cast<Dtype>(factor_dtype)};
    Target to{y, y_stride, width_out, scales, columns, shift};
    auto add = factor_dtype == BFLOAT16 ? (y_dtype == BFLOAT16 ? add_rows<bf16, bf16> : add_rows<bf16, float>)
                                        : (y_dtype == BFLOAT16 ? add_rows<float, bf16> : add_rows<float, float>);
    auto task = [&](int64_t index) {
      int64_t first = index * ROWS;
      add(in, factors, to, first, static_cast<int>(std::min<int64_t>(ROWS, rows - first)));
    };
    each_task((rows + ROWS - 1) / ROWS, task);
  });
}
