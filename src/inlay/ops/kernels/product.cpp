// The matrix product of a layer: rows times panels of a packed weight.
#include "product.h"
#include "program.h"

#include <type_traits>

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
  return PANEL * in.width * (in.panel_dtype == BYTES ? 1 : in.panel_dtype == BFLOAT16 ? 2 : 4);
}
int64_t panels_at_once(const Input& in) { return std::max<int64_t>(PANEL_BLOCK / panel_bytes(in), 1); }

// What sums of a panel begin with; null for 0.
const float* start_of(const Input&, int64_t, float) { return nullptr; }
const int32_t* start_of(const Input& in, int64_t column, int32_t) { return in.starts + column; }

// Sums are floats in the end.
void finish(const Input&, int64_t, int, float*, int64_t) {}
void finish(const Input& in, int64_t column, int rows, int32_t* sums, int64_t stride) {
  Vec left = Vec::load(in.channels + column), right = Vec::load(in.channels + column + Vec::size);
  for (int r = 0; r < rows; ++r, sums += stride) {
    (Vec::of_integers(sums) * left).store(reinterpret_cast<float*>(sums));
    (Vec::of_integers(sums + Vec::size) * right).store(reinterpret_cast<float*>(sums + Vec::size));
  }
}

// Rows as a tile reads them.
template <class R>
struct Read {
  const R* data;
  int64_t stride;
};

template <class X>
Read<typename X::Row> read_rows(const Input& in, int64_t first, int64_t rows) {
#if defined(INLAY_WIDENS_BYTES)
  if constexpr (std::is_same_v<X, Bytes>) {
    // Rows apart by an odd number of lines.
    int64_t stride = round_up(in.width, 32) + (in.width % 64 < 32 ? 32 : 0);
    auto wide = reinterpret_cast<int16_t*>(scratch<Read<int16_t>>(rows * stride / 2));
    for (int64_t row = 0; row < rows; ++row)
      X::widen(static_cast<const uint8_t*>(in.at(first + row)), in.width, wide + row * stride);
    return {wide, stride};
  }
#endif
  return {static_cast<const typename X::Row*>(in.at(first)), in.stride};
}

// Rows of a tile with some panels, chunk by chunk.
template <class X>
void multiply_tile(const Input& in, const typename X::Row* x, int64_t x_stride, int rows, int64_t begin, int64_t end,
                   float* to, int64_t stride) {
  using Number = typename X::Number;
  Tile<X> run = tile<X>(rows);
  auto weight = static_cast<const typename X::Factor*>(in.panels);
  constexpr int64_t most = CHUNK / sizeof(typename X::Row);
  for (int64_t k = 0; k < in.width; k += most) {
    int64_t count = std::min(most, in.width - k);
    for (int64_t panel = begin; panel < end; ++panel) {
      int64_t column = panel * PANEL;
      Number* sums = reinterpret_cast<Number*>(to) + column;
      const Number* start = k == 0 ? start_of(in, column, Number()) : sums;
      run(x + k, x_stride, weight + column * in.width + k * PANEL, count, start, k == 0 ? 0 : stride, sums, stride);
      if (k + count == in.width) finish(in, column, rows, sums, stride);
    }
  }
}

// Tile by tile, with as many panels as the cache keeps until the last tile. Few tiles wait for the weights to come from
// memory: they take panel by panel, so that the next one is on its way while they compute.
template <class X>
void multiply_as(const Input& in, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to) {
  int64_t stride = sums_stride(in);
  auto read = read_rows<X>(in, first, rows);
  for (int64_t group = begin, at_once = rows > FEW_ROWS ? panels_at_once(in) : 1; group < end; group += at_once) {
    for (int64_t row = 0; row < rows;) {
      int count = rows_at_once(rows - row);
      multiply_tile<X>(in, read.data + row * read.stride, read.stride, count, group, std::min(group + at_once, end),
                       to + row * stride, stride);
      row += count;
    }
  }
}

}  // namespace

void multiply(const Input& in, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to) {
  if (in.panel_dtype == BYTES) return multiply_as<Bytes>(in, first, rows, begin, end, to);
#if defined(INLAY_HALVES)
  if (in.dtype == BFLOAT16) return multiply_as<Halves>(in, first, rows, begin, end, to);
#endif
  if (in.panel_dtype == BFLOAT16) return multiply_as<KeptHalves>(in, first, rows, begin, end, to);
  multiply_as<Floats>(in, first, rows, begin, end, to);
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
  return perform([=, in = *in] {
    each_row(in, rows, [&](int64_t row, const Values& values) {
      std::memcpy(out + row * in.width_out, values.data, in.width_out * sizeof(float));
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
// What products take off each byte of a row; what sums begin with must make up for it.
INLAY_EXPORT int64_t inlay_byte_offset() { return BYTE_OFFSET; }
// Are rows of bfloat16 multiplied as they are? Else a weight in bfloat16 takes rows of floats.
INLAY_EXPORT int64_t inlay_multiplies_halves() {
#if defined(INLAY_HALVES)
  return 1;
#else
  return 0;
#endif
}
