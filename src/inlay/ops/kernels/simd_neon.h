// The vector of simd.h in ARM's registers of 128 bits.
#pragma once
#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace inlay {

struct Vec {
  static constexpr int size = 4;  // floats
  float32x4_t v;

  static Vec all(float x) { return {vdupq_n_f32(x)}; }
  static Vec load(const float* p, int n = size) {
    if (n == size) return {vld1q_f32(p)};
    float part[size] = {};
    std::memcpy(part, p, n * sizeof(float));
    return {vld1q_f32(part)};
  }
  static Vec load(const bf16* p, int n = size) {
    bf16 part[size] = {};
    std::memcpy(part, p, n * sizeof(bf16));
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&part[0].bits), 16))};
  }
  // The lower (part 0) or upper halves of words, as floats.
  template <int part>
  static Vec half_of_words(const bf16* p) {
    uint32x4_t words = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
    return {vreinterpretq_f32_u32(part == 0 ? vshlq_n_u32(words, 16) : vandq_u32(words, vdupq_n_u32(0xffff0000u)))};
  }
  static Vec of_integers(const int32_t* p) { return {vcvtq_f32_s32(vld1q_s32(p))}; }
  void store(float* p, int n = size) const {
    if (n == size) return vst1q_f32(p, v);
    float part[size];
    vst1q_f32(part, v);
    std::memcpy(p, part, n * sizeof(float));
  }
  void store(bf16* p, int n = size) const {
    uint32x4_t x = vreinterpretq_u32_f32(v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(x, 16), vdupq_n_u32(1));
    uint16x4_t half = vshrn_n_u32(vaddq_u32(x, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    std::memcpy(p, &half, n * sizeof(bf16));
  }
  // Rounded to the nearest integer, the zero point added, and cut to a byte.
  void store_bytes(uint8_t* p, int32_t zero_point, int n = size) const {
    int32x4_t x = vaddq_s32(vcvtnq_s32_f32(v), vdupq_n_s32(zero_point));
    uint16x4_t words = vqmovun_s32(x);
    uint8x8_t bytes = vqmovn_u16(vcombine_u16(words, words));
    std::memcpy(p, &bytes, n);
  }
  Vec keep(int n, float otherwise) const {
    constexpr uint32_t places[size] = {0, 1, 2, 3};
    return {vbslq_f32(vcltq_u32(vld1q_u32(places), vdupq_n_u32(n)), v, vdupq_n_f32(otherwise))};
  }
  float sum() const { return vaddvq_f32(v); }
  float max() const { return vmaxvq_f32(v); }
};
inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
// As x86: the second where one is NaN.
inline Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
inline Vec round(Vec a) { return {vrndnq_f32(a.v)}; }
inline Vec with_sign_of(Vec a, Vec sign) {
  uint32x4_t bit = vandq_u32(vreinterpretq_u32_f32(sign.v), vdupq_n_u32(0x80000000u));
  return {vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a.v), bit))};
}
// a · 2^n for whole n within the range of exponents.
inline Vec scale_by_power(Vec a, Vec n) {
  int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23);
  return a * Vec{vreinterpretq_f32_s32(exponent)};
}
inline Vec clamp_exponent(Vec x) { return min(Vec::all(127.0f), max(Vec::all(-126.0f), x)); }

}  // namespace inlay
