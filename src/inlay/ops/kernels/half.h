// bfloat16: the upper half of a float.
#pragma once
#include <cstdint>

namespace inlay {

struct bf16 {
  uint16_t bits;
};

}  // namespace inlay
