// Rows in, rows out: dtypes as the caller names them, rows as tasks of threads, and the write of a finished row.
#pragma once
#include <atomic>
#include <new>
#include <vector>

#include "simd.h"
#include "threads.h"

#define INLAY_EXPORT extern "C" __attribute__((visibility("default")))

namespace inlay {

enum Dtype : int32_t { FLOAT32 = 0, BFLOAT16 = 1, BYTES = 2 };

constexpr int64_t GRAIN = 1 << 12;  // elements of a task, at the least

// What a call of the library returns: the rows that it was to write are only there after DONE.
enum Status : int32_t { DONE = 0, OUT_OF_MEMORY = 1, FAILED = 2, OUT_OF_RANGE = 3 };

struct Failure {
  Status status;
};

// Runs f; nothing is thrown through it, as neither ctypes nor torch's threads can pass it on.
template <class F>
Status guarded(F&& f) {
  try {
    f();
    return DONE;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  } catch (...) {
    return FAILED;
  }
}

// Calls f(index) for 0 … count − 1, shared out among threads; throws on this one what any of them has thrown.
template <class F>
void each_task(int64_t count, F& f) {
  struct Shared {
    F& call;
    std::atomic<int32_t> status{DONE};
  } shared{f};
  auto task = [](int64_t index, void* context) {
    Shared& own = *static_cast<Shared*>(context);
    if (own.status.load(std::memory_order_relaxed) != DONE) return;
    Status status = guarded([&] { own.call(index); });
    if (status != DONE) own.status = status;
  };
  run_tasks(count, task, &shared);
  if (shared.status != DONE) throw Failure{static_cast<Status>(shared.status.load())};
}

// Calls f(row) for every row, some of them at a time.
template <class F>
void each_row(int64_t rows, int64_t width, F f) {
  int64_t fewest = std::max<int64_t>(GRAIN / std::max<int64_t>(width, 1), 1);
  int64_t count = std::max(fewest, rows / (4 * num_threads()));
  auto task = [&](int64_t index) {
    int64_t end = std::min(rows, (index + 1) * count);
    for (int64_t row = index * count; row < end; ++row) f(row);
  };
  each_task((rows + count - 1) / count, task);
}

// Memory of this thread that lasts from call to call, until `inlay_release_memory`.
struct Released {
  virtual void release() = 0;
};
std::vector<Released*>& kept_of_thread();

template <class T>
struct Kept final : Released {
  std::vector<T> memory;

  Kept() { kept_of_thread().push_back(this); }
  void release() override { std::vector<T>().swap(memory); }
  T* grown(size_t size) {
    if (memory.size() < size) {
      release();  // what it has is of no use to this call
      memory.resize(size);
    }
    return memory.data();
  }
};

template <class Use>
float* scratch(size_t floats) {
  thread_local Kept<float> kept;
  return kept.grown(floats);
}

// Where finished rows go. A row is computed in float32 in `place` and then written by `finish`.
struct Output {
  void* data;
  int64_t stride;            // from row to row
  float* scales;             // [rows], for BYTES: value · multiplier = (byte − zero point) · scale
  const float* multipliers;  // [width] or null; for BYTES alone
  int64_t width;
  int32_t zero_point;  // the byte that stands for 0
  Dtype dtype;

  float* place(int64_t row) const {
    return dtype == FLOAT32 ? static_cast<float*>(data) + row * stride : scratch<Output>(width);
  }
  void finish(int64_t row, const float* from) const {
    if (dtype == BFLOAT16) {
      bf16* to = static_cast<bf16*>(data) + row * stride;
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
    Vec above = Vec::all(0.0f), below = Vec::all(0.0f), nothing = Vec::all(0.0f);
    each_vector(width, [&](int64_t i, int n) {
      Vec x = value(i, n);
      above = max(above, x);
      below = max(below, Vec::all(0.0f) - x);
      nothing = fma(x, Vec::all(0.0f), nothing);  // NaN for a row that is not finite, which bytes cannot say
    });
    float scale =
        std::max(above.max() / static_cast<float>(255 - zero_point), below.max() / static_cast<float>(zero_point - 1));
    scale += nothing.sum();
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    scales[row] = scale;
    uint8_t* to = static_cast<uint8_t*>(data) + row * stride;
    each_vector(width, [&](int64_t i, int n) { (value(i, n) * Vec::all(inverse)).store_bytes(to + i, zero_point, n); });
  }
};

// A row that is there: each number stands for number · scale.
struct Values {
  const void* data;
  float scale;
  Dtype dtype;
};

// Rows that come in: as they are or, with panels, as a product that is still to be computed (see product.h).
struct Input {
  const void* data;     // [rows, width]
  int64_t stride;       // from row to row
  const float* scales;  // [rows] or null
  int64_t width;
  int64_t width_out;      // of the product
  const void* panels;     // null: the rows are there
  const int32_t* starts;  // [width_out] of bytes: what sums begin with
  const float* channels;  // [width_out] of bytes: scales
  Dtype dtype;            // of the rows
  Dtype panel_dtype;      // of the weight: the same, or bfloat16 where the rows are floats

  float scale(int64_t row) const { return scales == nullptr ? 1.0f : scales[row]; }
  const void* at(int64_t row) const {
    constexpr int64_t sizes[] = {sizeof(float), sizeof(bf16), sizeof(uint8_t)};
    return static_cast<const uint8_t*>(data) + row * stride * sizes[dtype];
  }
};

// Calls f with a typed pointer to the row.
template <class F>
inline void with_row(const Values& row, F f) {
  if (row.dtype == BFLOAT16) f(static_cast<const bf16*>(row.data));
  else f(static_cast<const float*>(row.data));
}

}  // namespace inlay
