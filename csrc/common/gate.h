// How sure a row of logits is, from one read of the row.

#pragma once

#include "dtype.h"
#include "parallel.h"

namespace esper {

struct GateConfig {
  double k;
  double tau;
  bool entropy;  // m = 1 - entropy / log C instead of the margin of the two largest probabilities
};

// gate[rows] = sigmoid(k (m - tau)); statistics[rows][3]: margin, log-sum-exp, entropy. Returns the number of rows that
// have one class or no softmax (a NaN, several +inf, only -inf): their gate is 0 and, without a softmax, their
// statistics are NaN.
int64_t confidence_gate(
    DType dtype,
    const void* logits,
    int64_t rows,
    int64_t classes,
    const GateConfig& config,
    float* gate,
    float* statistics,
    ParallelFor parallel_for);

}  // namespace esper
