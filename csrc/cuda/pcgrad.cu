// Gradient surgery on the device (csrc/common/projection.h): one warp per row projects in Gram space, then the
// operators that put Gram pass, projection and combination together. Nothing is read back to the host.

#include <tuple>

#include "../common/projection.h"
#include "gram.h"
#include "vector.h"

namespace esper::cuda {
namespace {

constexpr int kWarps = 32;
constexpr int kSlots = kMaxRows / kWarp;  // entries of a row that one lane holds
constexpr int kRowsPerWarp = kMaxRows / kWarps;

struct SolveInput {
  const double* gram;
  const int64_t* order;
  const double* weights;  // or null for ones
  int rows;
  bool mean;
  double tau;
};

struct Shared {
  double gram[kMaxRows * kMaxRows];  // once projected, the rows' coefficients
  int8_t order[kMaxRows * kMaxRows];
  unsigned long long non_finite;
  unsigned long long invalid;
  int raw;
  int applied;
};

// Value of entry j of a row spread over the lanes.
__device__ inline double entry_of(const double (&values)[kSlots], int j) {
  double value = __shfl_sync(~0u, values[0], j % kWarp);
#pragma unroll
  for (int s = 1; s < kSlots; ++s) {
    const double other = __shfl_sync(~0u, values[s], j % kWarp);
    if (j / kWarp == s) value = other;
  }
  return value;
}

__device__ void load(const SolveInput& in, Shared& shared) {
  const int k = in.rows;
  for (int entry = threadIdx.x; entry < k * k; entry += blockDim.x) {
    shared.gram[entry] = in.gram[entry];
    const int64_t other = in.order[entry];
    shared.order[entry] = other >= 0 && other < k ? static_cast<int8_t>(other) : -1;
  }
  if (threadIdx.x == 0) {
    shared.non_finite = shared.invalid = 0;
    shared.raw = shared.applied = 0;
  }
  __syncthreads();
}

__device__ void inspect(const SolveInput& in, Shared& shared) {
  const int k = in.rows;
  for (int entry = threadIdx.x; entry < k * k; entry += blockDim.x) {
    const int i = entry / k;
    const int j = entry % k;
    const double product = shared.gram[entry];
    if (shared.order[entry] < 0) atomicOr(&shared.invalid, 1ull << i);
    if (i == j && !isfinite(product)) atomicOr(&shared.non_finite, 1ull << i);
    if (i < j && is_conflict(product, shared.gram[i * k + i], shared.gram[j * k + j], in.tau)) {
      atomicAdd(&shared.raw, 1);
    }
  }
}

// Row i's coefficients, lane l holding entries l and l + 32. The steps of project_row, but every dot product with an
// original row is kept up to date instead of being summed anew; coefficients only grow, so magnitudes add up as well.
__device__ int project(const SolveInput& in, const Shared& shared, int i, double (&c)[kSlots]) {
  const int k = in.rows;
  const int lane = threadIdx.x % kWarp;
  double dots[kSlots];
  double magnitudes[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int l = lane + s * kWarp;
    c[s] = l == i ? 1.0 : 0.0;
    dots[s] = l < k ? shared.gram[i * k + l] : 0.0;
    magnitudes[s] = fabs(dots[s]);
  }
  const double length2_i = shared.gram[i * k + i];
  int applied = 0;
  for (int step = 0; step < k; ++step) {
    const int j = shared.order[i * k + step];
    if (j < 0 || j == i) continue;
    const double length2 = shared.gram[j * k + j];
    const double dot = entry_of(dots, j);
    const double magnitude = entry_of(magnitudes, j);
    if (!(length2 > 0) || -dot <= kDotResolution * magnitude || !is_conflict(dot, length2_i, length2, in.tau)) continue;
    const double share = -dot / length2;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int l = lane + s * kWarp;
      if (l >= k) continue;
      if (l == j) c[s] += share;
      const double change = share * shared.gram[j * k + l];
      dots[s] += change;
      magnitudes[s] += fabs(change);
    }
    ++applied;
  }
  return applied;
}

__global__ void __launch_bounds__(kWarps* kWarp)
    solve_kernel(SolveInput in, double* coefficients, int64_t* conflicts, int64_t* status) {
  __shared__ Shared shared;
  load(in, shared);
  const int k = in.rows;
  const int warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  inspect(in, shared);
  double c[kRowsPerWarp][kSlots] = {};
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int i = warp + r * warps;
    if (i >= k) continue;
    const int applied = project(in, shared, i, c[r]);
    if (threadIdx.x % kWarp == 0) atomicAdd(&shared.applied, applied);
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int i = warp + r * warps;
    for (int s = 0; s < kSlots; ++s) {
      const int l = threadIdx.x % kWarp + s * kWarp;
      if (i < k && l < k) shared.gram[i * k + l] = c[r][s];
    }
  }
  __syncthreads();
  double total = 0;
  for (int i = 0; i < k; ++i) total += in.weights == nullptr ? 1.0 : in.weights[i];
  const bool is_usable = isfinite(total) && !(in.mean && fabs(total) <= kSmallestWeightSum);
  const bool is_finite = shared.non_finite == 0;
  const unsigned long long invalid = !is_finite ? 0 : is_usable ? shared.invalid : ~0ull;
  if (threadIdx.x == 0) {
    conflicts[0] = shared.raw;
    conflicts[1] = is_finite ? shared.applied : 0;
    status[0] = static_cast<int64_t>(shared.non_finite);
    status[1] = static_cast<int64_t>(invalid);
  }
  if (threadIdx.x >= k) return;
  const double scale = in.mean ? 1.0 / total : 1.0;
  double coefficient = 0;
  for (int i = 0; i < k; ++i) {
    coefficient += (in.weights == nullptr ? 1.0 : in.weights[i]) * scale * shared.gram[i * k + threadIdx.x];
  }
  coefficients[threadIdx.x] = is_finite && invalid == 0 ? coefficient : 0.0;
}

