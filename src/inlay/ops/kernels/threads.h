// Tasks of one call, shared out among the thread that calls and those of a pool.
//
// A thread takes a task by counting down a number; the caller works too, and waits in the end for tasks that others
// have taken, never for a thread that has taken none. So a thread that has lost its core holds up at most one task,
// and where that happens too often the pool does without it for a while. Waiting spins first and sleeps then.
#pragma once
#include <atomic>
#include <cstdint>

namespace inlay {

using Run = void (*)(int64_t index, void* context);
using Body = void (*)(int64_t begin, int64_t end, void* context);
// torch_parallel_for of torch's stable C interface, for processors where torch's threads do the products.
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// How many threads may work on one call, with the one that calls; what a call computes never depends on it.
int64_t num_threads();
// Calls task(index, context) for 0 … count − 1, in about that order; returns when all are done. No task may throw.
void run_tasks(int64_t count, Run task, void* context);
// Calls f() on this thread and on each of the pool's own, when they have nothing else to do.
void on_every_thread(void (*f)());

}  // namespace inlay
