// Residual sums with the normalisation that follows them, in one pass over the row.
#include "product.h"
#include "program.h"

namespace inlay {
namespace {

// hidden += delta (· scale) (+ bias), in place.
void add(float* hidden, const Values& delta, const float* bias, int64_t width) {
  Vec scale = Vec::all(delta.scale);
  with_row(delta, [&](auto* from) {
    each_vector(width, [&](int64_t i, int n) {
      Vec sum = fma(Vec::load(from + i, n), scale, Vec::load(hidden + i, n));
      if (bias != nullptr) sum = sum + Vec::load(bias + i, n);
      sum.store(hidden + i, n);
    });
  });
}

// Calls f(row) for every row, with the delta added to it, where there is one.
template <class F>
void each_sum(int64_t rows, int64_t width, float* hidden, const std::optional<Input>& delta, const float* bias, F f) {
  if (!delta) return each_row(rows, width, f);
  each_row(*delta, rows, [&](int64_t row, const Values& values) {
    add(hidden + row * width, values, bias, width);
    f(row);
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

// hidden [rows, width] += delta + delta_bias (where there are any); out = hidden / √(mean(hidden²) + eps) · weight.
INLAY_EXPORT int32_t inlay_add_rms_norm(int64_t rows, int64_t width, float* hidden, const Input* delta,
                                        const float* delta_bias, const float* weight, float eps, void* out,
                                        int64_t out_stride, float* out_scales, const float* multipliers,
                                        int32_t zero_point, int32_t out_dtype) {
  return perform([=, delta = own(delta)] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    each_sum(rows, width, hidden, delta, delta_bias, [&](int64_t row) {
      const float* x = hidden + row * width;
      Vec factor = Vec::all(1.0f / std::sqrt(sum_of_squares(x, 0.0f, width) / static_cast<float>(width) + eps));
      float* place = to.place(row);
      each_vector(width, [&](int64_t i, int n) {
        (Vec::load(x + i, n) * factor * Vec::load(weight + i, n)).store(place + i, n);
      });
      to.finish(row, place);
    });
  });
}

// out = layer norm of x = hidden [rows, width] + delta + delta_bias; hidden becomes x, or the norm in float32.
INLAY_EXPORT int32_t inlay_add_layer_norm(int64_t rows, int64_t width, float* hidden, const Input* delta,
                                          const float* delta_bias, const float* weight, const float* bias, float eps,
                                          int32_t keeps_sum, void* out, int64_t out_stride, float* out_scales,
                                          const float* multipliers, int32_t zero_point, int32_t out_dtype) {
  return perform([=, delta = own(delta)] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    each_sum(rows, width, hidden, delta, delta_bias, [&](int64_t row) {
      float* x = hidden + row * width;
      float mean = mean_of(x, width);
      Vec factor = Vec::all(1.0f / std::sqrt(sum_of_squares(x, mean, width) / static_cast<float>(width) + eps));
      float* place = keeps_sum != 0 ? to.place(row) : x;
      each_vector(width, [&](int64_t i, int n) {
        Vec centred = (Vec::load(x + i, n) - Vec::all(mean)) * factor;
        fma(centred, Vec::load(weight + i, n), Vec::load(bias + i, n)).store(place + i, n);
      });
      if (keeps_sum != 0 || to.dtype != FLOAT32) to.finish(row, place);
    });
  });
}

// out = x, in another dtype.
INLAY_EXPORT int32_t inlay_convert(int64_t rows, int64_t width, const Input* in, void* out, int64_t out_stride,
                                   float* out_scales, const float* multipliers, int32_t zero_point, int32_t out_dtype) {
  return perform([=, in = *in] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    each_row(in, rows, [&](int64_t row, const Values& values) {
      float* place = to.place(row);
      with_row(values, [&](auto* from) {
        each_vector(width, [&](int64_t i, int n) { Vec::load(from + i, n).store(place + i, n); });
      });
      to.finish(row, place);
    });
  });
}
