// The nonlinear step between the two products of a layer's second half.
#include "math.h"
#include "product.h"
#include "program.h"

using namespace inlay;

// x [rows, 2 · width]: out = silu(first half) · second half (Shazeer 2020).
INLAY_EXPORT int32_t inlay_silu_product(int64_t rows, int64_t width, const Input* in, void* out, int64_t out_stride,
                                        float* out_scales, const float* multipliers, int32_t zero_point,
                                        int32_t out_dtype) {
  return perform([=, in = *in] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    each_row(in, rows, [&](int64_t row, const Values& values) {
      float* place = to.place(row);
      Vec scale = Vec::all(values.scale);
      with_row(values, [&](auto* from) {
        each_vector(width, [&](int64_t i, int n) {
          (silu(Vec::load(from + i, n) * scale) * (Vec::load(from + width + i, n) * scale)).store(place + i, n);
        });
      });
      to.finish(row, place);
    });
  });
}

namespace {

template <class F>
void activate(int64_t rows, int64_t width, const Input& in, const float* bias, const Output& to, F function) {
  each_row(in, rows, [&](int64_t row, const Values& values) {
    float* place = to.place(row);
    Vec scale = Vec::all(values.scale);
    with_row(values, [&](auto* from) {
      each_vector(width, [&](int64_t i, int n) {
        Vec sum = Vec::load(from + i, n) * scale;
        if (bias != nullptr) sum = sum + Vec::load(bias + i, n);
        function(sum).store(place + i, n);
      });
    });
    to.finish(row, place);
  });
}

}  // namespace

// out = function(x + bias); functions: 0 none, 1 gelu, 2 gelu by tanh, 3 relu.
INLAY_EXPORT int32_t inlay_activate(int64_t rows, int64_t width, const Input* in, const float* bias, int32_t function,
                                    void* out, int64_t out_stride, float* out_scales, const float* multipliers,
                                    int32_t zero_point, int32_t out_dtype) {
  return perform([=, in = *in] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    switch (function) {
      case 1:
        return activate(rows, width, in, bias, to, gelu);
      case 2:
        return activate(rows, width, in, bias, to, gelu_tanh);
      case 3:
        return activate(rows, width, in, bias, to, relu);
      default:
        return activate(rows, width, in, bias, to, [](Vec x) { return x; });
    }
  });
}
