// Softmax attention over packed sequences: scores of a few rows at a time, never those above the diagonal.
//
// A task is the queries of one sequence (at most PART positions of it) with one key head. It packs the keys and
// values that its queries may see, then takes MOST_ROWS queries at a time: all their scores, an exact softmax in
// float32, the weighted sum. The heads that share a key head count as rows. What a query gets depends on its own
// sequence alone, bit for bit.
#include "math.h"
#include "rows.h"
#include "tile.h"

namespace inlay {
namespace {

constexpr int64_t PART = 512;  // positions of a task: packing its keys costs next to nothing beside their use

struct Problem {
  int64_t heads, kv_heads, width;
  const void *q, *k, *v;
  int64_t q_stride, kv_stride;
  const int64_t *q_offsets, *k_offsets;  // [sequences + 1]
  bool is_causal;
  float scale;
  void* out;  // [queries, heads · width]

  int64_t queries(int64_t b) const { return q_offsets[b + 1] - q_offsets[b]; }
  int64_t keys(int64_t b) const { return k_offsets[b + 1] - k_offsets[b]; }
};

struct Task {
  int64_t sequence, head, begin, end;  // queries [begin, end) of the sequence
};

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class E>
struct Memory {
  std::vector<E> queries, keys, values;
  std::vector<float> scores, mixed;

  static Memory& of_thread() {
    thread_local Memory memory;
    return memory;
  }
};

template <class T>
T* grown(std::vector<T>& memory, int64_t size) {
  if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
  return memory.data();
}

float as_float(float x) { return x; }
float as_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
void put(float& to, float from) { to = from; }
void put(float& to, bf16 from) { to = as_float(from); }
[[maybe_unused]] void put(bf16& to, bf16 from) { to = from; }

// Row `key` of a packed matrix whose columns are keys: [panel of keys][width / step][PANEL][step].
template <class E, class T>
void pack_key(const T* from, int64_t width, int64_t padded, int64_t key, E* keys) {
  constexpr int64_t step = Element<E>::step;
  E* to = keys + key / PANEL * PANEL * padded + key % PANEL * step;
  for (int64_t d = 0; d < width; ++d) put(to[d / step * PANEL * step + d % step], from[d]);
  for (int64_t d = width; d < padded; ++d) to[d / step * PANEL * step + d % step] = E{};
}

// Row `key` of a packed matrix whose columns are components: [panel of components][keys / step][PANEL][step].
template <class E, class T>
void pack_value(const T* from, int64_t width, int64_t num_keys, int64_t key, E* values) {
  constexpr int64_t step = Element<E>::step;
  for (int64_t start = 0; start < width; start += PANEL) {
    E* to = values + start * num_keys + key / step * PANEL * step + key % step;
    int64_t count = std::min(PANEL, width - start);
    for (int64_t d = 0; d < count; ++d) put(to[d * step], from[start + d]);
    for (int64_t d = count; d < PANEL; ++d) to[d * step] = E{};
  }
}

template <class E, class T>
void pack(const Problem& p, const Task& task, int64_t limit, int64_t padded, int64_t num_keys, E* keys, E* values) {
  int64_t first = p.k_offsets[task.sequence];
  for (int64_t key = 0; key < limit; ++key) {
    int64_t place = (first + key) * p.kv_stride + task.head * p.width;
    const T *k = static_cast<const T*>(p.k) + place, *v = static_cast<const T*>(p.v) + place;
    pack_key<E, T>(k, p.width, padded, key, keys);
    pack_value<E, T>(v, p.width, num_keys, key, values);
  }
  for (int64_t key = limit; key < round_up(limit, PANEL); ++key)
    for (int64_t d = 0; d < padded; ++d)
      keys[key / PANEL * PANEL * padded + (d / Element<E>::step * PANEL + key % PANEL) * Element<E>::step + d % Element<E>::step] = E{};
  static const std::vector<T> zeros(1 << 14, T{});
  for (int64_t key = limit; key < num_keys; ++key) pack_value<E, T>(zeros.data(), p.width, num_keys, key, values);
}

void store_weight(float* to, Vec x, int n) { x.store(to, n); }
[[maybe_unused]] void store_weight(bf16* to, Vec x, int n) { x.store(to, n); }

// Turns a row of scores into weights, in place, with zeros from `seen` to `padded`; their sum before the division.
template <class E>
float softmax(float* row, int64_t seen, int64_t padded, float scale) {
  Vec most = Vec::all(-INFINITY);
  each_vector(seen, [&](int64_t i, int n) { most = max(most, Vec::load(row + i, n).keep(n, -INFINITY)); });
  Vec largest = Vec::all(most.max()), total = Vec::all(0.0f);
  E* weights = reinterpret_cast<E*>(row);
  each_vector(seen, [&](int64_t i, int n) {
    Vec x = exp((Vec::load(row + i, n) - largest) * Vec::all(scale)).keep(n, 0.0f);
    total = total + x;
    store_weight(weights + i, x, n);
  });
  for (int64_t i = seen; i < padded; ++i) weights[i] = E{};
  return total.sum();
}

template <class E, class T>
void attend(const Problem& p, const Task& task) {
  constexpr int64_t step = Element<E>::step;
  Memory<E>& memory = Memory<E>::of_thread();
  int64_t group = p.heads / p.kv_heads, before = p.keys(task.sequence) - p.queries(task.sequence);
  int64_t limit = p.is_causal ? before + task.end : p.keys(task.sequence);
  int64_t padded = round_up(p.width, step), columns = round_up(p.width, PANEL), num_keys = round_up(limit, step);
  int64_t score_stride = round_up(limit, PANEL);
  E* keys = grown(memory.keys, score_stride * padded);
  E* values = grown(memory.values, num_keys * columns);
  E* queries = grown(memory.queries, MOST_ROWS * padded);
  float* scores = grown(memory.scores, MOST_ROWS * score_stride);
  float* mixed = grown(memory.mixed, MOST_ROWS * columns);
  pack<E, T>(p, task, limit, padded, num_keys, keys, values);
  int64_t total = (task.end - task.begin) * group;
  for (int64_t first = 0; first < total;) {
    int rows = rows_at_once(total - first);
    int64_t last = task.begin + (first + rows - 1) / group;
    int64_t seen = p.is_causal ? before + last + 1 : limit, seen_padded = round_up(seen, step);
    float sums[MOST_ROWS];
    for (int r = 0; r < rows; ++r) {
      int64_t query = task.begin + (first + r) / group, head = task.head * group + (first + r) % group;
      const T* from = static_cast<const T*>(p.q) + (p.q_offsets[task.sequence] + query) * p.q_stride + head * p.width;
      for (int64_t d = 0; d < p.width; ++d) put(queries[r * padded + d], from[d]);
      for (int64_t d = p.width; d < padded; ++d) queries[r * padded + d] = E{};
    }
    for (int64_t key = 0; key < seen; key += PANEL)
      tile(rows, queries, padded, keys + key * padded, padded, scores + key, score_stride);
    for (int r = 0; r < rows; ++r) {
      int64_t own = p.is_causal ? before + task.begin + (first + r) / group + 1 : limit;
      sums[r] = softmax<E>(scores + r * score_stride, own, seen_padded, p.scale);
    }
    const E* weights = reinterpret_cast<const E*>(scores);
    int64_t weight_stride = score_stride * static_cast<int64_t>(sizeof(float) / sizeof(E));
    for (int64_t start = 0; start < p.width; start += PANEL)
      tile(rows, weights, weight_stride, values + start * num_keys, seen_padded, mixed + start, columns);
    for (int r = 0; r < rows; ++r) {
      int64_t query = task.begin + (first + r) / group, head = task.head * group + (first + r) % group;
      T* to = static_cast<T*>(p.out) + ((p.q_offsets[task.sequence] + query) * p.heads + head) * p.width;
      Vec inverse = Vec::all(1.0f / sums[r]);
      each_vector(p.width, [&](int64_t i, int n) { (Vec::load(mixed + r * columns + i, n) * inverse).store(to + i, n); });
    }
    first += rows;
  }
}

// The longest first, so that no thread begins a long one when the others are done: batches are ordered by length.
std::vector<Task> tasks_of(const Problem& p, int64_t sequences) {
  std::vector<Task> tasks;
  for (int64_t b = sequences - 1; b >= 0; --b) {
    int64_t parts = (p.queries(b) + PART - 1) / PART;
    for (int64_t part = parts - 1; part >= 0; --part)
      for (int64_t head = 0; head < p.kv_heads; ++head)
        tasks.push_back({b, head, part * PART, std::min(p.queries(b), (part + 1) * PART)});
  }
  return tasks;
}

}  // namespace
}  // namespace inlay

