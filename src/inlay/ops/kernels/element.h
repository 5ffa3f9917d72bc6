// What tiles multiply: how a word of the weight and a word of a row meet, on this library's instruction set.
//
// Row: what a row holds when a tile reads it. Factor: what the weight holds. A step along k has one part or, where a
// word must be taken apart first, two.
#pragma once
#include "simd.h"

namespace inlay {

struct FloatSums {
  using Number = float;  // of c
  using Sum = Vec;
  static Vec start(const float* from) { return Vec::load(from); }
  static Vec nothing() { return Vec::all(0.0f); }
  static void store(Vec sum, float* c) { sum.store(c); }
};

struct Floats : FloatSums {
  using Row = float;
  using Factor = float;
  static constexpr int64_t step = 1;
  static constexpr int parts = 1;
  template <int part>
  static Vec load(const float* b) {
    return Vec::load(b);
  }
  template <int part>
  static Vec spread(const float* a) {
    return Vec::all(*a);
  }
  static Vec add_product(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

// Rows of floats with a weight that is kept in bfloat16: the bits of `Floats` with the same weight, from half the
// memory.
struct KeptHalves : FloatSums {
  using Row = float;
  using Factor = bf16;
  static constexpr int64_t step = 2;
  static constexpr int parts = 2;
  template <int part>
  static Vec load(const bf16* b) {
    return Vec::half_of_words<part>(b);
  }
  template <int part>
  static Vec spread(const float* a) {
    return Vec::all(a[part]);
  }
  static Vec add_product(Vec sum, Vec a, Vec b) {
#if defined(__x86_64__) && !defined(INLAY_512_BITS)
    // Compilers would load the factors of both parts first, for which there are no registers.
    asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(b.v));
    return sum;
#else
    return fma(a, b, sum);
#endif
  }
};

template <class A>
inline int32_t word_at(const A* a) {
  int32_t word;
  std::memcpy(&word, a, sizeof(word));
  return word;
}

}  // namespace inlay

#if defined(__aarch64__)
#include "element_neon.h"
#else
#include "element_x86.h"
#endif
