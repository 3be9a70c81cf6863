// Weighting a host's activation with a seed's, element by element, and the gradients of that.

#pragma once

#include "dtype.h"
#include "parallel.h"

namespace esper {

// How one element's weight e is found. The data are dense, seen as [outer, entries, inner] in memory order; element
// (o, v, i) uses gate entry v. Without a gate there is one entry and e is alpha clamped to [0, 1].
struct BlendPlan {
  int64_t outer = 1;
  int64_t entries = 1;
  int64_t inner = 0;
  double alpha = 0;
  DType gate_dtype = DType::kFloat32;
  const void* gate = nullptr;
  double lo = 0;
  double hi = 1;
  bool convex = false;

  int64_t size() const { return outer * entries * inner; }
};

struct Weight {
  double e;         // NaN if alpha or the gate's entry is NaN
  double slope;     // de / dalpha
  bool is_clamped;  // the clamp changed it
};

Weight weight_of(const BlendPlan& plan, int64_t entry);

void blend(const BlendPlan& plan, DType dtype, const void* host, const void* seed, void* out, ParallelFor parallel_for);

// Either result may be null: not wanted.
void blend_backward(
    const BlendPlan& plan, DType dtype, const void* grad, void* grad_host, void* grad_seed, ParallelFor parallel_for);

// sum over elements of grad * (seed - host, or seed) * de/dalpha, in super-chunks added in index order.
double blend_alpha_grad(
    const BlendPlan& plan, DType dtype, const void* grad, const void* host, const void* seed, ParallelFor parallel_for);

// mean, p95 (nearest rank), share of zeros, share of entries that the clamp changed.
void blend_stats(const BlendPlan& plan, float out[4]);

}  // namespace esper
