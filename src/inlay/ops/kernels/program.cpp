// Programs: made on one thread, call by call, and run as often as one likes.
#include "program.h"

namespace inlay {

Program*& program_of_thread() {
  thread_local Program* program = nullptr;
  return program;
}

}  // namespace inlay

using namespace inlay;

// From here on this thread's calls are kept; null where there is no memory for it.
INLAY_EXPORT void* inlay_begin_program() { return program_of_thread() = new (std::nothrow) Program; }

INLAY_EXPORT void inlay_end_program() { program_of_thread() = nullptr; }

// The first status of a call that is not DONE ends it.
INLAY_EXPORT int32_t inlay_run_program(const void* program) {
  return guarded([&] {
    for (const auto& call : *static_cast<const Program*>(program)) call();
  });
}

INLAY_EXPORT void inlay_delete_program(void* program) { delete static_cast<Program*>(program); }
