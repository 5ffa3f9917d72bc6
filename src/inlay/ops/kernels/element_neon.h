// Elements of ARM: bfloat16 where the processor multiplies it, bytes by dot products, mixed in sign where it has those.
#pragma once
#include "element.h"

namespace inlay {

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define INLAY_HALVES
struct Halves : FloatSums {
  using Row = bf16;
  using Factor = bf16;
  static constexpr int64_t step = 2;
  static constexpr int parts = 1;
  template <int part>
  static bfloat16x8_t load(const bf16* b) {
    return vreinterpretq_bf16_u16(vld1q_u16(&b->bits));
  }
  template <int part>
  static bfloat16x8_t spread(const bf16* a) {
    return vreinterpretq_bf16_s32(vdupq_n_s32(word_at(a)));
  }
  static Vec add_product(Vec sum, bfloat16x8_t a, bfloat16x8_t b) { return {vbfdotq_f32(sum.v, b, a)}; }
};
#endif

struct Bytes {
  using Number = int32_t;
  using Sum = int32x4_t;
  using Row = uint8_t;
  using Factor = int8_t;
  static constexpr int64_t step = 4;
  static constexpr int parts = 1;
  static Sum start(const int32_t* from) { return vld1q_s32(from); }
  static Sum nothing() { return vdupq_n_s32(0); }
  static void store(Sum sum, int32_t* c) { vst1q_s32(c, sum); }
  template <int part>
  static int8x16_t load(const int8_t* b) {
    return vld1q_s8(b);
  }
#if defined(__ARM_FEATURE_MATMUL_INT8)
  template <int part>
  static uint8x16_t spread(const uint8_t* a) {
    return vreinterpretq_u8_s32(vdupq_n_s32(word_at(a)));
  }
  static Sum add_product(Sum sum, uint8x16_t a, int8x16_t b) { return vusdotq_s32(sum, a, b); }
#else
  // Both sides must have a sign: 128 is taken off each byte of a row, and what sums begin with makes up for it.
  template <int part>
  static int8x16_t spread(const uint8_t* a) {
    return vreinterpretq_s8_s32(vdupq_n_s32(word_at(a) ^ static_cast<int32_t>(0x80808080u)));
  }
  static Sum add_product(Sum sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, b, a); }
#endif
};

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int32_t BYTE_OFFSET = 0;
#else
constexpr int32_t BYTE_OFFSET = 128;  // what products take off each byte of a row
#endif

}  // namespace inlay
