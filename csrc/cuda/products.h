// The kernel behind Gram matrices: inner products of K rows in float64, in one pass over the rows, on the
// double-precision tensor cores.
//
// For the product of a matrix with its own transpose the two operands of mma.m8n8k4 are the same registers: lane l
// holds element l % 4 of row l / 4 for both. So each lane loads 16 bytes of its row and no shared memory is needed.
// Which columns a lane holds does not matter to a sum over all columns. Up to four rows leave room for several column
// groups side by side; only the diagonal blocks of the result are then used.

#pragma once

#include "gram.h"
#include "pieces.h"
#include "vector.h"

namespace esper::cuda {

inline constexpr int kGramWarps = GramGrid::kWarps;
inline constexpr int kGramThreads = kGramWarps * kWarp;
inline constexpr int kTile = 8;

// Column groups that fit side by side into the eight rows of a tile.
inline int column_groups(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : rows <= 4 ? 2 : 1; }

__device__ inline void multiply_add(double (&sum)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(sum[0]), "+d"(sum[1])
      : "d"(a), "d"(b));
}

__host__ __device__ constexpr int pair_count(int n) { return n * (n + 1) / 2; }

// Position of (i, j), i <= j, among the pairs of n indices.
__host__ __device__ constexpr int pair_index(int n, int i, int j) { return i * n - i * (i - 1) / 2 + j - i; }

// Elements per load: 16 bytes, or 8 of a two-byte type, whose wider loads would double the code for nothing.
template <typename T>
inline constexpr int kLoad = sizeof(T) == 8 ? 2 : 4;

// What a warp has summed: a tile per pair of row groups and, if wanted, the squares of the lane's own elements.
template <int kGroups, bool kSquares>
struct Sums {
  double products[pair_count(kGroups)][2] = {};
  double squares[kSquares ? kGroups : 1] = {};
};

// Adds the products of all pairs of the values that the lanes hold, one of each row group.
template <typename T, int kGroups, bool kSquares>
__device__ inline void add_products(const T (&value)[kGroups], Sums<kGroups, kSquares>& sums) {
  double x[kGroups];
#pragma unroll
  for (int p = 0; p < kGroups; ++p) {
    x[p] = to_double(value[p]);
    if constexpr (kSquares) sums.squares[p] += x[p] * x[p];
  }
#pragma unroll
  for (int p = 0; p < kGroups; ++p) {
#pragma unroll
    for (int q = p; q < kGroups; ++q) multiply_add(sums.products[pair_index(kGroups, p, q)], x[p], x[q]);
  }
}

// Adds the tiles of all warps, then the column groups of a tile, and writes this block's share of every pair.
template <int kGroups>
__device__ void write_partials(
    const double (&sums)[pair_count(kGroups)][2],
    int rows,
    int column_groups,
    int64_t block,
    int64_t blocks,
    double* partials) {
  __shared__ double tiles[kGramWarps][kTile * kTile];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int slots = kTile / column_groups;
#pragma unroll
  for (int p = 0; p < kGroups; ++p) {
#pragma unroll
    for (int q = p; q < kGroups; ++q) {
      const double (&sum)[2] = sums[pair_index(kGroups, p, q)];
      tiles[warp][lane * 2] = sum[0];
      tiles[warp][lane * 2 + 1] = sum[1];
      __syncthreads();
      for (int entry = threadIdx.x; entry < slots * slots; entry += kGramThreads) {
        const int i = entry / slots;
        const int j = entry % slots;
        if (p * kTile + i > q * kTile + j || q * kTile + j >= rows) continue;
        double total = 0;
        for (int g = 0; g < column_groups; ++g) {
          for (int w = 0; w < kGramWarps; ++w) total += tiles[w][(g * slots + i) * kTile + g * slots + j];
        }
        partials[pair_index(rows, p * kTile + i, q * kTile + j) * blocks + block] = total;
      }
      __syncthreads();
    }
  }
}

// Adds columns [low, high) of the rows that the lanes point to.
template <typename T, int kGroups, int kUnroll, bool kSquares>
struct RangeAdder {
  static constexpr int kSize = kLoad<T>;
  static constexpr int kScalars = 8 / kGroups;

  const T* row[kGroups];  // null where the row is absent; another row, whose products no one reads, where none exists
  bool can_vectorise;     // every lane's rows are present and aligned
  int cell;               // the lane's place in a step of `cells` packs or elements
  int cells;

