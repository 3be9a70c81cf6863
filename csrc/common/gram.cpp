#include "gram.h"

#include <algorithm>
#include <vector>

namespace esper {
namespace {

constexpr int64_t kWave = 256;  // super-chunks whose partial sums are kept at once

int64_t pair_count(int64_t k) { return k * (k + 1) / 2; }

double sum_lanes(const double* s) { return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])); }

// Scratch of one thread: the tile and the lane sums of every pair.
template <class T>
struct Scratch {
  explicit Scratch(int k)
      : width(tile_width(k)),
        stride(width + kLanes),
        pairs(pair_count(k)),
        tile(k * stride),
        sums(pairs * lanes),
        next(k) {}
  static constexpr int64_t lanes = 64 / sizeof(T);
  int64_t width;
  int64_t stride;  // not a multiple of the page: rows would share cache sets
  int64_t pairs;
  AlignedBuffer<T> tile;
  AlignedBuffer<T> sums;
  std::vector<const void*> next;
};

// What the tile at `begin` will read, if no row's part of it crosses from one column to the next.
template <class T>
Ahead ahead_of(const Rows& rows, int64_t begin, int64_t end, Scratch<T>& scratch) {
  if (begin >= end) return {};
  const int64_t column = column_of(rows, begin);
  const int64_t n = std::min({scratch.width, end - begin, rows.offsets[column + 1] - begin});
  for (int k = 0; k < rows.k; ++k) scratch.next[k] = address_of(rows, k, column, begin);
  return {scratch.next.data(), n * size_bytes(rows.dtype)};
}

void chunk_products(const Rows& rows, int64_t begin, int64_t end, Scratch<double>& scratch, double* products) {
  const Tiles& t = tiles();
  std::fill_n(scratch.sums.data(), scratch.pairs * scratch.lanes, 0.0);
  for (int64_t at = begin; at < end; at += scratch.width) {
    const int64_t n = std::min(scratch.width, end - at);
    const int64_t padded = ceil_div(n, scratch.lanes) * scratch.lanes;
    load_tile(t, rows, at, n, padded, scratch.stride, scratch.tile.data());
    const Ahead ahead = ahead_of(rows, at + n, end, scratch);
    t.gram_f64(scratch.tile.data(), scratch.stride, rows.k, padded, ahead, scratch.sums.data());
  }
  for (int64_t p = 0; p < scratch.pairs; ++p) products[p] = sum_lanes(scratch.sums.data() + p * scratch.lanes);
}

// The fast mode: products are added in float32 within a tile, tiles in float64.
void chunk_products(const Rows& rows, int64_t begin, int64_t end, Scratch<float>& scratch, double* products) {
  const Tiles& t = tiles();
  std::fill_n(products, scratch.pairs, 0.0);
  for (int64_t at = begin; at < end; at += scratch.width) {
    const int64_t n = std::min(scratch.width, end - at);
    const int64_t padded = ceil_div(n, scratch.lanes) * scratch.lanes;
    load_tile(t, rows, at, n, padded, scratch.stride, scratch.tile.data());
    std::fill_n(scratch.sums.data(), scratch.pairs * scratch.lanes, 0.0f);
    const Ahead ahead = ahead_of(rows, at + n, end, scratch);
    t.gram_f32(scratch.tile.data(), scratch.stride, rows.k, padded, ahead, scratch.sums.data());
    for (int64_t p = 0; p < scratch.pairs; ++p)
      for (int64_t l = 0; l < scratch.lanes; ++l) products[p] += scratch.sums.data()[p * scratch.lanes + l];
  }
}

void unpack(const double* pairs, int k, double* out) {
  for (int i = 0; i < k; ++i)
    for (int j = i; j < k; ++j, ++pairs) out[i * k + j] = out[j * k + i] = *pairs;
}

