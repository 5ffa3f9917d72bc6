// Elements of x86: bfloat16 where the processor multiplies it, bytes with VNNI or widened to 16 bits.
#pragma once
#include "element.h"

namespace inlay {

#if defined(INLAY_512_BITS)
using Integers = __m512i;
inline Integers load_integers(const void* p) { return _mm512_loadu_si512(p); }
inline void store_integers(void* p, Integers x) { _mm512_storeu_si512(p, x); }
inline Integers all_integers(int32_t x) { return _mm512_set1_epi32(x); }
#else
using Integers = __m256i;
inline Integers load_integers(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_integers(void* p, Integers x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline Integers all_integers(int32_t x) { return _mm256_set1_epi32(x); }
#endif

#if defined(__AVX512BF16__)
#define INLAY_HALVES
struct Halves : FloatSums {
  using Row = bf16;
  using Factor = bf16;
  static constexpr int64_t step = 2;
  static constexpr int parts = 1;
  template <int part>
  static __m512i load(const bf16* b) {
    return _mm512_loadu_si512(b);
  }
  template <int part>
  static __m512i spread(const bf16* a) {
    return _mm512_set1_epi32(word_at(a));
  }
  static Vec add_product(Vec sum, __m512i a, __m512i b) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)}; }
};
#endif

struct IntegerSums {
  using Number = int32_t;
  using Sum = Integers;
  static Integers start(const int32_t* from) { return load_integers(from); }
  static Integers nothing() { return all_integers(0); }
  static void store(Integers sum, int32_t* c) { store_integers(c, sum); }
};

constexpr int32_t BYTE_OFFSET = 0;  // what products take off each byte of a row

#if (defined(INLAY_512_BITS) && defined(__AVX512VNNI__)) || (!defined(INLAY_512_BITS) && \
    (defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))))
struct Bytes : IntegerSums {
  using Row = uint8_t;
  using Factor = int8_t;
  static constexpr int64_t step = 4;
  static constexpr int parts = 1;
  template <int part>
  static Integers load(const int8_t* b) {
    return load_integers(b);
  }
  template <int part>
  static Integers spread(const uint8_t* a) {
    return all_integers(word_at(a));
  }
  static Integers add_product(Integers sum, Integers a, Integers b) {
#if defined(INLAY_512_BITS)
    return _mm512_dpbusd_epi32(sum, a, b);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
    return _mm256_dpbusd_epi32(sum, a, b);
#endif
  }
};
#else
#define INLAY_WIDENS_BYTES
// Without VNNI products of bytes would be added in 16 bits and saturate; so both sides become 16 bits and their
// products 32. The even bytes of a word are one part, the odd ones the other: rows are widened in that order.
struct Bytes : IntegerSums {
  using Row = int16_t;
  using Factor = int8_t;
  static constexpr int64_t step = 4;
  static constexpr int parts = 2;
  template <int part>
  static Integers load(const int8_t* b) {
    Integers words = load_integers(b);
#if defined(INLAY_512_BITS)
    return _mm512_srai_epi16(part == 0 ? _mm512_slli_epi16(words, 8) : words, 8);
#else
    return _mm256_srai_epi16(part == 0 ? _mm256_slli_epi16(words, 8) : words, 8);
#endif
  }
  template <int part>
  static Integers spread(const int16_t* a) {
    return all_integers(word_at(a + 2 * part));
  }
  static Integers add_product(Integers sum, Integers a, Integers b) {
#if defined(INLAY_512_BITS)
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#else
    // Compilers would gather the products of several rows before they add them, for which there are no registers.
    asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(a, b)));
    return sum;
#endif
  }
  // Words of bytes 0 1 2 3 become 0 2 1 3 in 16 bits each.
  static void widen(const uint8_t* from, int64_t width, int16_t* to) {
    for (int64_t i = 0; i < width; i += step, from += step, to += step) {
      to[0] = from[0], to[1] = from[2], to[2] = from[1], to[3] = from[3];
    }
  }
};
#endif

}  // namespace inlay
