// The one piece of state: how to reach torch's threads.
#include "rows.h"

namespace inlay {
namespace {

int32_t alone(int64_t begin, int64_t end, int64_t, Body body, void* context) {
  body(begin, end, context);
  return 0;
}

}  // namespace

ParallelFor parallel_for = alone;
int64_t num_threads = 1;

}  // namespace inlay

INLAY_EXPORT void inlay_use_threads(void* function, int64_t threads) {
  inlay::parallel_for = reinterpret_cast<inlay::ParallelFor>(function);
  inlay::num_threads = threads;
}
