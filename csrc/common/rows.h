// K vectors of N elements, each laid out as the same columns: one column for a row of a pool, one per tensor for a
// list.

#pragma once

#include <algorithm>
#include <cstdint>

#include "dtype.h"
#include "limits.h"
#include "tiles.h"

namespace esper {

struct Rows {
  int k;
  int64_t columns;
  const int64_t* offsets;   // [columns + 1], ascending; the last is N
  const void* const* data;  // [k * columns]; null is an absent gradient, all zeros
  DType dtype;

  int64_t size() const { return offsets[columns]; }
};

// Elements of one row in a tile: all rows together stay within the second-level cache, and in whole lanes.
inline int64_t tile_width(int k) { return std::clamp<int64_t>(16384 / std::max(k, 1) / 64 * 64, 256, 2048); }

template <class T>
inline void load_tile_piece(const Tiles& t, const Rows& rows, const void* from, int64_t n, T* to) {
  if constexpr (sizeof(T) == 8) {
    t.load_f64(rows.dtype, from, n, to);
  } else {
    t.load_f32(rows.dtype, from, n, to);
  }
}

// Copies elements [begin, begin + n) of every row into tile[k][stride] and pads with zeros up to `padded`.
template <class T>
inline void load_tile(
    const Tiles& t, const Rows& rows, int64_t begin, int64_t n, int64_t padded, int64_t stride, T* tile) {
  const int64_t* after = std::upper_bound(rows.offsets, rows.offsets + rows.columns, begin);
  const int64_t first = after - rows.offsets - 1;
  const int64_t item = size_bytes(rows.dtype);
  for (int k = 0; k < rows.k; ++k) {
    T* to = tile + k * stride;
    int64_t column = first;
    for (int64_t done = 0; done < n; ++column) {
      const int64_t start = begin + done - rows.offsets[column];
      const int64_t count = std::min(n - done, rows.offsets[column + 1] - rows.offsets[column] - start);
      const char* from = static_cast<const char*>(rows.data[k * rows.columns + column]);
      if (from == nullptr) {
        std::fill_n(to + done, count, T(0));
      } else {
        load_tile_piece(t, rows, from + start * item, count, to + done);
      }
      done += count;
    }
    std::fill(to + n, to + padded, T(0));
  }
}

}  // namespace esper
