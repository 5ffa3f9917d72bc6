// A vector of floats in the widest registers that this library was built for, and what bfloat16 needs.
// Loads and stores take a count, so that no width has to be a multiple of anything.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace inlay {

struct bf16 {
  uint16_t bits;
};

#if defined(__AVX512F__)
struct Vec {
  static constexpr int size = 16;
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
#else
struct Vec {
  static constexpr int size = 8;
  __m256 v;

  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p, int n = size) {
    if (n == size) return {_mm256_loadu_ps(p)};
    alignas(32) float part[size] = {};
    std::memcpy(part, p, n * sizeof(float));
    return {_mm256_load_ps(part)};
  }
  static Vec load(const bf16* p, int n = size) {
    alignas(16) bf16 part[size] = {};
    if (n != size) {
      std::memcpy(part, p, n * sizeof(bf16));
      p = part;
    }
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  void store(float* p, int n = size) const {
    if (n == size) return _mm256_storeu_ps(p, v);
    alignas(32) float part[size];
    _mm256_store_ps(part, v);
    std::memcpy(p, part, n * sizeof(float));
  }
  void store(bf16* p, int n = size) const {
    __m256i x = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    x = _mm256_srli_epi32(_mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    std::memcpy(p, &half, n * sizeof(bf16));
  }
  void store_bytes(uint8_t* p, int32_t zero_point, int n = size) const {
    __m256i x = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(zero_point));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i bytes = _mm_packus_epi16(words, words);
    std::memcpy(p, &bytes, n);
  }
  Vec keep(int n, float otherwise) const {
    __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), place);
    return {_mm256_blendv_ps(_mm256_set1_ps(otherwise), v, _mm256_castsi256_ps(mask))};
  }
  float sum() const {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  float max() const {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
};
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec with_sign_of(Vec a, Vec sign) { return {_mm256_or_ps(a.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))}; }
// a · 2^n for whole n within the range of exponents.
inline Vec scale_by_power(Vec a, Vec n) {
  __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
  return a * Vec{_mm256_castsi256_ps(exponent)};
}
inline Vec clamp_exponent(Vec x) { return min(Vec::all(127.0f), max(Vec::all(-126.0f), x)); }
#endif

// Calls f(start, count) for the vectors of a row; all but the last are whole.
template <class F>
inline void each_vector(int64_t width, F f) {
  int64_t i = 0;
  for (; i + Vec::size <= width; i += Vec::size) f(i, Vec::size);
  if (i < width) f(i, static_cast<int>(width - i));
}

}  // namespace inlay
