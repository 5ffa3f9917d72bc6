// The pool: tasks that wait in a few fixed places, threads that look there, and how many of them are of use.
#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "rows.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace inlay {
namespace {

using Nanoseconds = int64_t;
constexpr Nanoseconds SPIN = 50'000;  // waking a thread costs about as much
constexpr int MOST_CALLS = 16;        // at the same time; further callers work alone
constexpr Nanoseconds MOST_CREDIT = 2'000'000, TRIAL_CREDIT = 300'000;
constexpr Nanoseconds SHORTEST_PAUSE = 10'000'000, LONGEST_PAUSE = 640'000'000;
constexpr Nanoseconds RELEASE_WAIT = 100'000'000;

Nanoseconds now() {
  auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Waits until is_done(), or so long; says whether it is.
template <class F>
bool spin_until(F is_done, Nanoseconds most) {
  Nanoseconds until = 0;
  for (int round = 1; !is_done(); ++round) {
    relax();
    if (round % 32 != 0) continue;
    if (until == 0) until = now() + most;
    else if (now() > until) return false;
  }
  return true;
}

// One call's tasks. A place is used again and again and never freed, so a thread that comes late finds nothing to do.
struct alignas(64) Call {
  std::atomic<uint64_t> state{0};  // the call's number, and how many of its tasks nobody has taken
  std::atomic<uint32_t> left{0};   // tasks that are not done
  std::atomic<bool> is_used{false};
  int64_t count = 0;
  Run task = nullptr;
  void* context = nullptr;

  static uint32_t untaken(uint64_t state) { return static_cast<uint32_t>(state); }

  void begin(int64_t tasks, Run run, void* with) {
    count = tasks, task = run, context = with;
    left.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
    uint64_t number = (state.load(std::memory_order_relaxed) >> 32) + 1;
    state.store(number << 32 | static_cast<uint64_t>(tasks), std::memory_order_release);
  }
  // Runs one task, if there is one. Whoever has taken it may read the rest: the call does not end before it is done.
  bool run_one() {
    uint64_t seen = state.load(std::memory_order_acquire);
    do {
      if (untaken(seen) == 0) return false;
    } while (!state.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire));
    task(count - untaken(seen), context);
    if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) left.notify_one();
    return true;
  }
};

// Whether helpers are of use: what they saved less what was waited for them, in time. A machine whose cores others use
// too lets a thread wait for its core in the middle of a task; then the caller works alone, and tries again later.
struct Usefulness {
  std::atomic<Nanoseconds> credit{MOST_CREDIT}, pause{SHORTEST_PAUSE}, paused_until{0};

  bool is_paused() {
    Nanoseconds until = paused_until.load(std::memory_order_relaxed);
    if (until == 0) return false;
    if (now() < until) return true;
    credit.store(TRIAL_CREDIT, std::memory_order_relaxed);
    paused_until.store(0, std::memory_order_relaxed);
    return false;
  }
  void note(Nanoseconds saved, Nanoseconds waited) {
    Nanoseconds sum = std::min(credit.load(std::memory_order_relaxed) + saved - waited, MOST_CREDIT);
    credit.store(sum, std::memory_order_relaxed);
    if (sum == MOST_CREDIT) pause.store(SHORTEST_PAUSE, std::memory_order_relaxed);
    if (sum >= 0) return;
    Nanoseconds length = pause.load(std::memory_order_relaxed);
    paused_until.store(now() + length, std::memory_order_relaxed);
    pause.store(std::min(2 * length, LONGEST_PAUSE), std::memory_order_relaxed);
  }
};

class Pool {
 public:
  // Never destroyed: its threads run until the process ends.
  static Pool& of_process() { return *current().load(); }

  void resize(int64_t threads) { threads_ = std::max<int64_t>(threads, 1); }
  int64_t size() const { return threads_; }

  void run(int64_t count, Run task, void* context) {
    Call* call = threads_ > 1 && count > 1 ? take_place() : nullptr;
    if (call == nullptr) {
      for (int64_t index = 0; index < count; ++index) task(index, context);
      return;
    }
    callers_.fetch_add(1, std::memory_order_relaxed);
    call->begin(count, task, context);
    int64_t helpers = usefulness_.is_paused() ? 0 : free_helpers();
    if (helpers > 0) call_helpers();
    work(*call, count);
    callers_.fetch_sub(1, std::memory_order_relaxed);
    call->is_used.store(false, std::memory_order_release);
  }

  void on_every_thread(void (*f)()) {
    f();
    every_.store(f);
    every_left_.store(started_.load());
    every_number_.fetch_add(1);
    call_helpers();
    spin_until([&] { return every_left_.load() <= 0; }, RELEASE_WAIT);
  }

 private:
  static std::atomic<Pool*>& current() {
    static std::atomic<Pool*> pool{[] {
      // A forked process has none of the threads: it begins with a pool of its own.
      pthread_atfork(nullptr, nullptr, [] {
        Pool* fresh = new Pool;
        fresh->resize(current().load()->size());
        current().store(fresh);
      });
      return new Pool;
    }()};
    return pool;
  }

  Call* take_place() {
    for (Call& call : calls_) {
      if (!call.is_used.load(std::memory_order_relaxed) && !call.is_used.exchange(true, std::memory_order_acquire))
        return &call;
    }
    return nullptr;
  }

