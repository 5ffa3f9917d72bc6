// What stands before the first layer and behind the last: rows of tables, summed up, and means of rows.
#include "product.h"
#include "program.h"

using namespace inlay;

namespace {

struct Table {
  const void* rows;    // [count, width]
  const int64_t* ids;  // [rows]; null: the first row for all
  int64_t count;
};

constexpr int64_t MOST_TABLES = 4;

struct Tables {
  Table of[MOST_TABLES];
  int64_t count;

  Tables(const Table* from, int64_t number) : count(std::min(number, MOST_TABLES)) { std::copy_n(from, count, of); }
};

template <class T>
void add_row(const Table& table, int64_t row, int64_t width, bool is_first, float* to) {
  int64_t id = table.ids == nullptr ? 0 : table.ids[row];
  if (id < 0 || id >= table.count) throw Failure{OUT_OF_RANGE};
  const T* from = static_cast<const T*>(table.rows) + id * width;
  each_vector(width, [&](int64_t i, int n) {
    Vec x = Vec::load(from + i, n);
    (is_first ? x : Vec::load(to + i, n) + x).store(to + i, n);
  });
}

}  // namespace

// out [rows, width] = the sum of a row of each table, in their order.
INLAY_EXPORT int32_t inlay_look_up(int64_t rows, int64_t width, int64_t num_tables, const Table* tables, int32_t dtype,
                                   float* out) {
  return perform([=, given = Tables(tables, num_tables)] {
    if (num_tables > MOST_TABLES) throw Failure{FAILED};
    each_row(rows, width, [&](int64_t row) {
      for (int64_t table = 0; table < given.count; ++table) {
        auto add = dtype == BFLOAT16 ? add_row<bf16> : add_row<float>;
        add(given.of[table], row, width, table == 0, out + row * width);
      }
    });
  });
}

// out [sequences, width] = the mean of the rows [offsets[b], offsets[b + 1]) of x [rows, width], summed in their order.
INLAY_EXPORT int32_t inlay_mean(int64_t sequences, int64_t width, const float* x, const int64_t* offsets, float* out) {
  return perform([=] {
    int64_t length = offsets[sequences] / std::max<int64_t>(sequences, 1);
    each_row(sequences, width * std::max<int64_t>(length, 1), [&](int64_t b) {
      float* to = out + b * width;
      std::fill_n(to, width, 0.0f);
      for (int64_t row = offsets[b]; row < offsets[b + 1]; ++row)
        each_vector(width, [&](int64_t i, int n) {
          (Vec::load(to + i, n) + Vec::load(x + row * width + i, n)).store(to + i, n);
        });
      Vec count = Vec::all(static_cast<float>(offsets[b + 1] - offsets[b]));
      each_vector(width, [&](int64_t i, int n) { (Vec::load(to + i, n) / count).store(to + i, n); });
    });
  });
}
