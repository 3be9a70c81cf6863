// Sums over a block in an order that depends on the block's size alone.

#pragma once

namespace esper::cuda {

// The sum of every thread's value, known to all kThreads threads of the block.
template <int kThreads, typename T>
__device__ inline T sum_block(T value) {
  __shared__ T sums[kThreads];
  sums[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
  const T total = sums[0];
  __syncthreads();
  return total;
}

}  // namespace esper::cuda
