// Rows in, rows out: dtypes as the caller names them, threads that are torch's own, and the write of a finished row.
#pragma once
#include <atomic>
#include <vector>

#include "simd.h"

#define INLAY_EXPORT extern "C" __attribute__((visibility("default")))

namespace inlay {

enum Dtype : int32_t { FLOAT32 = 0, BFLOAT16 = 1, BYTES = 2 };

using Body = void (*)(int64_t begin, int64_t end, void* context);
// torch_parallel_for of torch's stable C interface; set once, when the library is loaded.
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);
extern ParallelFor parallel_for;
extern int64_t num_threads;

constexpr int64_t GRAIN = 1 << 14;  // elements below which a thread is not worth waking

// Calls f(row) for every row, on torch's threads.
template <class F>
void each_row(int64_t rows, int64_t width, F f) {
  auto body = [](int64_t begin, int64_t end, void* context) {
    F& call = *static_cast<F*>(context);
    for (int64_t row = begin; row < end; ++row) call(row);
  };
  if (rows * width <= GRAIN) return body(0, rows, &f);
  parallel_for(0, rows, std::max<int64_t>(1, GRAIN / width), body, &f);
}

// Memory of this thread that lasts from call to call.
inline float* scratch(size_t floats) {
  thread_local std::vector<float> memory;
  if (memory.size() < floats) memory.resize(floats);
  return memory.data();
}

// Where finished rows go. A row is computed in float32 in `place` and then written by `finish`.
struct Output {
  void* data;
  float* scales;             // [rows], for BYTES: value · multiplier = (byte − 128) · scale
  const float* multipliers;  // [width] or null; for BYTES alone
  int64_t width;
  Dtype dtype;

  float* place(int64_t row) const {
    return dtype == FLOAT32 ? static_cast<float*>(data) + row * width : scratch(width);
  }
  void finish(int64_t row, const float* from) const {
    if (dtype == BFLOAT16) {
      bf16* to = static_cast<bf16*>(data) + row * width;
      each_vector(width, [&](int64_t i, int n) { Vec::load(from + i, n).store(to + i, n); });
    } else if (dtype == BYTES) {
      quantise(row, from);
    }
  }
  void quantise(int64_t row, const float* from) const {
    auto value = [&](int64_t i, int n) {
      Vec x = Vec::load(from + i, n);
      return multipliers == nullptr ? x : x * Vec::load(multipliers + i, n);
    };
    Vec most = Vec::all(0.0f);
    each_vector(width, [&](int64_t i, int n) { most = max(most, abs(value(i, n))); });
    float largest = most.max();
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    scales[row] = largest / 127.0f;
    uint8_t* to = static_cast<uint8_t*>(data) + row * width;
    each_vector(width, [&](int64_t i, int n) { (value(i, n) * Vec::all(inverse)).store_bytes(to + i, n); });
  }
};

// Rows that come from a product: value · scale of the row, where there are scales.
struct Input {
  const void* data;
  const float* scales;  // [rows] or null
  int64_t stride;
  Dtype dtype;

  float scale(int64_t row) const { return scales == nullptr ? 1.0f : scales[row]; }
};

// Calls f with a typed pointer to the row.
template <class F>
inline void with_row(const Input& in, int64_t row, F f) {
  if (in.dtype == BFLOAT16) f(static_cast<const bf16*>(in.data) + row * in.stride);
  else f(static_cast<const float*>(in.data) + row * in.stride);
}

}  // namespace inlay
