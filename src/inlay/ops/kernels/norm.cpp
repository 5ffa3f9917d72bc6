// Residual sums with the normalisation that follows them, in one pass over the row.
#include "rows.h"

namespace inlay {
namespace {

// hidden += delta (· scale) (+ bias), in place.
void add(float* hidden, const Input& delta, int64_t row, const float* bias, int64_t width) {
  Vec scale = Vec::all(delta.scale(row));
  with_row(delta, row, [&](auto* from) {
    each_vector(width, [&](int64_t i, int n) {
      Vec sum = fma(Vec::load(from + i, n), scale, Vec::load(hidden + i, n));
      if (bias != nullptr) sum = sum + Vec::load(bias + i, n);
      sum.store(hidden + i, n);
    });
  });
}

float sum_of_squares(const float* x, float mean, int64_t width) {
  Vec total = Vec::all(0.0f);
  each_vector(width, [&](int64_t i, int n) {
    Vec centred = (Vec::load(x + i, n) - Vec::all(mean)).keep(n, 0.0f);
    total = fma(centred, centred, total);
  });
  return total.sum();
}

float mean_of(const float* x, int64_t width) {
  Vec total = Vec::all(0.0f);
  each_vector(width, [&](int64_t i, int n) { total = total + Vec::load(x + i, n); });
  return total.sum() / static_cast<float>(width);
}

}  // namespace
}  // namespace inlay

using namespace inlay;

// hidden [rows, width] += delta (where there is one); out = hidden / √(mean(hidden²) + eps) · weight.
INLAY_EXPORT void inlay_add_rms_norm(int64_t rows, int64_t width, float* hidden, const void* delta, const float* scales,
                                     int32_t delta_dtype, const float* weight, float eps, void* out, float* out_scales, const float* multipliers,
                                     int32_t out_dtype) {
  Input in{delta, scales, width, static_cast<Dtype>(delta_dtype)};
  Output to{out, out_scales, multipliers, width, static_cast<Dtype>(out_dtype)};
  each_row(rows, width, [&](int64_t row) {
    float* x = hidden + row * width;
    if (delta != nullptr) add(x, in, row, nullptr, width);
    Vec factor = Vec::all(1.0f / std::sqrt(sum_of_squares(x, 0.0f, width) / static_cast<float>(width) + eps));
    float* place = to.place(row);
    each_vector(width, [&](int64_t i, int n) {
      (Vec::load(x + i, n) * factor * Vec::load(weight + i, n)).store(place + i, n);
    });
    to.finish(row, place);
  });
}

// hidden [rows, width] = layer norm of (hidden + delta + delta_bias), in float32, and the same in the dtype of out.
INLAY_EXPORT void inlay_add_layer_norm(int64_t rows, int64_t width, float* hidden, const void* delta,
                                       const float* scales, int32_t delta_dtype, const float* delta_bias,
                                       const float* weight, const float* bias, float eps, void* out, float* out_scales, const float* multipliers,
                                       int32_t out_dtype) {
  Input in{delta, scales, width, static_cast<Dtype>(delta_dtype)};
  Output to{out, out_scales, multipliers, width, static_cast<Dtype>(out_dtype)};
  each_row(rows, width, [&](int64_t row) {
    float* x = hidden + row * width;
    if (delta != nullptr) add(x, in, row, delta_bias, width);
    float mean = mean_of(x, width);
    Vec factor = Vec::all(1.0f / std::sqrt(sum_of_squares(x, mean, width) / static_cast<float>(width) + eps));
    each_vector(width, [&](int64_t i, int n) {
      Vec centred = (Vec::load(x + i, n) - Vec::all(mean)) * factor;
      fma(centred, Vec::load(weight + i, n), Vec::load(bias + i, n)).store(x + i, n);
    });
    if (to.dtype != FLOAT32) to.finish(row, x);
  });
}

// out = x, in another dtype.
INLAY_EXPORT void inlay_convert(int64_t rows, int64_t width, const void* x, int32_t dtype, void* out, float* out_scales, const float* multipliers,
                                int32_t out_dtype) {
  Input in{x, nullptr, width, static_cast<Dtype>(dtype)};
  Output to{out, out_scales, multipliers, width, static_cast<Dtype>(out_dtype)};
  each_row(rows, width, [&](int64_t row) {
    float* place = to.place(row);
    with_row(in, row, [&](auto* from) {
      each_vector(width, [&](int64_t i, int n) { Vec::load(from + i, n).store(place + i, n); });
    });
    to.finish(row, place);
  });
}
