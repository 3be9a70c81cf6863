// The three steps of Gram-space gradient surgery as launches on rows; the operators compose them.

#pragma once

#include "lists.h"

namespace esper::cuda {

// How a Gram pass divides its columns; follows from the rows' sizes alone.
struct GramGrid {
  static constexpr int kWarps = 4;              // of a block
  static constexpr int64_t kWarpColumns = 256;  // that a warp takes at a time

  int64_t blocks = 0;  // of all launches together

  // Of a launch. More rows have more in flight per block: with more blocks than this the second-level cache gives up
  // what was fetched ahead before it is read.
  static int64_t blocks_for(const Rows& rows, int64_t columns) {
    const int64_t per_multiprocessor = rows.count <= 4 ? 8 : rows.count <= 8 ? 6 : 4;
    return std::min(ceil_div(columns, kWarpColumns * kWarps), per_multiprocessor * 132);
  }
};
GramGrid plan_gram(const Rows& rows);

// Adds partial sums [pair][block] into the K x K matrix.
void launch_reduce(const Tensor& partials, int64_t blocks, int rows, double* gram, const OnDevice& device);

// Writes the K x K inner products, float64.
void launch_gram(const Rows& rows, double* gram, const OnDevice& device);

// Coefficients float64 [K], conflicts int64 [2], status int64 [2]: see pcgrad_solve in register.cpp.
struct Solution {
  Tensor coefficients;
  Tensor conflicts;
  Tensor status;
};
struct Surgery {
  const Tensor& order;
  const std::optional<Tensor>& weights;
  bool mean;
  double tau;
};
Solution launch_solve(const double* gram, int64_t rows, const Surgery& surgery, const OnDevice& device);

// out = sum_k coefficients[k] * row k, or zeros when a word of status is not zero.
void launch_combine(
    const Rows& rows, const double* coefficients, const int64_t* status, const Tensor& out, const OnDevice& device);

}  // namespace esper::cuda
