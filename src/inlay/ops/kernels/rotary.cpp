// What stands between a layer's first product and attention in Qwen3: a norm of each head, then its rotation.
#include "product.h"
#include "program.h"

namespace inlay {
namespace {

template <class S, class T>
void norm_and_rotate(const S* head, T* to, int64_t width, float scale, const float* weight, float eps,
                     const float* cosines, const float* sines) {
  int64_t half = width / 2;
  Vec factor = Vec::all(scale);
  Vec total = Vec::all(0.0f);
  each_vector(width, [&](int64_t i, int n) {
    Vec x = (Vec::load(head + i, n) * factor).keep(n, 0.0f);
    total = fma(x, x, total);
  });
  factor = factor * Vec::all(1.0f / std::sqrt(total.sum() / static_cast<float>(width) + eps));
  each_vector(half, [&](int64_t i, int n) {
    Vec first = Vec::load(head + i, n) * factor * Vec::load(weight + i, n);
    Vec second = Vec::load(head + half + i, n) * factor * Vec::load(weight + half + i, n);
    Vec cosine = Vec::load(cosines + i, n), sine = Vec::load(sines + i, n);
    (first * cosine - second * sine).store(to + i, n);
    (second * cosine + first * sine).store(to + half + i, n);
  });
}

struct Heads {
  int64_t heads, kv_heads, width;
  const float *q_weight, *k_weight;
  float eps;
  const float *cosines, *sines;  // [positions, width / 2]
  const int64_t* positions;      // [rows]
};

template <class T>
void run(const Heads& h, int64_t rows, const Input& in, T* out) {
  int64_t stride = (h.heads + 2 * h.kv_heads) * h.width;
  each_row(in, rows, [&](int64_t row, const Values& values) {
    const float* cosine = h.cosines + h.positions[row] * (h.width / 2);
    const float* sine = h.sines + h.positions[row] * (h.width / 2);
    with_row(values, [&](auto* from) {
      T* to = out + row * stride;
      for (int64_t head = 0; head < h.heads + h.kv_heads; ++head, from += h.width, to += h.width)
        norm_and_rotate(from, to, h.width, values.scale, head < h.heads ? h.q_weight : h.k_weight, h.eps, cosine, sine);
      Vec scale = Vec::all(values.scale);
      each_vector(h.kv_heads * h.width, [&](int64_t i, int n) { (Vec::load(from + i, n) * scale).store(to + i, n); });
    });
  });
}

}  // namespace
}  // namespace inlay

using namespace inlay;

// qkv [rows, (heads + 2 · kv_heads) · width]: scaled; queries and keys normalised by head and rotated. out may be qkv.
INLAY_EXPORT int32_t inlay_rotate_heads(int64_t rows, int64_t heads, int64_t kv_heads, int64_t width, const Input* in,
                                        const float* q_weight, const float* k_weight, float eps, const float* cosines,
                                        const float* sines, const int64_t* positions, void* out, int32_t out_dtype) {
  return perform([=, in = *in] {
    Heads h{heads, kv_heads, width, q_weight, k_weight, eps, cosines, sines, positions};
    if (out_dtype == BFLOAT16) run(h, rows, in, static_cast<bf16*>(out));
    else run(h, rows, in, static_cast<float*>(out));
  });
}
