// The vector of simd.h in registers of 256 bits.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace inlay {

struct Vec {
  static constexpr int size = 8;  // floats
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
  // The lower (part 0) or upper halves of words, as floats.
  template <int part>
  static Vec half_of_words(const bf16* p) {
    __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(words, 16) : _mm256_and_si256(words, upper))};
  }
  static Vec of_integers(const int32_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
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

}  // namespace inlay
