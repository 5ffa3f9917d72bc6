// The nonlinear step between the two products of a layer's second half.
#include "math.h"
#include "rows.h"

using namespace inlay;

// x [rows, 2 · width]: out = silu(first half) · second half (Shazeer 2020).
INLAY_EXPORT void inlay_silu_product(int64_t rows, int64_t width, const void* x, const float* scales, int32_t dtype,
                                     void* out, float* out_scales, const float* multipliers, int32_t out_dtype) {
  Input in{x, scales, 2 * width, static_cast<Dtype>(dtype)};
  Output to{out, out_scales, multipliers, width, static_cast<Dtype>(out_dtype)};
  each_row(rows, width, [&](int64_t row) {
    float* place = to.place(row);
    Vec scale = Vec::all(in.scale(row));
    with_row(in, row, [&](auto* from) {
      each_vector(width, [&](int64_t i, int n) {
        (silu(Vec::load(from + i, n) * scale) * (Vec::load(from + width + i, n) * scale)).store(place + i, n);
      });
    });
    to.finish(row, place);
  });
}

namespace {

template <class F>
void activate(int64_t rows, int64_t width, const Input& in, const float* bias, const Output& to, F function) {
  each_row(rows, width, [&](int64_t row) {
    float* place = to.place(row);
    Vec scale = Vec::all(in.scale(row));
    with_row(in, row, [&](auto* from) {
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
INLAY_EXPORT void inlay_activate(int64_t rows, int64_t width, const void* x, const float* scales, int32_t dtype,
                                 const float* bias, int32_t function, void* out, float* out_scales, const float* multipliers, int32_t out_dtype) {
  Input in{x, scales, width, static_cast<Dtype>(dtype)};
  Output to{out, out_scales, multipliers, width, static_cast<Dtype>(out_dtype)};
  switch (function) {
    case 1: return activate(rows, width, in, bias, to, gelu);
    case 2: return activate(rows, width, in, bias, to, gelu_tanh);
    case 3: return activate(rows, width, in, bias, to, relu);
    default: return activate(rows, width, in, bias, to, [](Vec x) { return x; });
  }
}
