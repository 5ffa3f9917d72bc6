// Softmax attention over packed sequences: scores of a few rows at a time, never those above the diagonal.
//
// A task is the queries of one sequence (at most PART positions of it) with one key head. It packs the keys and
// values that its queries may see, then takes MOST_ROWS queries at a time: all their scores, an exact softmax in
// float32, the weighted sum. The heads that share a key head count as rows. What a query gets depends on its own
// sequence alone, bit for bit.
#include <type_traits>

#include "math.h"
#include "product.h"
#include "program.h"

namespace inlay {
namespace {

#if defined(INLAY_HALVES)
using Half = bf16;  // what bfloat16 inputs are computed in
#else
using Half = float;
#endif

// The element of tiles that a type is computed in.
template <class E>
struct ElementOf {
  using type = Floats;
};
#if defined(INLAY_HALVES)
template <>
struct ElementOf<bf16> {
  using type = Halves;
};
#endif
template <class E>
using Element = typename ElementOf<E>::type;

constexpr int64_t PART = 512;  // positions of a task: packing its keys costs next to nothing beside their use

struct Problem {
  int64_t heads, kv_heads, width;
  const void *q, *k, *v;
  int64_t q_stride, kv_stride;
  const int64_t *q_offsets, *k_offsets;  // [sequences + 1]
  bool is_causal;
  float scale;
  void* out;  // [queries, heads · width]
  int64_t out_stride;

  int64_t queries(int64_t b) const { return q_offsets[b + 1] - q_offsets[b]; }
  int64_t keys(int64_t b) const { return k_offsets[b + 1] - k_offsets[b]; }
};

struct Task {
  int64_t sequence, head, begin, end;  // queries [begin, end) of the sequence
};

template <class E>
struct Memory {
  Kept<E> queries, keys, values;
  Kept<float> scores, mixed;

  static Memory& of_thread() {
    thread_local Memory memory;
    return memory;
  }
};

[[maybe_unused]] float as_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
void put(float& to, float from) { to = from; }
[[maybe_unused]] void put(float& to, bf16 from) { to = as_float(from); }
[[maybe_unused]] void put(bf16& to, bf16 from) { to = from; }

// The keys of one sequence and key head, or its values: `count` rows of `width`.
template <class T>
struct Source {
  const T* first;
  int64_t stride, count, width;

