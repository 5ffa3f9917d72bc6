// What stands between a layer's first product and attention: a bias, a norm of each head, and its rotation.
#include <type_traits>

#include "product.h"
#include "program.h"

namespace inlay {
namespace {

// A head of a row: values · scale + bias.
template <class S>
struct Head {
  const S* values;
  const float* bias;  // null: none
  float scale;

  Vec at(int64_t i, int n) const {
    Vec x = Vec::load(values + i, n) * Vec::all(scale);
    return bias == nullptr ? x : x + Vec::load(bias + i, n);
  }
};

// 1 / √(mean(x²) + eps).
template <class S>
float norm_factor(const Head<S>& head, int64_t width, float eps) {
  Vec total = Vec::all(0.0f);
  each_vector(width, [&](int64_t i, int n) {
    Vec x = head.at(i, n).keep(n, 0.0f);
    total = fma(x, x, total);
  });
  return 1.0f / std::sqrt(total.sum() / static_cast<float>(width) + eps);
}

// Of a head that has a weight also its norm.
template <class S, class T>
void norm_and_rotate(const Head<S>& head, T* to, int64_t width, const float* weight, float eps, const float* cosines,
                     const float* sines) {
  int64_t half = width / 2;
  Vec factor = Vec::all(weight == nullptr ? 1.0f : norm_factor(head, width, eps));
  each_vector(half, [&](int64_t i, int n) {
    Vec first = head.at(i, n), second = head.at(half + i, n);
    if (weight != nullptr) {
      first = first * factor * Vec::load(weight + i, n);
      second = second * factor * Vec::load(weight + half + i, n);
    }
    Vec cosine = Vec::load(cosines + i, n), sine = Vec::load(sines + i, n);
    (first * cosine - second * sine).store(to + i, n);
    (second * cosine + first * sine).store(to + half + i, n);
  });
}

struct Heads {
  int64_t heads, kv_heads, width;
  const float* bias;                  // [(heads + 2 · kv_heads) · width], null: none
  const float *q_weight, *k_weight;  // [width], null: no norm
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
      using Number = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
      auto head_at = [&](int64_t head) {
        return Head<Number>{from + head * h.width, h.bias == nullptr ? nullptr : h.bias + head * h.width, values.scale};
      };
      for (int64_t head = 0; head < h.heads + h.kv_heads; ++head)
        norm_and_rotate(head_at(head), to + head * h.width, h.width, head < h.heads ? h.q_weight : h.k_weight, h.eps,
                        cosine, sine);
      for (int64_t head = h.heads + h.kv_heads; head < h.heads + 2 * h.kv_heads; ++head)
        each_vector(h.width, [&](int64_t i, int n) { head_at(head).at(i, n).store(to + head * h.width + i, n); });
    });
  });
}

}  // namespace
}  // namespace inlay

using namespace inlay;

// qkv [rows, (heads + 2 · kv_heads) · width]: scaled and biased; queries and keys normalised by head and rotated. out may
// be qkv.
INLAY_EXPORT int32_t inlay_rotate_heads(int64_t rows, int64_t heads, int64_t kv_heads, int64_t width, const Input* in,
                                        const float* bias, const float* q_weight, const float* k_weight, float eps,
                                        const float* cosines, const float* sines, const int64_t* positions, void* out,
                                        int32_t out_dtype) {
  return perform([=, in = *in] {
    Heads h{heads, kv_heads, width, bias, q_weight, k_weight, eps, cosines, sines, positions};
    if (out_dtype == BFLOAT16) run(h, rows, in, static_cast<bf16*>(out));
    else run(h, rows, in, static_cast<float*>(out));
  });
}
