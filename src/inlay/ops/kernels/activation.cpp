// The nonlinear step between the two products of a layer's second half.
#include "math.h"
#include "product.h"
#include "program.h"

using namespace inlay;

namespace {

template <class F>
void multiply_by_gate(int64_t rows, int64_t width, const Input& in, bool is_gate_first, const Output& to, F function) {
  int64_t gate = is_gate_first ? 0 : width, up = width - gate;
  each_row(in, rows, [&](int64_t row, const Values& values) {
    float* place = to.place(row);
    Vec scale = Vec::all(values.scale);
    with_row(values, [&](auto* from) {
      each_vector(width, [&](int64_t i, int n) {
        (function(Vec::load(from + gate + i, n) * scale) * (Vec::load(from + up + i, n) * scale)).store(place + i, n);
      });
    });
    to.finish(row, place);
  });
}

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

// The numbers of functions, here and in `ops.activation`: 0 none, 1 gelu, 2 gelu by tanh, 3 relu, 4 silu.

// x [rows, 2 · width]: out = function(gate) · up, its halves; as in SwiGLU and GEGLU (Shazeer 2020).
INLAY_EXPORT int32_t inlay_gated_product(int64_t rows, int64_t width, const Input* in, int32_t function,
                                         int32_t is_gate_first, void* out, int64_t out_stride, float* out_scales,
                                         const float* multipliers, int32_t zero_point, int32_t out_dtype) {
  return perform([=, in = *in] {
    Output to{out, out_stride, out_scales, multipliers, width, zero_point, static_cast<Dtype>(out_dtype)};
    switch (function) {
      case 1:
        return multiply_by_gate(rows, width, in, is_gate_first != 0, to, gelu);
      case 2:
        return multiply_by_gate(rows, width, in, is_gate_first != 0, to, gelu_tanh);
      case 3:
        return multiply_by_gate(rows, width, in, is_gate_first != 0, to, relu);
      default:
        return multiply_by_gate(rows, width, in, is_gate_first != 0, to, silu);
    }
  });
}

// out = function(x + bias).
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
      case 4:
        return activate(rows, width, in, bias, to, silu);
      default:
        return activate(rows, width, in, bias, to, [](Vec x) { return x; });
    }
  });
}
