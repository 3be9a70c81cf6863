// How sure each row of logits is, from one read of the row: a warp per row, or a block where rows are long.

#include <tuple>

#include "../common/limits.h"
#include "runtime.h"
#include "vector.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kLongRow = 4096;

struct Config {
  double k;
  double tau;
  bool entropy;
};

// Of a part of a row: its two largest logits, sum exp(x - largest) and sum (x - largest) exp(x - largest).
struct Summary {
  float largest = -INFINITY;
  float second = -INFINITY;
  float exp_sum = 0;
  float weighted_sum = 0;
  bool has_nan = false;

  // An empty or all -inf part has nothing to rescale; inf - inf never enters a sum that is used.
  __device__ void move_to(float top) {
    if (largest != -INFINITY && largest != top) {
      const float shift = largest - top;
      const float factor = expf(shift);
      weighted_sum = factor == 0 ? 0 : factor * (weighted_sum + shift * exp_sum);
      exp_sum *= factor;
    }
    largest = top;
  }
  __device__ void rank(float x) {
    has_nan = has_nan || x != x;
    second = fmaxf(second, fminf(x, largest));
    largest = fmaxf(largest, x);
  }
  __device__ void weigh(float x) {
    const float difference = x - largest;
    const float weight = __expf(difference);
    exp_sum += weight;
    weighted_sum += weight > 0 ? difference * weight : 0;
  }
  template <typename T, int kSize>
  __device__ void add(const Pack<T, kSize>& pack) {
    float x[kSize];
    const float before = largest;
#pragma unroll
    for (int e = 0; e < kSize; ++e) rank(x[e] = static_cast<float>(widen(pack.v[e])));
    const float top = largest;
    if (top == -INFINITY) return;
    largest = before;
    move_to(top);
#pragma unroll
    for (int e = 0; e < kSize; ++e) weigh(x[e]);
  }
  __device__ void merge(Summary other) {
    const float top = fmaxf(largest, other.largest);
    const float next = fmaxf(fminf(largest, other.largest), fmaxf(second, other.second));
    move_to(top);
    other.move_to(top);
    exp_sum += other.exp_sum;
    weighted_sum += other.weighted_sum;
    second = next;
    has_nan = has_nan || other.has_nan;
  }
};

__device__ Summary shuffle(const Summary& s, int offset) {
  Summary other;
  other.largest = __shfl_xor_sync(~0u, s.largest, offset);
  other.second = __shfl_xor_sync(~0u, s.second, offset);
  other.exp_sum = __shfl_xor_sync(~0u, s.exp_sum, offset);
  other.weighted_sum = __shfl_xor_sync(~0u, s.weighted_sum, offset);
  other.has_nan = __shfl_xor_sync(~0u, static_cast<int>(s.has_nan), offset) != 0;
  return other;
}

// Writes one row's results; false if the row has no confidence.
__device__ bool write_row(const Summary& row, int64_t classes, const Config& config, float* gate, float* statistics) {
  const bool is_limit = row.largest == INFINITY && row.second < INFINITY;
  const bool is_defined = !row.has_nan && (is_limit || isfinite(row.exp_sum)) && row.largest != -INFINITY;
  double margin = NAN;
  double log_sum_exp = NAN;
  double entropy = NAN;
  if (is_defined && is_limit) {
    margin = 1;
    log_sum_exp = INFINITY;
    entropy = 0;
  } else if (is_defined) {
    const double log_z = log(static_cast<double>(row.exp_sum));
    if (classes > 1) margin = (1 - exp(static_cast<double>(row.second) - row.largest)) / row.exp_sum;
    log_sum_exp = row.largest + log_z;
    entropy = fmax(log_z - static_cast<double>(row.weighted_sum) / row.exp_sum, 0.0);
  }
  statistics[0] = static_cast<float>(margin);
  statistics[1] = static_cast<float>(log_sum_exp);
  statistics[2] = static_cast<float>(entropy);
  const double m = config.entropy ? 1 - entropy / log(static_cast<double>(classes)) : margin;
  const double value = 1 / (1 + exp(-config.k * (m - config.tau)));
  const bool is_gated = is_defined && classes > 1 && value == value;
  *gate = is_gated ? static_cast<float>(value) : 0.0f;
  return is_gated;
}

// kRowThreads threads, a warp or the whole block, read one row.
template <typename T, int kRowThreads>
__global__ void __launch_bounds__(kThreads) gate_kernel(
    const T* logits,
    int64_t rows,
    int64_t classes,
    Config config,
    float* gate,
    float* statistics,
    unsigned long long* events) {
  constexpr int kSize = kPackSize<T>;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (kRowThreads == kWarp && r >= rows) return;
  const T* row = logits + r * classes;
  const int thread = threadIdx.x % kRowThreads;
  Summary summary;
  const int64_t whole = is_aligned(row) ? classes / kSize * kSize : 0;
#pragma unroll 2
  for (int64_t c = thread * kSize; c < whole; c += kRowThreads * kSize) summary.add(load<kSize>(row + c));
  for (int64_t c = whole + thread; c < classes; c += kRowThreads) summary.add(Pack<T, 1>{{row[c]}});
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) summary.merge(shuffle(summary, offset));
  if constexpr (kRowThreads > kWarp) {
    __shared__ Summary parts[kThreads / kWarp];
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = summary;
    __syncthreads();
    for (int w = 1; threadIdx.x == 0 && w < kThreads / kWarp; ++w) summary.merge(parts[w]);
  }
  if (thread == 0 && !write_row(summary, classes, config, gate + r, statistics + 3 * r)) atomicAdd(events, 1ull);
}

std::tuple<Tensor, Tensor, Tensor> confidence_gate(const Tensor& given, double k, double tau, bool entropy) {
  ESPER_CHECK(
      given.dim() == 2 && given.size(1) >= 1, "logits has shape ", shape_of(given),
      ", expected [samples, classes] with at least one class");
  const OnDevice device(given);
  const Tensor logits = given.is_contiguous() ? given : torch::stable::contiguous(given);
  const int64_t rows = logits.size(0);
  const int64_t classes = logits.size(1);
  const Tensor gate = new_tensor(device.index(), ScalarType::Float, {rows});
  const Tensor statistics = new_tensor(device.index(), ScalarType::Float, {rows, 3});
  const Tensor events = new_tensor(device.index(), ScalarType::Long, {});
  check_cuda(cudaMemsetAsync(events.data_ptr(), 0, sizeof(int64_t), device.stream()), "clearing the event count");
  dispatch_floating(logits.scalar_type(), "logits", [&](auto type) {
    using T = typename decltype(type)::type;
    const auto run = [&](auto kernel, int64_t blocks) {
      launch(
          kernel, blocks, kThreads, device.stream(), data<T>(logits), rows, classes, Config{k, tau, entropy},
          data<float>(gate), data<float>(statistics), data<unsigned long long>(events));
    };
    if (classes > kLongRow)
      run(gate_kernel<T, kThreads>, rows);
    else
      run(gate_kernel<T, kWarp>, ceil_div(rows, kThreads / kWarp));
  });
  return {gate, statistics, events};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) { m.impl("confidence_gate", TORCH_BOX(&confidence_gate)); }

}  // namespace esper::cuda
