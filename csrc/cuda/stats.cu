// What a gate's weights look like, in one launch: mean, 95th percentile, shares of zeros and of clamped entries.

#include "../common/limits.h"
#include "reduce.h"
#include "weights.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kDigit = 256;

// A key whose unsigned order is the order of the numbers.
__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float of_key(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// The number of rank `rank` (from 0), found one digit of its key at a time; counts do not depend on thread order.
__device__ float select(const BlendPlan& plan, double alpha, int64_t rank) {
  __shared__ unsigned long long counts[kDigit];
  __shared__ uint32_t found;
  __shared__ int64_t rest;
  if (threadIdx.x == 0) {
    found = 0;
    rest = rank;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < kDigit) counts[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < plan.entries; i += kThreads) {
      const uint32_t key = key_of(static_cast<float>(plan.weight(alpha, i).e));
      const bool is_candidate = shift == 24 || key >> (shift + 8) == found;
      if (is_candidate) atomicAdd(&counts[key >> shift & (kDigit - 1)], 1ull);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t digit = 0;
      while (rest >= static_cast<int64_t>(counts[digit])) rest -= static_cast<int64_t>(counts[digit++]);
      found = found << 8 | digit;
    }
    __syncthreads();
  }
  return of_key(found);
}

__global__ void __launch_bounds__(kThreads) stats_kernel(BlendPlan plan, float* out) {
  const double alpha = plan.read_alpha();
  double sum = 0;
  double zeros = 0;
  double clamped = 0;
  for (int64_t i = threadIdx.x; i < plan.entries; i += kThreads) {
    const Weight weight = plan.weight(alpha, i);
    sum += weight.e;
    zeros += weight.e == 0;
    clamped += weight.is_clamped;
  }
  sum = sum_block<kThreads>(sum);
  zeros = sum_block<kThreads>(zeros);
  clamped = sum_block<kThreads>(clamped);
  const float p95 = sum == sum ? select(plan, alpha, ceil_div(plan.entries * 95, 100) - 1) : NAN;
  if (threadIdx.x > 0) return;
  const double count = static_cast<double>(plan.entries);
  out[0] = static_cast<float>(sum / count);
  out[1] = p95;
  out[2] = static_cast<float>(zeros / count);
  out[3] = static_cast<float>(clamped / count);
}

Tensor blend_stats(const Tensor& alpha, const std::optional<Tensor>& gate, double lo, double hi) {
  const OnDevice device(alpha);
  const BlendPlan plan = plan_weights(alpha, gate, lo, hi, device);
  ESPER_CHECK(plan.entries > 0, "gate is empty, expected at least one entry");
  const Tensor out = new_tensor(device.index(), ScalarType::Float, {4});
  launch(stats_kernel, 1, kThreads, device.stream(), plan, data<float>(out));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) { m.impl("blend_stats", TORCH_BOX(&blend_stats)); }

}  // namespace esper::cuda
