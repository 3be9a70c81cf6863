// PCGrad in the span of the rows (Yu et al. 2020, arXiv 2001.06782): every intermediate vector is a combination of
// the K original rows, so the projections need only their K x K inner products. Rows are independent of each other.

#pragma once

#include <cstdint>

#include "limits.h"

#ifdef __CUDACC__
#define ESPER_HOST_DEVICE __host__ __device__
#else
#define ESPER_HOST_DEVICE
#endif

namespace esper {

// Relative rounding of one float64 operation, times a margin. A dot product that lies below its own rounding error has
// no sign: it is taken for zero. This is where Gram space cannot decide (an exact opposite, once projected).
inline constexpr double kDotResolution = 8 * 2.220446049250313e-16;

// Whether a finite dot product counts as a conflict between vectors whose original squared lengths are given.
ESPER_HOST_DEVICE inline bool is_conflict(double dot, double length2_i, double length2_j, double tau) {
  if (!(dot < 0)) return false;
  return tau <= 0 || dot * dot > tau * tau * length2_i * length2_j;
}

// Projects row i against the others in the order given and leaves its coefficients in c[0..k). Returns the number of
// projections, or -1 if the order names a row that does not exist.
ESPER_HOST_DEVICE inline int project_row(
    const double* gram, int k, int i, const int64_t* order, double tau, double* c) {
  for (int j = 0; j < k; ++j) c[j] = j == i ? 1.0 : 0.0;
  int applied = 0;
  for (int step = 0; step < k; ++step) {
    const int64_t j = order[step];
    if (j < 0 || j >= k) return -1;
    const double length2 = gram[j * k + j];
    if (j == i || !(length2 > 0)) continue;
    double dot = 0;
    double magnitude = 0;
    for (int l = 0; l < k; ++l) {
      const double term = c[l] * gram[l * k + j];
      dot += term;
      magnitude += term < 0 ? -term : term;
    }
    if (-dot <= kDotResolution * magnitude) continue;
    if (!is_conflict(dot, gram[i * k + i], length2, tau)) continue;
    c[j] -= dot / length2;
    ++applied;
  }
  return applied;
}

}  // namespace esper
