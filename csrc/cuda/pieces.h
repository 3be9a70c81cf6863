// Rows that lie in memory as pieces: one piece when they are rows of a matrix, one per tensor when they are lists.
//
// The pieces' ends and addresses travel in the kernel's parameters (32 KB since CUDA 12.1), so a launch copies no
// table to the device and can be captured in a graph; longer lists are cut into several launches.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/limits.h"
#include "runtime.h"

namespace esper::cuda {

// Columns at which a piece may be cut: whole 128-byte lines for every dtype.
inline constexpr int64_t kCut = 64;

inline constexpr int kSmallTable = 192;
inline constexpr int kLargeTable = 4032;

template <int kWords>
struct PieceTable {
  int rows;
  int pieces;
  int64_t columns;
  int64_t words[kWords];  // `pieces` ends, then the addresses [piece][row]; a null address is a piece of zeros

  __device__ int64_t start(int piece) const { return piece == 0 ? 0 : words[piece - 1]; }
  __device__ int64_t end(int piece) const { return words[piece]; }
  template <typename T>
  __device__ const T* address(int piece, int row) const {
    return reinterpret_cast<const T*>(words[pieces + static_cast<int64_t>(piece) * rows + row]);
  }
  __device__ int find(int64_t column) const {
    int low = 0;
    int high = pieces - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (words[middle] > column)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
};
static_assert(sizeof(PieceTable<kLargeTable>) + 256 <= 32764, "kernel parameters end at 32,764 bytes");

// Calls body(piece, begin, end) for the parts of [begin, end) in each piece, in columns of the piece. Parts start at
// multiples of kCut within their piece; ranges that follow each other leave nothing out and take nothing twice.
template <typename Table, typename Body>
__device__ inline void for_each_part(const Table& table, int64_t begin, int64_t end, Body&& body) {
  if (end > table.columns) end = table.columns;
  if (begin >= end) return;
  for (int piece = table.find(begin); piece < table.pieces; ++piece) {
    const int64_t start = table.start(piece);
    if (start >= end) break;
    const int64_t stop = table.end(piece);
    const int64_t low = begin > start ? (begin - start) / kCut * kCut : 0;
    const int64_t high = end >= stop ? stop - start : (end - start) / kCut * kCut;
    if (low < high) body(piece, low, high);
  }
}

// K rows of equal length on one device.
struct Rows {
  int count = 0;
  ScalarType dtype = ScalarType::Float;
  int64_t columns = 0;
  std::vector<int64_t> sizes;          // columns of each piece, none of them 0
  std::vector<const void*> addresses;  // [piece][row]

  void add_piece(int64_t size) {
    sizes.push_back(size);
    columns += size;
  }
};

template <int kWords>
PieceTable<kWords> make_table(const Rows& rows, size_t first, size_t last) {
  PieceTable<kWords> table;
  table.rows = rows.count;
  table.pieces = static_cast<int>(last - first);
  table.columns = 0;
  for (size_t piece = first; piece < last; ++piece) table.words[piece - first] = table.columns += rows.sizes[piece];
  for (size_t word = first * rows.count; word < last * rows.count; ++word) {
    table.words[table.pieces + word - first * rows.count] = reinterpret_cast<int64_t>(rows.addresses[word]);
  }
  return table;
}

// Calls body(table, column) for the tables that hold all pieces between them; column is where a table's pieces start.
// kAnySize = false uses the large table alone, which halves the kernels to compile.
template <bool kAnySize = true, typename Body>
void for_each_table(const Rows& rows, Body&& body) {
  const size_t capacity = kLargeTable / (1 + rows.count);
  int64_t column = 0;
  for (size_t first = 0; first < rows.sizes.size(); first += capacity) {
    const size_t last = std::min(rows.sizes.size(), first + capacity);
    if (!kAnySize || (last - first) * (1 + rows.count) > kSmallTable) {
      body(make_table<kLargeTable>(rows, first, last), column);
    } else if constexpr (kAnySize) {
      body(make_table<kSmallTable>(rows, first, last), column);
    }
    for (size_t piece = first; piece < last; ++piece) column += rows.sizes[piece];
  }
}

}  // namespace esper::cuda
