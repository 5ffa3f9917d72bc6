// exp, erf and what activations are made of, on vectors. Errors are a few units in the last place of a float. NaN stays
// NaN: min and max give their second argument where one is NaN, so x stands there.
#pragma once
#include "simd.h"

namespace inlay {

// e^x by 2^n · e^r with |r| ≤ ln 2 / 2 and a polynomial of degree 6 (Cephes' expf).
inline Vec exp(Vec x) {
  x = min(Vec::all(88.3f), max(Vec::all(-87.3f), x));
  Vec n = round(x * Vec::all(1.44269504f));
  Vec r = fma(n, Vec::all(-0.693359375f), x);
  r = fma(n, Vec::all(2.12194440e-4f), r);
  Vec p = Vec::all(1.9875691500e-4f);
  p = fma(p, r, Vec::all(1.3981999507e-3f));
  p = fma(p, r, Vec::all(8.3334519073e-3f));
  p = fma(p, r, Vec::all(4.1665795894e-2f));
  p = fma(p, r, Vec::all(1.6666665459e-1f));
  p = fma(p, r, Vec::all(5.0000001201e-1f));
  p = fma(p, r * r, r + Vec::all(1.0f));
  return scale_by_power(p, n);
}

// 2^x for x ≤ 0 to 3e-6, for what is then rounded to bfloat16: the minimax polynomial of degree 4 for 2^r, |r| ≤ 1/2.
inline Vec exp2_for_halves(Vec x) {
  x = clamp_exponent(x);
  Vec n = round(x), r = x - n;
  Vec p = Vec::all(9.570101908e-3f);
  p = fma(p, r, Vec::all(5.591786032e-2f));
  p = fma(p, r, Vec::all(2.402474483e-1f));
  p = fma(p, r, Vec::all(6.931218147e-1f));
  return scale_by_power(fma(p, r, Vec::all(9.999992614e-1f)), n);
}

inline Vec sigmoid(Vec x) { return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::all(0.0f) - x)); }

// Abramowitz & Stegun 7.1.26: absolute error below 1.5e-7.
inline Vec erf(Vec x) {
  Vec a = abs(x);
  Vec t = Vec::all(1.0f) / fma(a, Vec::all(0.3275911f), Vec::all(1.0f));
  Vec p = Vec::all(1.061405429f);
  p = fma(p, t, Vec::all(-1.453152027f));
  p = fma(p, t, Vec::all(1.421413741f));
  p = fma(p, t, Vec::all(-0.284496736f));
  p = fma(p, t, Vec::all(0.254829592f));
  Vec tail = p * t * exp(Vec::all(0.0f) - a * a);
  return with_sign_of(Vec::all(1.0f) - tail, x);
}

inline Vec gelu(Vec x) { return x * Vec::all(0.5f) * (Vec::all(1.0f) + erf(x * Vec::all(0.70710678f))); }

// x · σ(2u) with u = √(2/π)·(x + 0.044715·x³), which is x/2 · (1 + tanh u).
inline Vec gelu_tanh(Vec x) {
  Vec u = x * fma(x * x, Vec::all(0.0356774081f), Vec::all(0.7978845608f));
  return x * sigmoid(u + u);
}

inline Vec silu(Vec x) { return x * sigmoid(x); }
inline Vec relu(Vec x) { return max(Vec::all(0.0f), x); }

}  // namespace inlay
