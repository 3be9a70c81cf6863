// K vectors of N elements, each laid out as the same columns: one column for a row of a pool, one per tensor for a
// list.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

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

// Elements of one row in a tile, in whole lanes: all rows together, in float64, stay near the first-level cache.
inline int64_t tile_width(int k) { return k <= 4 ? 512 : 256; }

// The column that element `at` lies in.
inline int64_t column_of(const Rows& rows, int64_t at) {
  return std::upper_bound(rows.offsets, rows.offsets + rows.columns, at) - rows.offsets - 1;
}

// Where element `at` of row k lies, given its column; null if the gradient is absent.
inline const char* address_of(const Rows& rows, int k, int64_t column, int64_t at) {
  const char* base = static_cast<const char*>(rows.data[k * rows.columns + column]);
  return base == nullptr ? nullptr : base + (at - rows.offsets[column]) * size_bytes(rows.dtype);
}

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
  const int64_t first = column_of(rows, begin);
  for (int k = 0; k < rows.k; ++k) {
    T* to = tile + k * stride;
    int64_t column = first;
    for (int64_t done = 0; done < n; ++column) {
      const int64_t count = std::min(n - done, rows.offsets[column + 1] - begin - done);
      const char* from = address_of(rows, k, column, begin + done);
      if (from == nullptr) {
        std::fill_n(to + done, count, T(0));
      } else {
        load_tile_piece(t, rows, from, count, to + done);
      }
      done += count;
    }
    std::fill(to + n, to + padded, T(0));
  }
}

// Memory for tiles: vector loads that cross a cache line cost half the speed.
template <class T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(int64_t count) : memory_(count + kLine / sizeof(T)) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory_.data());
    begin_ = reinterpret_cast<T*>((address + kLine - 1) / kLine * kLine);
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  T* data() { return begin_; }

 private:
  static constexpr uintptr_t kLine = 64;
  std::vector<T> memory_;
  T* begin_;
};

}  // namespace esper
