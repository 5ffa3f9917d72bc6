// A vector of floats in the widest registers that this library was built for, and what bfloat16 needs.
// Loads and stores take a count, so that no width has to be a multiple of anything.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

#if defined(__aarch64__)
#include "simd_neon.h"
#elif defined(__AVX512F__) && !defined(INLAY_256_BITS)
#define INLAY_512_BITS
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif

namespace inlay {

// Calls f(start, count) for the vectors of a row; all but the last are whole.
template <class F>
inline void each_vector(int64_t width, F f) {
  int64_t i = 0;
  for (; i + Vec::size <= width; i += Vec::size) f(i, Vec::size);
  if (i < width) f(i, static_cast<int>(width - i));
}

}  // namespace inlay
