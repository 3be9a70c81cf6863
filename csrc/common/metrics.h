// Lengths and inner products of seeds' gradients, per layer and in all, from one read.

#pragma once

#include "parallel.h"
#include "rows.h"

namespace esper {

// layers: [count + 1] element offsets from 0 to N. layer_norms: [k, count], dots: [k, k], shares: [k].
void seed_metrics(
    const Rows& rows,
    const int64_t* layers,
    int64_t count,
    ParallelFor parallel_for,
    double* layer_norms,
    double* dots,
    double* shares);

}  // namespace esper