  // With several callers, each with a thread of its own, fewer helpers have a core to run on.
  int64_t free_helpers() const { return threads_ - callers_.load(std::memory_order_relaxed); }

  // Works on a call until nothing is left to take, then waits for what others have taken.
  void work(Call& call, int64_t count) {
    Nanoseconds began = now();
    int64_t own = 0;
    while (call.run_one()) ++own;
    if (own == count) return;
    Nanoseconds ended = now();
    auto is_done = [&] { return call.left.load(std::memory_order_acquire) == 0; };
    if (!spin_until(is_done, SPIN)) {
      for (uint32_t left; (left = call.left.load(std::memory_order_acquire)) != 0;) call.left.wait(left);
    }
    Nanoseconds each = (ended - began) / std::max<int64_t>(own, 1);
    usefulness_.note(each * (count - own), now() - ended);
  }

  void call_helpers() {
    if (started_.load(std::memory_order_relaxed) < threads_ - 1) start();
    rung_.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) rung_.notify_all();
  }

  void start() {
    for (int64_t number; (number = started_.load()) < threads_ - 1;) {
      if (!started_.compare_exchange_strong(number, number + 1)) continue;
      try {
        std::thread([this, number] { help(number); }).detach();
      } catch (const std::system_error&) {  // no more threads are to be had: work with those that are there
        threads_ = number + 1;
        started_.fetch_sub(1);
        return;
      }
    }
  }

  bool is_wanted(int64_t number) { return number < free_helpers() && !usefulness_.is_paused(); }

  bool help_with_one(int64_t number) {
    for (Call& call : calls_) {
      if (call.is_used.load(std::memory_order_relaxed) && Call::untaken(call.state.load(std::memory_order_acquire)) &&
          is_wanted(number) && call.run_one())
        return true;
    }
    return false;
  }

  void help(int64_t number) {
    uint32_t every_done = every_number_.load();
    for (;;) {
      uint32_t rung = rung_.load(std::memory_order_seq_cst);
      if (every_number_.load(std::memory_order_relaxed) != every_done) {
        every_done = every_number_.load();
        every_.load()();
        every_left_.fetch_sub(1);
      }
      while (help_with_one(number)) {
      }
      auto is_rung = [&] { return rung_.load(std::memory_order_relaxed) != rung; };
      if (spin_until(is_rung, SPIN)) continue;
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      rung_.wait(rung);
      sleeping_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  Call calls_[MOST_CALLS];
  Usefulness usefulness_;
  std::atomic<int64_t> threads_{1}, started_{0}, callers_{0};
  alignas(64) std::atomic<uint32_t> rung_{0};
  std::atomic<int32_t> sleeping_{0};
  std::atomic<void (*)()> every_{nullptr};
  std::atomic<uint32_t> every_number_{0};
  std::atomic<int64_t> every_left_{0};
};

// Where torch's threads do the products, they do the rest, too: two pools would fight for the same cores.
std::atomic<ParallelFor> torch_threads{nullptr};
std::atomic<int64_t> num_torch_threads{1};

void run_on_torch_threads(int64_t count, Run task, void* context) {
  struct Shared {
    int64_t count;
    Run task;
    void* context;
    std::atomic<int64_t> next{0};
  } shared{count, task, context};
  auto body = [](int64_t, int64_t, void* from) {
    Shared& own = *static_cast<Shared*>(from);
    for (int64_t index; (index = own.next++) < own.count;) own.task(index, own.context);
  };
  torch_threads.load()(0, std::min(count, num_torch_threads.load()), 1, body, &shared);
  body(0, 0, &shared);  // all of it, if torch has refused
}

}  // namespace

int64_t num_threads() { return torch_threads != nullptr ? num_torch_threads.load() : Pool::of_process().size(); }

void run_tasks(int64_t count, Run task, void* context) {
  if (torch_threads != nullptr) return run_on_torch_threads(count, task, context);
  Pool::of_process().run(count, task, context);
}

void on_every_thread(void (*f)()) {
  if (torch_threads == nullptr) return Pool::of_process().on_every_thread(f);
  // Once for each range, and so on each thread: tasks that are taken in turn may all go to the first one.
  auto body = [](int64_t, int64_t, void* from) { reinterpret_cast<void (*)()>(from)(); };
  torch_threads.load()(0, num_torch_threads, 1, body, reinterpret_cast<void*>(f));
  f();  // on this thread, if torch has refused
}

std::vector<Released*>& kept_of_thread() {
  thread_local std::vector<Released*> kept;
  return kept;
}

}  // namespace inlay

// So many threads; torch's, where its function is given.
INLAY_EXPORT void inlay_use_threads(void* function, int64_t threads) {
  inlay::torch_threads = reinterpret_cast<inlay::ParallelFor>(function);
  inlay::num_torch_threads = threads;
  inlay::Pool::of_process().resize(threads);
}

// Every thread lets go of the memory that it keeps; the next call takes what it needs.
INLAY_EXPORT int32_t inlay_release_memory() {
  return inlay::guarded([] {
    inlay::on_every_thread([] {
      for (inlay::Released* kept : inlay::kept_of_thread()) kept->release();
    });
  });
}
