// The vector of simd.h in registers of 512 bits.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace inlay {

struct Vec {
  static constexpr int size = 16;  // floats
  __m512 v;

  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static Vec load(const float* p, int n = size) {
    return {n == size ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(first(n), p)};
  }
  static Vec load(const bf16* p, int n = size) {
    __m256i half =
        n == size ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_maskz_loadu_epi16(first(n), p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  // The lower (part 0) or upper halves of words, as floats.
  template <int part>
  static Vec half_of_words(const bf16* p) {
    __m512i words = _mm512_loadu_si512(p);
    __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(part == 0 ? _mm512_slli_epi32(words, 16) : _mm512_and_si512(words, upper))};
  }
  static Vec of_integers(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
  void store(float* p, int n = size) const {
    if (n == size) _mm512_storeu_ps(p, v);
    else _mm512_mask_storeu_ps(p, first(n), v);
  }
  void store(bf16* p, int n = size) const {
    if (n == size) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves());
    else _mm256_mask_storeu_epi16(p, first(n), halves());
  }
  // Rounded to the nearest integer, the zero point added, and cut to a byte.
  void store_bytes(uint8_t* p, int32_t zero_point, int n = size) const {
    __m512i x = _mm512_max_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero_point)),
                                 _mm512_setzero_si512());
    if (n == size) _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(x));
    else _mm512_mask_cvtusepi32_storeu_epi8(p, first(n), x);
  }
  __m256i halves() const {
#if defined(__AVX512BF16__)
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    __m512i x = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
    x = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16));
#endif
  }
  Vec keep(int n, float otherwise) const { return {_mm512_mask_blend_ps(first(n), _mm512_set1_ps(otherwise), v)}; }
  float sum() const { return _mm512_reduce_add_ps(v); }
  float max() const { return _mm512_reduce_max_ps(v); }
};
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec with_sign_of(Vec a, Vec sign) {
  __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return {_mm512_castsi512_ps(
      _mm512_or_si512(_mm512_castps_si512(a.v), _mm512_and_si512(_mm512_castps_si512(sign.v), bit)))};
}
// a · 2^n for whole n, whatever they are.
inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline Vec clamp_exponent(Vec x) { return x; }

}  // namespace inlay
