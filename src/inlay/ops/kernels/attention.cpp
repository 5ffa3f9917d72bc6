// Softmax attention over packed sequences: scores of a few rows at a time, never those that no row of them sees.
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
  int64_t window;  // keys further away are not seen; -1: all are
  float scale;
  const float* bias;     // [heads, 2 · bias_middle + 1], of a score by its key's position less its query's; null: none
  int64_t bias_middle;  // the place of the distance 0
  void* out;             // [queries, heads · width]
  int64_t out_stride;

  int64_t queries(int64_t b) const { return q_offsets[b + 1] - q_offsets[b]; }
  int64_t keys(int64_t b) const { return k_offsets[b + 1] - k_offsets[b]; }
};

// Positions of keys.
struct Span {
  int64_t begin, end;

  int64_t length() const { return end - begin; }
};

// What the queries at positions `first` to `last` of a sequence see together.
Span seen_by(const Problem& p, int64_t sequence, int64_t first, int64_t last) {
  Span span{0, p.is_causal ? last + 1 : p.keys(sequence)};
  if (p.window >= 0) span = {std::max<int64_t>(0, first - p.window), std::min(span.end, last + p.window + 1)};
  return span;
}

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
void pack(const Problem& p, const Task& task, Span span, int64_t padded, int64_t num_keys, E* keys, E* values) {
  int64_t place = (p.k_offsets[task.sequence] + span.begin) * p.kv_stride + task.head * p.width;
  Source<T> k{static_cast<const T*>(p.k) + place, p.kv_stride, span.length(), p.width};
  Source<T> v{static_cast<const T*>(p.v) + place, p.kv_stride, span.length(), p.width};
  for (int64_t key = 0; key < span.length(); key += PANEL) pack_keys<E, T>(k, key, padded, keys + key * padded);
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

// Scales the scores of a row and adds what their distance says.
void add_bias(float* row, Span seen, float scale, const float* bias) {
  each_vector(seen.length(), [&](int64_t i, int n) {
    Vec x = fma(Vec::load(row + seen.begin + i, n), Vec::all(scale), Vec::load(bias + seen.begin + i, n));
    x.store(row + seen.begin + i, n);
  });
}

// Turns a row of scores into weights, in place, with zeros from 0 to `padded` where it sees nothing; their sum before
// the division.
template <class E>
float softmax(float* row, Span seen, int64_t padded, float scale) {
  const float* scores = row + seen.begin;
  Vec most = Vec::all(-INFINITY);
  each_vector(seen.length(), [&](int64_t i, int n) { most = max(most, Vec::load(scores + i, n).keep(n, -INFINITY)); });
  float largest = most.max();
  Vec total = Vec::all(0.0f);
  E* weights = reinterpret_cast<E*>(row);
  each_vector(seen.length(), [&](int64_t i, int n) {
    Vec x = power<E>(Vec::load(scores + i, n), largest, scale).keep(n, 0.0f);
    total = total + x;
    store_weight(weights + seen.begin + i, x, n);
  });
  std::fill(weights, weights + seen.begin, E{});
  std::fill(weights + seen.end, weights + padded, E{});
  return total.sum();
}

template <class E, class T>
void attend(const Problem& p, const Task& task) {
  constexpr int64_t step = Element<E>::step;
  Memory<E>& memory = Memory<E>::of_thread();
  int64_t group = p.heads / p.kv_heads, before = p.keys(task.sequence) - p.queries(task.sequence);
  Span span = seen_by(p, task.sequence, before + task.begin, before + task.end - 1);
  int64_t padded = round_up(p.width, step), columns = round_up(p.width, PANEL);
  int64_t num_keys = round_up(span.length(), step);
  int64_t score_stride =
      round_up(span.length(), PANEL) + Vec::size;  // odd in lines, or the rows of a tile share one set of the cache
  E* keys = memory.keys.grown(round_up(span.length(), PANEL) * padded);
  E* values = memory.values.grown(num_keys * columns);
  E* queries = memory.queries.grown(MOST_ROWS * padded);
  float* scores = memory.scores.grown(MOST_ROWS * score_stride);
  float* mixed = memory.mixed.grown(MOST_ROWS * columns);
  pack<E, T>(p, task, span, padded, num_keys, keys, values);
  int64_t total = (task.end - task.begin) * group;
  for (int64_t first = 0; first < total;) {
    int rows = rows_at_once(total - first);
    Tile<Element<E>> multiply_tile = tile<Element<E>>(rows);
    auto query_of = [&](int r) { return task.begin + (first + r) / group; };
    auto head_of = [&](int r) { return task.head * group + (first + r) % group; };
    // From here on keys are counted from the first of a panel that these rows see.
    Span seen = seen_by(p, task.sequence, before + query_of(0), before + query_of(rows - 1));
    int64_t skipped = (seen.begin - span.begin) / PANEL * PANEL, origin = span.begin + skipped;
    int64_t seen_padded = round_up(seen.end - origin, step);
    float sums[MOST_ROWS];
    for (int r = 0; r < rows; ++r) {
      int64_t place = (p.q_offsets[task.sequence] + query_of(r)) * p.q_stride + head_of(r) * p.width;
      const T* from = static_cast<const T*>(p.q) + place;
      for (int64_t d = 0; d < p.width; ++d) put(queries[r * padded + d], from[d]);
      for (int64_t d = p.width; d < padded; ++d) queries[r * padded + d] = E{};
    }
    for (int64_t key = 0; key < seen.end - origin; key += PANEL)
      multiply_tile(queries, padded, keys + (skipped + key) * padded, padded, nullptr, 0, scores + key, score_stride);
    for (int r = 0; r < rows; ++r) {
      int64_t position = before + query_of(r);
      Span own = seen_by(p, task.sequence, position, position);
      own = {own.begin - origin, own.end - origin};
      float* row = scores + r * score_stride;
      if (p.bias != nullptr)
        add_bias(row, own, p.scale, p.bias + head_of(r) * (2 * p.bias_middle + 1) + p.bias_middle + origin - position);
      sums[r] = softmax<E>(row, own, seen_padded, p.bias == nullptr ? p.scale : 1.0f);
    }
    const E* weights = reinterpret_cast<const E*>(scores);
    int64_t weight_stride = score_stride * static_cast<int64_t>(sizeof(float) / sizeof(E));
    for (int64_t start = 0; start < p.width; start += PANEL)
      multiply_tile(weights, weight_stride, values + start * num_keys + skipped * PANEL, seen_padded, nullptr, 0,
                    mixed + start, columns);
    for (int r = 0; r < rows; ++r) {
      int64_t place = (p.q_offsets[task.sequence] + query_of(r)) * p.out_stride + head_of(r) * p.width;
      T* to = static_cast<T*>(p.out) + place;
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
                                     const int64_t* q_offsets, const int64_t* k_offsets, int32_t is_causal,
                                     int64_t window, float scale, const float* bias, int64_t bias_middle, void* out,
                                     int64_t out_stride) {
  return perform([=] {
    Problem problem{heads,     kv_heads,       width,  q,     k,    v,           q_stride, kv_stride, q_offsets,
                    k_offsets, is_causal != 0, window, scale, bias, bias_middle, out,      out_stride};
    std::vector<Task> tasks = tasks_of(problem, sequences);
    auto attend_to = [&](int64_t index) {
      if (dtype == BFLOAT16) attend<Half, bf16>(problem, tasks[index]);
      else attend<float, float>(problem, tasks[index]);
    };
    each_task(static_cast<int64_t>(tasks.size()), attend_to);
  });
}