  T at(int64_t row, int64_t i) const { return row < count && i < width ? first[row * stride + i] : T{}; }
};

// A panel of a matrix whose columns are keys: [padded / step][PANEL][step], zeros where there is no key.
template <class E, class T>
void pack_keys(const Source<T>& from, int64_t first_key, int64_t padded, E* to) {
  constexpr int64_t step = Element<E>::step, line = 64 / sizeof(E);
  if (!std::is_same_v<E, T> || from.width % step != 0) {
    for (int64_t d = 0; d < padded; ++d)
      for (int64_t key = 0; key < PANEL; ++key)
        put(to[d / step * PANEL * step + key * step + d % step], from.at(first_key + key, d));
    return;
  }
  // Whole words. Rows lie far apart and may share a set of the cache: a line of each is read once.
  int64_t there = std::min(from.count - first_key, PANEL);
  for (int64_t start = 0; start < padded; start += line) {
    int64_t end = std::min(start + line, padded);
    for (int64_t key = 0; key < there; ++key)
      for (int64_t d = start; d < end; d += step)
        std::memcpy(to + d * PANEL + key * step, from.first + (first_key + key) * from.stride + d, step * sizeof(E));
    for (int64_t d = start; d < end && there < PANEL; d += step)
      std::fill_n(to + d * PANEL + there * step, (PANEL - there) * step, E{});
  }
}

// A panel of a matrix whose columns are components: [num_keys / step][PANEL][step], zeros where there is none.
template <class E, class T>
void pack_values(const Source<T>& from, int64_t first, int64_t num_keys, E* to) {
  constexpr int64_t step = Element<E>::step;
  bool is_whole = first + PANEL <= from.width;
  for (int64_t key = 0; key < num_keys; key += step, to += PANEL * step) {
    for (int64_t part = 0; part < step; ++part) {
      const T* row = from.first + (key + part) * from.stride + first;
      if (is_whole && key + part < from.count)
        for (int64_t d = 0; d < PANEL; ++d) put(to[d * step + part], row[d]);
      else
        for (int64_t d = 0; d < PANEL; ++d) put(to[d * step + part], from.at(key + part, first + d));
    }
  }
}

template <class E, class T>
void pack(const Problem& p, const Task& task, int64_t limit, int64_t padded, int64_t num_keys, E* keys, E* values) {
  int64_t place = p.k_offsets[task.sequence] * p.kv_stride + task.head * p.width;
  Source<T> k{static_cast<const T*>(p.k) + place, p.kv_stride, limit, p.width};
  Source<T> v{static_cast<const T*>(p.v) + place, p.kv_stride, limit, p.width};
  for (int64_t key = 0; key < limit; key += PANEL) pack_keys<E, T>(k, key, padded, keys + key * padded);
  for (int64_t start = 0; start < p.width; start += PANEL)
    pack_values<E, T>(v, start, num_keys, values + start * num_keys);
}

void store_weight(float* to, Vec x, int n) { x.store(to, n); }
[[maybe_unused]] void store_weight(bf16* to, Vec x, int n) { x.store(to, n); }

// e^((score − largest) · scale), as exactly as the weights are kept.
template <class E>
Vec power(Vec score, float largest, float scale) {
  if constexpr (std::is_same_v<E, float>) {
    return exp((score - Vec::all(largest)) * Vec::all(scale));
  } else {
    float in_twos = scale * 1.44269504f;
    return exp2_for_halves(fma(score, Vec::all(in_twos), Vec::all(-largest * in_twos)));
  }
}

// Turns a row of scores into weights, in place, with zeros from `seen` to `padded`; their sum before the division.
template <class E>
float softmax(float* row, int64_t seen, int64_t padded, float scale) {
  Vec most = Vec::all(-INFINITY);
  each_vector(seen, [&](int64_t i, int n) { most = max(most, Vec::load(row + i, n).keep(n, -INFINITY)); });
  float largest = most.max();
  Vec total = Vec::all(0.0f);
  E* weights = reinterpret_cast<E*>(row);
  each_vector(seen, [&](int64_t i, int n) {
    Vec x = power<E>(Vec::load(row + i, n), largest, scale).keep(n, 0.0f);
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
  int64_t score_stride =
      round_up(limit, PANEL) + Vec::size;  // odd in lines, or the rows of a tile share one set of the cache
  E* keys = memory.keys.grown(round_up(limit, PANEL) * padded);
  E* values = memory.values.grown(num_keys * columns);
  E* queries = memory.queries.grown(MOST_ROWS * padded);
  float* scores = memory.scores.grown(MOST_ROWS * score_stride);
  float* mixed = memory.mixed.grown(MOST_ROWS * columns);
  pack<E, T>(p, task, limit, padded, num_keys, keys, values);
  int64_t total = (task.end - task.begin) * group;
  for (int64_t first = 0; first < total;) {
    int rows = rows_at_once(total - first);
    Tile<Element<E>> multiply_tile = tile<Element<E>>(rows);
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
      multiply_tile(queries, padded, keys + key * padded, padded, nullptr, 0, scores + key, score_stride);
    for (int r = 0; r < rows; ++r) {
      int64_t own = p.is_causal ? before + task.begin + (first + r) / group + 1 : limit;
      sums[r] = softmax<E>(scores + r * score_stride, own, seen_padded, p.scale);
    }
    const E* weights = reinterpret_cast<const E*>(scores);
    int64_t weight_stride = score_stride * static_cast<int64_t>(sizeof(float) / sizeof(E));
    for (int64_t start = 0; start < p.width; start += PANEL)
      multiply_tile(weights, weight_stride, values + start * num_keys, seen_padded, nullptr, 0, mixed + start, columns);
    for (int r = 0; r < rows; ++r) {
      int64_t query = task.begin + (first + r) / group, head = task.head * group + (first + r) % group;
      T* to = static_cast<T*>(p.out) + (p.q_offsets[task.sequence] + query) * p.out_stride + head * p.width;
      Vec inverse = Vec::all(1.0f / sums[r]);
      each_vector(p.width,
                  [&](int64_t i, int n) { (Vec::load(mixed + r * columns + i, n) * inverse).store(to + i, n); });
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
INLAY_EXPORT int32_t inlay_attention(int64_t sequences, int64_t heads, int64_t kv_heads, int64_t width, const void* q,
                                     int64_t q_stride, const void* k, const void* v, int64_t kv_stride, int32_t dtype,
                                     const int64_t* q_offsets, const int64_t* k_offsets, int32_t is_causal, float scale,
                                     void* out, int64_t out_stride) {
  return perform([=] {
    Problem problem{heads,     kv_heads,  width,          q,     k,   v,         q_stride, kv_stride,
                    q_offsets, k_offsets, is_causal != 0, scale, out, out_stride};
    std::vector<Task> tasks = tasks_of(problem, sequences);
    auto attend_to = [&](int64_t index) {
      if (dtype == BFLOAT16) attend<Half, bf16>(problem, tasks[index]);
      else attend<float, float>(problem, tasks[index]);
    };
    each_task(static_cast<int64_t>(tasks.size()), attend_to);
  });
}
