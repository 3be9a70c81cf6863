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

// Adds one to a count; lanes that meet at one count send a single addition.
__device__ inline void count(uint32_t* counts, uint32_t digit) {
  const unsigned peers = __match_any_sync(__activemask(), digit);
  if (__ffs(peers) - 1 == static_cast<int>(threadIdx.x % kWarp)) atomicAdd(&counts[digit], __popc(peers));
}

// By the first warp: the digit at which the running count passes `rest`, which becomes the rank within that digit.
__device__ uint32_t find_digit(const uint32_t* counts, uint32_t& rest) {
  constexpr int kOwn = kDigit / kWarp;
  const int lane = threadIdx.x % kWarp;
  uint32_t own = 0;
  for (int d = 0; d < kOwn; ++d) own += counts[lane * kOwn + d];
  uint32_t before = own;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, before, offset);
    if (lane >= offset) before += other;
  }
  before -= own;
  const bool is_here = before <= rest && rest < before + own;
  const int holder = __ffs(__ballot_sync(~0u, is_here)) - 1;
  uint32_t digit = lane * kOwn;
  uint32_t left = rest - before;
  if (is_here) {
    while (left >= counts[digit]) left -= counts[digit++];
  }
  rest = __shfl_sync(~0u, left, holder);
  return __shfl_sync(~0u, digit, holder);
}

// The number of rank `rank` (from 0), found one digit of its key at a time; counts do not depend on thread order.
__device__ float select(const BlendPlan& plan, double alpha, uint32_t rank) {
  __shared__ uint32_t counts[kDigit];
  __shared__ uint32_t found;
  if (threadIdx.x == 0) found = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < kDigit) counts[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < plan.entries; i += kThreads) {
      const uint32_t key = key_of(static_cast<float>(plan.weight(alpha, i).e));
      if (shift == 24 || key >> (shift + 8) == found) count(counts, key >> shift & (kDigit - 1));
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      const uint32_t digit = find_digit(counts, rank);
      if (threadIdx.x == 0) found = found << 8 | digit;
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
  const float p95 = sum == sum ? select(plan, alpha, static_cast<uint32_t>(ceil_div(plan.entries * 95, 100) - 1)) : NAN;
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
