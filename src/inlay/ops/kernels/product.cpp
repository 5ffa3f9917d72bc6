// The matrix product of a layer: rows times panels of a packed weight.
#include "product.h"

namespace inlay {
namespace {

constexpr int64_t PANEL_BLOCK = 1 << 18;  // bytes of weights that a thread takes at a time: a part of its own cache
constexpr int64_t ROW_BLOCK = 192;
constexpr int64_t FEW_ROWS = 4 * MOST_ROWS;
constexpr int64_t SHARED_CACHE = 1 << 24;  // bytes of a weight that every block may read again
constexpr int64_t BLOCK_SUMS = 1 << 17;    // floats of a block, in the thread's own cache
constexpr int64_t MOST_BLOCK_ROWS = 8 * MOST_ROWS;
constexpr int64_t CHUNK =
    1 << 11;  // bytes of a row that are summed up at a time: those of a tile stay in the nearest cache

int64_t panel_bytes(const Input& in) {
  return PANEL * in.width * (in.dtype == BYTES ? 1 : in.dtype == BFLOAT16 ? 2 : 4);
}
int64_t panels_at_once(const Input& in) { return std::max<int64_t>(PANEL_BLOCK / panel_bytes(in), 1); }

// What sums of a panel begin with; null for 0.
const float* start_of(const Input&, int64_t, float) { return nullptr; }
[[maybe_unused]] const int32_t* start_of(const Input& in, int64_t column, int32_t) { return in.starts + column; }

// Sums are floats in the end.
void finish(const Input&, int64_t, int, float*, int64_t) {}
#if defined(__AVX512VNNI__)
void finish(const Input& in, int64_t column, int rows, int32_t* sums, int64_t stride) {
  Vec left = Vec::load(in.channels + column), right = Vec::load(in.channels + column + Vec::size);
  for (int r = 0; r < rows; ++r, sums += stride) {
    (Vec::of_integers(sums) * left).store(reinterpret_cast<float*>(sums));
    (Vec::of_integers(sums + Vec::size) * right).store(reinterpret_cast<float*>(sums + Vec::size));
  }
}
#endif

// The rows of a tile with some panels, chunk by chunk.
template <class E>
void multiply_tile(const Input& in, int64_t row, int rows, int64_t begin, int64_t end, float* to, int64_t stride) {
  using Number = typename Element<E>::Number;
  Tile<E> run = tile<E>(rows);
  auto x = static_cast<const E*>(in.at(row));
  auto weight = static_cast<const typename Element<E>::Factor*>(in.panels);
  constexpr int64_t most = CHUNK / sizeof(E);
  for (int64_t k = 0; k < in.width; k += most) {
    int64_t count = std::min(most, in.width - k);
    for (int64_t panel = begin; panel < end; ++panel) {
      int64_t column = panel * PANEL;
      Number* sums = reinterpret_cast<Number*>(to) + column;
      const Number* start = k == 0 ? start_of(in, column, Number()) : sums;
      run(x + k, in.stride, weight + column * in.width + k * PANEL, count, start, k == 0 ? 0 : stride, sums, stride);
      if (k + count == in.width) finish(in, column, rows, sums, stride);
    }
  }
}

// Tile by tile, with as many panels as the cache keeps until the last tile. Few tiles wait for the weights to come from
// memory: they take panel by panel, so that the next one is on its way while they compute.
template <class E>
void multiply_as(const Input& in, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to) {
  int64_t stride = sums_stride(in);
  for (int64_t group = begin, at_once = rows > FEW_ROWS ? panels_at_once(in) : 1; group < end; group += at_once) {
    for (int64_t row = 0; row < rows;) {
      int count = rows_at_once(rows - row);
      multiply_tile<E>(in, first + row, count, group, std::min(group + at_once, end), to + row * stride, stride);
      row += count;
    }
  }
}

}  // namespace

void multiply(const Input& in, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to) {
  switch (in.dtype) {
#if defined(__AVX512VNNI__)
    case BYTES:
      return multiply_as<uint8_t>(in, first, rows, begin, end, to);
#endif
#if defined(__AVX512BF16__)
    case BFLOAT16:
      return multiply_as<bf16>(in, first, rows, begin, end, to);
#endif
    default:
      return multiply_as<float>(in, first, rows, begin, end, to);
  }
}

void multiply_together(const Input& in, int64_t first, int64_t rows, float* to) {
  int64_t panels = num_panels(in), share = (panels + 4 * num_threads() - 1) / (4 * num_threads());
  int64_t columns = std::min(panels_at_once(in), share);
  int64_t row_blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
  int64_t tasks = (panels + columns - 1) / columns * row_blocks;
  auto task = [&](int64_t index) {
    int64_t begin = index / row_blocks * columns, row = index % row_blocks * ROW_BLOCK;
    int64_t count = std::min(ROW_BLOCK, rows - row), end = std::min(begin + columns, panels);
    multiply(in, first + row, count, begin, end, to + row * sums_stride(in));
  };
  each_task(tasks, task);
}

int64_t block_rows(const Input& in, int64_t rows) {
  if (num_panels(in) * panel_bytes(in) > SHARED_CACHE) return 0;
  int64_t fitting = BLOCK_SUMS / sums_stride(in) / MOST_ROWS * MOST_ROWS;
  int64_t most = std::clamp<int64_t>(fitting, MOST_ROWS, MOST_BLOCK_ROWS);
  int64_t share = rows / (4 * num_threads()) / MOST_ROWS * MOST_ROWS;  // four for each thread, so that none waits long
  return std::min(most, share);
}

}  // namespace inlay

using namespace inlay;

// out [rows, width_out] = the sums of a product, as floats.
INLAY_EXPORT int32_t inlay_multiply(int64_t rows, const Input* in, float* out) {
  return guarded([&] {
    each_row(*in, rows, [&](int64_t row, const Values& values) {
      std::memcpy(out + row * in->width_out, values.data, in->width_out * sizeof(float));
    });
  });
}

// A weight [width_out, words] of 4-byte words in panels; outputs that are not there are zero.
INLAY_EXPORT int32_t inlay_pack(int64_t width_out, int64_t words, const int32_t* from, int32_t* to) {
  return guarded([&] {
    int64_t panels = round_up(width_out, PANEL) / PANEL;
    each_row(panels, PANEL * words, [&](int64_t panel) {
      for (int64_t output = 0; output < PANEL; ++output) {
        int64_t row = panel * PANEL + output;
        int32_t* place = to + panel * PANEL * words + output;
        for (int64_t word = 0; word < words; ++word)
          place[word * PANEL] = row < width_out ? from[row * words + word] : 0;
      }
    });
  });
}

INLAY_EXPORT int64_t inlay_panel() { return PANEL; }