template <class T>
void sum_chunks(const Rows& rows, ParallelFor parallel_for, double* totals) {
  const int64_t pairs = pair_count(rows.k);
  const int64_t size = rows.size();
  const int64_t chunks = ceil_div(size, kSuperChunk);
  std::vector<double> partial(std::min(chunks, kWave) * pairs);
  for (int64_t wave = 0; wave < chunks; wave += kWave) {
    const int64_t count = std::min(kWave, chunks - wave);
    const auto body = [&](int64_t first, int64_t last) {
      Scratch<T> scratch(rows.k);
      for (int64_t c = first; c < last; ++c) {
        const int64_t begin = (wave + c) * kSuperChunk;
        chunk_products(rows, begin, std::min(begin + kSuperChunk, size), scratch, partial.data() + c * pairs);
      }
    };
    parallel_for(count, 1, RangeBody(body));
    for (int64_t c = 0; c < count; ++c)
      for (int64_t p = 0; p < pairs; ++p) totals[p] += partial[c * pairs + p];
  }
}

}  // namespace

void gram(const Rows& rows, bool fast, ParallelFor parallel_for, double* out) {
  std::vector<double> totals(pair_count(rows.k), 0.0);
  if (fast && rows.dtype != DType::kFloat64) {
    sum_chunks<float>(rows, parallel_for, totals.data());
  } else {
    sum_chunks<double>(rows, parallel_for, totals.data());
  }
  unpack(totals.data(), rows.k, out);
}

void gram_of_range(const Rows& rows, int64_t begin, int64_t end, double* out) {
  std::vector<double> totals(pair_count(rows.k), 0.0), products(pair_count(rows.k));
  Scratch<double> scratch(rows.k);
  for (int64_t at = begin; at < end; at += kSuperChunk) {
    chunk_products(rows, at, std::min(at + kSuperChunk, end), scratch, products.data());
    for (size_t p = 0; p < totals.size(); ++p) totals[p] += products[p];
  }
  unpack(totals.data(), rows.k, out);
}

namespace {

// Elements [at, at + n) of one column.
struct Run {
  int64_t column;
  int64_t at;
  int64_t n;
};

constexpr int64_t kCombineWidth = 1024;

// float32 and float64 rows are read where they stand, the others through a tile.
class Combiner {
 public:
  Combiner(const Rows& rows, const double* coefficients)
      : rows_(rows),
        coefficients_(coefficients),
        tile_(needs_tile() ? rows.k * kCombineWidth : 0),
        sum_(kCombineWidth) {}

  const double* sum(const Run& run) {
    const void* from[kMaxRows];
    for (int k = 0; k < rows_.k; ++k) from[k] = address_of(rows_, k, run.column, run.at);
    const Tiles& t = tiles();
    if (rows_.dtype == DType::kFloat32) {
      t.combine_f32(reinterpret_cast<const float* const*>(from), rows_.k, run.n, coefficients_, sum_.data());
      return sum_.data();
    }
    for (int k = 0; needs_tile() && k < rows_.k; ++k) {
      if (from[k] == nullptr) continue;
      double* to = tile_.data() + k * kCombineWidth;
      t.load_f64(rows_.dtype, from[k], run.n, to);
      from[k] = to;
    }
    t.combine_f64(reinterpret_cast<const double* const*>(from), rows_.k, run.n, coefficients_, sum_.data());
    return sum_.data();
  }

 private:
  bool needs_tile() const { return size_bytes(rows_.dtype) == 2; }

  const Rows& rows_;
  const double* coefficients_;
  AlignedBuffer<double> tile_;
  AlignedBuffer<double> sum_;
};

}  // namespace

void combine(const Rows& rows, const double* coefficients, ParallelFor parallel_for, DType out_dtype, void* out) {
  const int64_t size = rows.size();
  const int64_t block = 4 * kCombineWidth;
  const int64_t item = size_bytes(out_dtype);
  const auto body = [&](int64_t first, int64_t last) {
    Combiner combiner(rows, coefficients);
    const int64_t end = std::min(last * block, size);
    int64_t column = column_of(rows, first * block);
    for (int64_t at = first * block; at < end;) {
      while (rows.offsets[column + 1] <= at) ++column;
      const int64_t n = std::min({kCombineWidth, end - at, rows.offsets[column + 1] - at});
      tiles().store_f64(out_dtype, combiner.sum({column, at, n}), n, static_cast<char*>(out) + at * item);
      at += n;
    }
  };
  const int64_t row_bytes = block * size_bytes(rows.dtype) * std::max(rows.k, 1);
  parallel_for(ceil_div(size, block), ceil_div(kGrainBytes, row_bytes), RangeBody(body));
}

}  // namespace esper
