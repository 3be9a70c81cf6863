#include "gram.h"

#include <algorithm>
#include <vector>

namespace esper {
namespace {

constexpr int64_t kLanesFast = 16;
constexpr int64_t kWave = 256;  // super-chunks whose partial sums are kept at once

int64_t pair_count(int64_t k) { return k * (k + 1) / 2; }

double sum_lanes(const double* s) { return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])); }

// Scratch of one thread: the tile and the lane sums of every pair.
template <class T>
struct Scratch {
  Scratch(int k, int64_t lanes)
      : width(tile_width(k)), stride(width + 8), tile(k * stride + 8), sums(pair_count(k) * lanes) {}
  int64_t width;
  int64_t stride;  // not a multiple of the page: rows would share cache sets
  std::vector<T> tile;
  std::vector<T> sums;
};

void chunk_products(const Rows& rows, int64_t begin, int64_t end, Scratch<double>& scratch, double* products) {
  const Tiles& t = tiles();
  std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0);
  for (int64_t at = begin; at < end; at += scratch.width) {
    const int64_t n = std::min(scratch.width, end - at);
    const int64_t padded = ceil_div(n, kLanes) * kLanes;
    load_tile(t, rows, at, n, padded, scratch.stride, scratch.tile.data());
    t.gram_f64(scratch.tile.data(), scratch.stride, rows.k, padded, scratch.sums.data());
  }
  for (int64_t p = 0; p < pair_count(rows.k); ++p) products[p] = sum_lanes(scratch.sums.data() + p * kLanes);
}

void chunk_products(const Rows& rows, int64_t begin, int64_t end, Scratch<float>& scratch, double* products) {
  const Tiles& t = tiles();
  const int64_t width = std::min(scratch.width, kFastBlock);
  std::fill_n(products, pair_count(rows.k), 0.0);
  for (int64_t at = begin; at < end; at += width) {
    const int64_t n = std::min(width, end - at);
    const int64_t padded = ceil_div(n, kLanesFast) * kLanesFast;
    load_tile(t, rows, at, n, padded, scratch.stride, scratch.tile.data());
    std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0f);
    t.gram_f32(scratch.tile.data(), scratch.stride, rows.k, padded, scratch.sums.data());
    for (int64_t p = 0; p < pair_count(rows.k); ++p)
      for (int64_t l = 0; l < kLanesFast; ++l) products[p] += scratch.sums[p * kLanesFast + l];
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
      Scratch<T> scratch(rows.k, 64 / sizeof(T));
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
  Scratch<double> scratch(rows.k, kLanes);
  for (int64_t at = begin; at < end; at += kSuperChunk) {
    chunk_products(rows, at, std::min(at + kSuperChunk, end), scratch, products.data());
    for (size_t p = 0; p < totals.size(); ++p) totals[p] += products[p];
  }
  unpack(totals.data(), rows.k, out);
}

void combine(const Rows& rows, const double* coefficients, ParallelFor parallel_for, DType out_dtype, void* out) {
  const int64_t width = tile_width(rows.k);
  const int64_t size = rows.size();
  const int64_t grain = ceil_div(kGrainBytes, width * size_bytes(rows.dtype) * std::max(rows.k, 1));
  const auto body = [&](int64_t first, int64_t last) {
    const Tiles& t = tiles();
    const int64_t stride = width + 8;
    std::vector<double> tile(rows.k * stride), sum(width);
    for (int64_t at = first * width; at < std::min(last * width, size); at += width) {
      const int64_t n = std::min(width, size - at);
      load_tile(t, rows, at, n, n, stride, tile.data());
      t.combine(tile.data(), stride, rows.k, n, coefficients, sum.data());
      t.store_f64(out_dtype, sum.data(), n, static_cast<char*>(out) + at * size_bytes(out_dtype));
    }
  };
  parallel_for(ceil_div(size, width), grain, RangeBody(body));
}

}  // namespace esper