void check_vector(const Tensor& tensor, const char* name, ScalarType dtype, int64_t size, const OnDevice& device) {
  check_device(tensor, device.index(), name);
  check_dtype(tensor, dtype, name);
  ESPER_CHECK(
      tensor.numel() == size && tensor.is_contiguous(), name, " has ", tensor.numel(), " elements, expected ", size,
      " contiguous ones");
}

using Solved = std::tuple<Tensor, Tensor, Tensor>;

Solved as_tuple(Solution&& solution) {
  return {std::move(solution.coefficients), std::move(solution.conflicts), std::move(solution.status)};
}

Solved solve_and_combine(const Rows& rows, const Surgery& surgery, const Tensor& out, const OnDevice& device) {
  const Tensor gram = new_tensor(device.index(), ScalarType::Double, {rows.count, rows.count});
  launch_gram(rows, data<double>(gram), device);
  Solution solution = launch_solve(data<double>(gram), rows.count, surgery, device);
  launch_combine(rows, data<double>(solution.coefficients), data<int64_t>(solution.status), out, device);
  return as_tuple(std::move(solution));
}

Solved pcgrad_solve(
    const Tensor& gram, const Tensor& order, const std::optional<Tensor>& weights, bool mean, double tau) {
  const OnDevice device(gram);
  ESPER_CHECK(gram.dim() == 2 && gram.size(0) == gram.size(1), "gram has ", gram.dim(), " dimensions, expected [K, K]");
  check_vector(gram, "gram", ScalarType::Double, gram.size(0) * gram.size(0), device);
  return as_tuple(launch_solve(data<double>(gram), gram.size(0), {order, weights, mean, tau}, device));
}

void combine(Tensor& matrix, const Tensor& coefficients, const Tensor& status, const Tensor& out) {
  const OnDevice device(matrix);
  const Rows rows = matrix_rows(matrix);
  check_vector(coefficients, "coefficients", ScalarType::Double, rows.count, device);
  check_vector(status, "status", ScalarType::Long, 2, device);
  launch_combine(rows, data<double>(coefficients), data<int64_t>(status), out, device);
}

void combine_list(
    TensorList& grads,
    const std::vector<int64_t>& sizes,
    const Tensor& coefficients,
    const Tensor& status,
    const Tensor& out) {
  const OnDevice device(out);
  const Rows rows = listed_rows(grads, sizes, coefficients.numel(), out);
  check_vector(coefficients, "coefficients", ScalarType::Double, rows.count, device);
  check_vector(status, "status", ScalarType::Long, 2, device);
  launch_combine(rows, data<double>(coefficients), data<int64_t>(status), out, device);
}

Solved pcgrad(
    Tensor& matrix,
    const Tensor& order,
    const std::optional<Tensor>& weights,
    bool mean,
    double tau,
    [[maybe_unused]] bool fast,
    const Tensor& out) {
  const OnDevice device(matrix);
  return solve_and_combine(matrix_rows(matrix), {order, weights, mean, tau}, out, device);
}

Solved pcgrad_list(
    TensorList& grads,
    const std::vector<int64_t>& sizes,
    const Tensor& order,
    const std::optional<Tensor>& weights,
    bool mean,
    double tau,
    [[maybe_unused]] bool fast,
    const Tensor& out) {
  ESPER_CHECK(order.dim() == 2, "order has ", order.dim(), " dimensions, expected [K, K]");
  const OnDevice device(out);
  return solve_and_combine(listed_rows(grads, sizes, order.size(0), out), {order, weights, mean, tau}, out, device);
}

}  // namespace

Solution launch_solve(const double* gram, int64_t rows, const Surgery& surgery, const OnDevice& device) {
  ESPER_CHECK(rows >= 1 && rows <= kMaxRows, "gram has ", rows, " rows, expected 1 to ", kMaxRows);
  check_vector(surgery.order, "order", ScalarType::Long, rows * rows, device);
  if (surgery.weights) check_vector(*surgery.weights, "weights", ScalarType::Double, rows, device);
  Solution solution{
      new_tensor(device.index(), ScalarType::Double, {rows}), new_tensor(device.index(), ScalarType::Long, {2}),
      new_tensor(device.index(), ScalarType::Long, {2})};
  const SolveInput input{
      gram,
      data<int64_t>(surgery.order),
      surgery.weights ? data<double>(*surgery.weights) : nullptr,
      static_cast<int>(rows),
      surgery.mean,
      surgery.tau};
  launch(
      solve_kernel, 1, static_cast<int>(std::min<int64_t>(rows, kWarps)) * kWarp, device.stream(), input,
      data<double>(solution.coefficients), data<int64_t>(solution.conflicts), data<int64_t>(solution.status));
  return solution;
}

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) {
  m.impl("pcgrad_solve", TORCH_BOX(&pcgrad_solve));
  m.impl("combine_", TORCH_BOX(&combine));
  m.impl("combine_list_", TORCH_BOX(&combine_list));
  m.impl("pcgrad_", TORCH_BOX(&pcgrad));
  m.impl("pcgrad_list_", TORCH_BOX(&pcgrad_list));
}

}  // namespace esper::cuda
