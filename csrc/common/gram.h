// Inner products of rows and combinations of rows, in float64, the same to the last bit for any number of threads.

#pragma once

#include "parallel.h"
#include "rows.h"

namespace esper {

// out[k * k] = rows rowsᵀ. Super-chunks are summed in index order, lanes within one in a fixed tree. `fast` sums
// products in float32 over short blocks.
void gram(const Rows& rows, bool fast, ParallelFor parallel_for, double* out);

// The same for elements [begin, end) only, on the calling thread.
void gram_of_range(const Rows& rows, int64_t begin, int64_t end, double* out);

// out[N] (in out_dtype) = sum_k coefficients[k] * row k.
void combine(const Rows& rows, const double* coefficients, ParallelFor parallel_for, DType out_dtype, void* out);

}  // namespace esper
