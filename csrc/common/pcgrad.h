// From the inner products of K gradients to the coefficients of their de-conflicted sum.

#pragma once

#include <cstdint>

namespace esper {

struct Solution {
  int64_t conflicts_raw = 0;      // distinct unordered pairs in conflict before any projection
  int64_t conflicts_applied = 0;  // projections done
  uint64_t non_finite_rows = 0;
  uint64_t invalid_rows = 0;  // rows whose order names no row, or whose weights have no usable sum
};

// order: [k * k], row i the sequence in which i meets the others; weights: [k] or null for ones; `mean` divides by
// their sum. coefficients: [k]; all zeros when a row is not finite or invalid.
Solution solve(
    const double* gram,
    int k,
    const int64_t* order,
    const double* weights,
    bool mean,
    double tau,
    double* coefficients);

}  // namespace esper