  // Element by element, side by side in memory: the ends of a range, or all of rows that are not aligned.
  __device__ void add_elements(int64_t low, int64_t high, Sums<kGroups, kSquares>& sums) const {
    for (int64_t column = low + cell; column - cell < high; column += cells * kScalars) {
      T values[kScalars][kGroups];
#pragma unroll
      for (int u = 0; u < kScalars; ++u) {
        const int64_t at = column + u * cells;
#pragma unroll
        for (int p = 0; p < kGroups; ++p) values[u][p] = row[p] != nullptr && at < high ? row[p][at] : zero<T>();
      }
#pragma unroll
      for (int u = 0; u < kScalars; ++u) add_products(values[u], sums);
    }
  }

  // kStartsAligned: low is a multiple of kCut.
  template <bool kStartsAligned>
  __device__ void add(int64_t low, int64_t high, Sums<kGroups, kSquares>& sums) const {
    if constexpr (!kStartsAligned) {
      const int64_t first = (low + kSize - 1) / kSize * kSize;
      if (first > low) add_elements(low, first < high ? first : high, sums);
      low = first < high ? first : high;
    }
    const int step = cells * kSize * kUnroll;
    const int64_t whole = can_vectorise ? low + (high - low) / step * step : low;
    for (int64_t column = low; column < whole; column += step) {
      Pack<T, kSize> packs[kUnroll][kGroups];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int p = 0; p < kGroups; ++p) {
          packs[u][p] = load_ahead<kSize>(row[p] + column + (u * cells + cell) * kSize);
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) {
          T value[kGroups];
#pragma unroll
          for (int p = 0; p < kGroups; ++p) value[p] = packs[u][p].v[e];
          add_products(value, sums);
        }
      }
    }
    if (whole < high) add_elements(whole, high, sums);
  }
};

// Rows summed as a whole. A type in its place may split a warp's columns and take the squares of each part.
struct WholeRows {
  static constexpr bool kSquares = false;
  template <typename Adder, typename AnySums>
  __device__ void add(const Adder& adder, int64_t low, int64_t high, int, AnySums& sums) const {
    adder.template add<true>(low, high, sums);
  }
};

// partials[pair][block]; the launches of one reduction write blocks [first_block, first_block + gridDim.x) of `blocks`.
struct Partials {
  double* sums;
  int64_t first_block;
  int64_t blocks;
};

// Blocks stride over the columns together, which keeps what is in flight close together in memory.
// All of a launch's blocks must fit on the device at once, or the last ones would stride over their columns alone.
template <typename T, int kGroups, int kUnroll, int kWords, typename Split>
__global__ void __launch_bounds__(
    kGramThreads,
    kGroups == 1   ? 8
    : kGroups == 2 ? 6
                   : 1)
    gram_kernel(
        const __grid_constant__ PieceTable<kWords> table,
        int64_t warp_columns,
        int column_groups,
        Split split,
        Partials partials) {
  const int slots = kTile / column_groups;
  const int slot = threadIdx.x % kWarp / 4;
  Sums<kGroups, Split::kSquares> sums;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kGramWarps;
  for (int64_t begin = (static_cast<int64_t>(blockIdx.x) * kGramWarps + threadIdx.x / kWarp) * warp_columns;
       begin < table.columns; begin += warps * warp_columns) {
    for_each_part(table, begin, begin + warp_columns, [&](int piece, int64_t low, int64_t high) {
      RangeAdder<T, kGroups, kUnroll, Split::kSquares> adder;
      bool can_vectorise = true;
#pragma unroll
      for (int p = 0; p < kGroups; ++p) {
        const int k = p * kTile + slot % slots;
        adder.row[p] = table.template address<T>(piece, k < table.rows ? k : 0);
        can_vectorise = can_vectorise && adder.row[p] != nullptr && is_aligned(adder.row[p]);
      }
      adder.can_vectorise = __all_sync(~0u, can_vectorise);
      adder.cell = slot / slots * 4 + threadIdx.x % 4;
      adder.cells = column_groups * 4;
      split.add(adder, low, high, table.rows, sums);
    });
  }
  write_partials<kGroups>(
      sums.products, table.rows, column_groups, partials.first_block + blockIdx.x, partials.blocks, partials.sums);
}

}  // namespace esper::cuda