using namespace inlay;

// Queries are the last of their sequence's positions: q_offsets count them, k_offsets the keys.
INLAY_EXPORT void inlay_attention(int64_t sequences, int64_t heads, int64_t kv_heads, int64_t width, const void* q,
                                  int64_t q_stride, const void* k, const void* v, int64_t kv_stride, int32_t dtype,
                                  const int64_t* q_offsets, const int64_t* k_offsets, int32_t is_causal, float scale,
                                  void* out) {
  Problem problem{heads,     kv_heads,  width,     q,     k,  v, q_stride, kv_stride,
                  q_offsets, k_offsets, is_causal != 0, scale, out};
  std::vector<Task> tasks = tasks_of(problem, sequences);
  std::atomic<size_t> next{0};
  struct Work {
    const Problem& problem;
    const std::vector<Task>& tasks;
    std::atomic<size_t>& next;
    bool is_half;
  } work{problem, tasks, next, dtype == BFLOAT16};
  auto body = [](int64_t, int64_t, void* context) {
    Work& work = *static_cast<Work*>(context);
    for (size_t i; (i = work.next++) < work.tasks.size();) {
      if (work.is_half) attend<Half, bf16>(work.problem, work.tasks[i]);
      else attend<float, float>(work.problem, work.tasks[i]);
    }
  };
  parallel_for(0, num_threads, 1, body, &work);
}
