// What stands between a layer's first product and attention in Qwen3: a norm of each head, then its rotation.
#include "rows.h"

namespace inlay {
namespace {

template <class T>
void norm_and_rotate(T* head, int64_t width, float scale, const float* weight, float eps, const float* cosines,
                     const float* sines) {
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
    (first * cosine - second * sine).store(head + i, n);
    (second * cosine + first * sine).store(head + half + i, n);
  });
}

template <class T>
void run(int64_t rows, int64_t heads, int64_t kv_heads, int64_t width, T* qkv, const float* scales, const float* q_weight,
         const float* k_weight, float eps, const float* cosines, const float* sines, const int64_t* positions) {
  int64_t stride = (heads + 2 * kv_heads) * width;
  each_row(rows, stride, [&](int64_t row) {
    T* head = qkv + row * stride;
    float scale = scales == nullptr ? 1.0f : scales[row];
    const float* cosine = cosines + positions[row] * (width / 2);
    const float* sine = sines + positions[row] * (width / 2);
    for (int64_t h = 0; h < heads + kv_heads; ++h, head += width)
      norm_and_rotate(head, width, scale, h < heads ? q_weight : k_weight, eps, cosine, sine);
    if (scales == nullptr) return;
    each_vector(kv_heads * width, [&](int64_t i, int n) { (Vec::load(head + i, n) * Vec::all(scale)).store(head + i, n); });
  });
}

}  // namespace
}  // namespace inlay

using namespace inlay;

// qkv [rows, (heads + 2 · kv_heads) · width], in place: scaled; queries and keys normalised by head and rotated.
// cosines and sines [positions, width / 2].
INLAY_EXPORT void inlay_rotate_heads(int64_t rows, int64_t heads, int64_t kv_heads, int64_t width, void* qkv,
                                     const float* scales, int32_t dtype, const float* q_weight, const float* k_weight,
                                     float eps, const float* cosines, const float* sines, const int64_t* positions) {
  if (dtype == BFLOAT16)
    run(rows, heads, kv_heads, width, static_cast<bf16*>(qkv), scales, q_weight, k_weight, eps, cosines, sines, positions);
  else
    run(rows, heads, kv_heads, width, static_cast<float*>(qkv), scales, q_weight, k_weight, eps, cosines, sines, positions);
}
