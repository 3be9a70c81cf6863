// The gradient of a blend for alpha: a sum over all elements in float64, in super-chunks added in a fixed order.

#include "../common/limits.h"
#include "layout.h"
#include "reduce.h"
#include "weights.h"

namespace esper::cuda {
namespace {

constexpr int kSumThreads = 256;

// One super-chunk a block; the partial sums are added by one block in a fixed order.
template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    alpha_grad_kernel(BlendPlan plan, const T* grad, const T* host, const T* seed, int64_t size, double* partials) {
  const int64_t base = blockIdx.x * kSuperChunk;
  const int64_t end = base + kSuperChunk < size ? base + kSuperChunk : size;
  const double alpha = plan.read_alpha();
  EntryCursor cursor(plan, base);
  double total = 0;
#pragma unroll 4
  for (int64_t i = base + threadIdx.x; i < end; i += kSumThreads) {
    cursor.seek(static_cast<uint32_t>(i - base));
    const double slope = plan.weight(alpha, cursor.entry()).slope;
    if (slope == 0) continue;
    const double difference = to_double(seed[i]) - (plan.is_convex ? to_double(host[i]) : 0.0);
    total += slope * (to_double(grad[i]) * difference);
  }
  total = sum_block<kSumThreads>(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const double* partials, int64_t count, void* out, bool is_double) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) total += partials[i];
  total = sum_block<kSumThreads>(total);
  if (threadIdx.x > 0) return;
  if (is_double)
    *static_cast<double*>(out) = total;
  else
    *static_cast<float*>(out) = static_cast<float>(total);
}

Tensor blend_alpha_grad(
    const Tensor& grad,
    const Tensor& host,
    const Tensor& seed,
    const Tensor& alpha,
    const std::optional<Tensor>& gate,
    int64_t gate_dim,
    double lo,
    double hi,
    bool convex) {
  const OnDevice device(host);
  check_same(host, seed, "seed", device);
  check_same(host, grad, "grad", device);
  const Tensor h = as_dense(host);
  const Tensor s = laid_out_as(seed, h);
  const Tensor g = laid_out_as(grad, h);
  const BlendPlan plan = plan_blend(h, alpha, gate, gate_dim, lo, hi, convex, device);
  const int64_t size = h.numel();
  const int64_t chunks = ceil_div(size, kSuperChunk);
  const Tensor partials = new_tensor(device.index(), ScalarType::Double, {chunks});
  const Tensor out = new_tensor(device.index(), alpha.scalar_type(), {});
  dispatch_floating(h.scalar_type(), "host", [&](auto type) {
    using T = typename decltype(type)::type;
    launch(
        alpha_grad_kernel<T>, chunks, kSumThreads, device.stream(), plan, data<T>(g), data<T>(h), data<T>(s), size,
        data<double>(partials));
  });
  launch(
      sum_kernel, 1, kSumThreads, device.stream(), data<double>(partials), chunks, out.data_ptr(),
      plan.is_alpha_double);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) { m.impl("blend_alpha_grad", TORCH_BOX(&blend_alpha_grad)); }

}  // namespace esper::cuda
