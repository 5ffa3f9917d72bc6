// The state of the library: how to reach torch's threads, and what each of them keeps.
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

std::vector<Released*>& kept_of_thread() {
  thread_local std::vector<Released*> kept;
  return kept;
}

}  // namespace inlay

INLAY_EXPORT void inlay_use_threads(void* function, int64_t threads) {
  inlay::parallel_for = reinterpret_cast<inlay::ParallelFor>(function);
  inlay::num_threads = threads;
}

// Every thread lets go of the memory that it keeps; the next call takes what it needs.
INLAY_EXPORT int32_t inlay_release_memory() {
  return inlay::guarded([] {
    auto work = [] {
      for (inlay::Released* kept : inlay::kept_of_thread()) kept->release();
    };
    inlay::on_every_thread(work);
  });
}
