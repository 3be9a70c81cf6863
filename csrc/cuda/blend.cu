// Weighting a host's activation with a seed's and the gradients of that: one pass, 16 bytes an access.
//
// Alpha and the gate stay on the device, so a new alpha neither recompiles nor re-captures. Weights of exactly 0 and 1
// leave an operand unread: a NaN behind them does not show.

#include <tuple>

#include "../common/limits.h"
#include "layout.h"
#include "reduce.h"
#include "weights.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kSumThreads = 256;

template <typename C>
struct Pair {
  C keep;
  C take;
};

template <typename C>
__device__ inline Pair<C> pair_of(const BlendPlan& plan, double e) {
  const C take = static_cast<C>(e);
  return {plan.is_convex ? C(1) - take : C(1), take};
}

template <typename C>
__device__ inline C mix(C host, C seed, const Pair<C>& weights) {
  if (weights.take == C(0)) return host;
  if (weights.keep == C(0)) return seed;
  return weights.keep * host + weights.take * seed;
}

// Exact zeros for weight 0 whatever the gradient holds.
template <typename C>
__device__ inline C scale(C grad, C weight) {
  return weight == C(0) ? C(0) : weight * grad;
}

// The tile of one block: kUnroll packs a thread, `kSize` elements each (1 where an address is not aligned).
template <typename T, int kSize>
struct Tile {
  using C = compute_t<T>;
  static constexpr int64_t kElements = static_cast<int64_t>(kThreads) * kUnroll * kSize;

  const BlendPlan& plan;
  int64_t base;
  int64_t size;
  bool is_uniform;  // all elements of a pack share a gate entry
  double alpha;
  EntryCursor cursor;

  __device__ Tile(const BlendPlan& given, int64_t elements)
      : plan(given),
        base(blockIdx.x * kElements),
        size(elements),
        is_uniform(given.entries == 1 || given.inner % kSize == 0),
        alpha(given.read_alpha()),
        cursor(given, base) {}

  __device__ uint32_t offset(int u) const { return (u * kThreads + threadIdx.x) * kSize; }
  __device__ bool is_whole(int u) const { return base + offset(u) + kSize <= size; }
  __device__ bool holds(int u, int e) const { return base + offset(u) + e < size; }
  __device__ Pair<C> weights(uint32_t at) const { return pair_of<C>(plan, plan.weight(alpha, cursor.entry(at)).e); }
  // Weights of a whole pack; where its elements differ, some that leave no operand unread.
  __device__ Pair<C> pack_weights(int u) const {
    return is_uniform ? weights(offset(u)) : Pair<C>{C(1), C(1)};
  }
  __device__ Pair<C> element_weights(int u, int e, const Pair<C>& pack) const {
    return is_uniform ? pack : weights(offset(u) + e);
  }
  __device__ Pack<T, kSize> load(const T* from, int u) const {
    Pack<T, kSize> pack = {};
    const T* at = from + base + offset(u);
    if (is_whole(u)) {
      if constexpr (sizeof(pack) == 16) return load_last(at);
    }
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      if (holds(u, e)) pack.v[e] = at[e];
    }
    return pack;
  }
  __device__ void store(T* to, int u, const Pack<T, kSize>& pack) const {
    T* at = to + base + offset(u);
    if (is_whole(u)) {
      *reinterpret_cast<Pack<T, kSize>*>(at) = pack;
      return;
    }
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      if (holds(u, e)) at[e] = pack.v[e];
    }
  }
};

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) blend_kernel(
    BlendPlan plan, const T* __restrict__ host, const T* __restrict__ seed, T* __restrict__ out, int64_t size) {
  using C = compute_t<T>;
  const Tile<T, kSize> tile(plan, size);
  Pair<C> weights[kUnroll];
  Pack<T, kSize> hosts[kUnroll] = {};
  Pack<T, kSize> seeds[kUnroll] = {};
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) weights[u] = tile.pack_weights(u);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (weights[u].take == C(0) || weights[u].keep != C(0)) hosts[u] = tile.load(host, u);
    if (weights[u].take != C(0)) seeds[u] = tile.load(seed, u);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const Pair<C> own = tile.element_weights(u, e, weights[u]);
      hosts[u].v[e] = narrow<T>(mix<C>(widen(hosts[u].v[e]), widen(seeds[u].v[e]), own));
    }
    tile.store(out, u, hosts[u]);
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    BlendPlan plan, const T* __restrict__ grad, T* __restrict__ grad_host, T* __restrict__ grad_seed, int64_t size) {
  using C = compute_t<T>;
  const Tile<T, kSize> tile(plan, size);
  Pair<C> weights[kUnroll];
  Pack<T, kSize> grads[kUnroll] = {};
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) weights[u] = tile.pack_weights(u);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (grad_host != nullptr || weights[u].take != C(0)) grads[u] = tile.load(grad, u);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    Pack<T, kSize> hosts;
    Pack<T, kSize> seeds;
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const Pair<C> own = tile.element_weights(u, e, weights[u]);
      const C value = widen(grads[u].v[e]);
      hosts.v[e] = narrow<T>(scale<C>(value, own.keep));
      seeds.v[e] = narrow<T>(scale<C>(value, own.take));
    }
    if (grad_host != nullptr) tile.store(grad_host, u, hosts);
    if (grad_seed != nullptr) tile.store(grad_seed, u, seeds);
  }
}

// One super-chunk a block; the partial sums are added by one block in a fixed order.
template <typename T>
__global__ void __launch_bounds__(kSumThreads) alpha_grad_kernel(
    BlendPlan plan, const T* grad, const T* host, const T* seed, int64_t size, double* partials) {
  const int64_t base = blockIdx.x * kSuperChunk;
  const int64_t end = base + kSuperChunk < size ? base + kSuperChunk : size;
  const double alpha = plan.read_alpha();
  const EntryCursor cursor(plan, base);
  double total = 0;
#pragma unroll 4
  for (int64_t i = base + threadIdx.x; i < end; i += kSumThreads) {
    const double slope = plan.weight(alpha, cursor.entry(static_cast<uint32_t>(i - base))).slope;
    if (slope == 0) continue;
    const double difference = to_double(seed[i]) - (plan.is_convex ? to_double(host[i]) : 0.0);
    total += slope * (to_double(grad[i]) * difference);
  }
  total = sum_block<kSumThreads>(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kSumThreads) sum_kernel(const double* partials, int64_t count, void* out, bool is_double) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) total += partials[i];
  total = sum_block<kSumThreads>(total);
  if (threadIdx.x > 0) return;
  if (is_double) *static_cast<double*>(out) = total;
  else *static_cast<float*>(out) = static_cast<float>(total);
}

// Calls body(pack size as a constant): 16 bytes where every address allows it, else element by element.
template <typename T, typename Body>
void with_pack_size(bool is_aligned, Body&& body) {
  if (is_aligned) body(std::integral_constant<int, kPackSize<T>>{});
  else body(std::integral_constant<int, 1>{});
}

Tensor blend(
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
  const Tensor h = as_dense(host);
  const Tensor s = laid_out_as(seed, h);
  const BlendPlan plan = plan_blend(h, alpha, gate, gate_dim, lo, hi, convex, device);
  const Tensor out = new_like(h);
  const int64_t size = h.numel();
  dispatch_floating(h.scalar_type(), "host", [&](auto type) {
    using T = typename decltype(type)::type;
    with_pack_size<T>(is_aligned(h.data_ptr()) && is_aligned(s.data_ptr()), [&](auto pack) {
      launch(
          blend_kernel<T, pack()>,
          ceil_div(size, Tile<T, pack()>::kElements),
          kThreads,
          device.stream(),
          plan,
          data<T>(h),
          data<T>(s),
          data<T>(out),
          size);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> blend_backward(
    const Tensor& grad,
    const Tensor& alpha,
    const std::optional<Tensor>& gate,
    int64_t gate_dim,
    double lo,
    double hi,
    bool convex,
    bool want_host,
    bool want_seed) {
  const OnDevice device(grad);
  const Tensor g = as_dense(grad);
  const BlendPlan plan = plan_blend(g, alpha, gate, gate_dim, lo, hi, convex, device);
  const auto result = [&](bool is_wanted) {
    return is_wanted ? new_like(g) : new_tensor(device.index(), grad.scalar_type(), {0});
  };
  const Tensor grad_host = result(want_host);
  const Tensor grad_seed = result(want_seed);
  const int64_t size = want_host || want_seed ? g.numel() : 0;
  dispatch_floating(g.scalar_type(), "grad", [&](auto type) {
    using T = typename decltype(type)::type;
    with_pack_size<T>(is_aligned(g.data_ptr()), [&](auto pack) {
      launch(
          backward_kernel<T, pack()>,
          ceil_div(size, Tile<T, pack()>::kElements),
          kThreads,
          device.stream(),
          plan,
          data<T>(g),
          want_host ? data<T>(grad_host) : nullptr,
          want_seed ? data<T>(grad_seed) : nullptr,
          size);
    });
  });
  return {grad_host, grad_seed};
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
        alpha_grad_kernel<T>,
        chunks,
        kSumThreads,
        device.stream(),
        plan,
        data<T>(g),
        data<T>(h),
        data<T>(s),
        size,
        data<double>(partials));
  });
  launch(
      sum_kernel, 1, kSumThreads, device.stream(), data<double>(partials), chunks, out.data_ptr(), plan.is_alpha_double);
  return out;
}

}  // namespace

BlendPlan plan_weights(
    const Tensor& alpha, const std::optional<Tensor>& gate, double lo, double hi, const OnDevice& device) {
  const auto is_double = [&](const Tensor& tensor, const char* name) {
    check_device(tensor, device.index(), name);
    const ScalarType dtype = tensor.scalar_type();
    ESPER_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::Double,
        name,
        " has dtype ",
        torch::headeronly::toString(dtype),
        ", expected float32 or float64");
    return dtype == ScalarType::Double;
  };
  BlendPlan plan;
  plan.is_alpha_double = is_double(alpha, "alpha");
  ESPER_CHECK(alpha.numel() == 1, "alpha has shape ", shape_of(alpha), ", expected a 0-d tensor");
  plan.alpha = alpha.data_ptr();
  plan.lo = lo;
  plan.hi = hi;
  if (!gate) return plan;
  plan.is_gate_double = is_double(*gate, "gate");
  ESPER_CHECK(
      gate->dim() == 1 && gate->is_contiguous(), "gate has shape ", shape_of(*gate), ", expected a contiguous vector");
  ESPER_CHECK(
      gate->numel() < EntryCursor::kShortRun,
      "gate has ",
      gate->numel(),
      " entries, expected fewer than ",
      EntryCursor::kShortRun);
  plan.gate = gate->data_ptr();
  plan.entries = gate->numel();
  return plan;
}

BlendPlan plan_blend(
    const Tensor& like,
    const Tensor& alpha,
    const std::optional<Tensor>& gate,
    int64_t dim,
    double lo,
    double hi,
    bool is_convex,
    const OnDevice& device) {
  BlendPlan plan = plan_weights(alpha, gate, lo, hi, device);
  plan.is_convex = is_convex;
  if (!gate) return plan;
  ESPER_CHECK(dim >= 0 && dim < like.dim(), "gate_dim is ", dim, ", host has shape ", shape_of(like));
  const int64_t size = like.size(dim);
  ESPER_CHECK(
      plan.entries > 0 && size % plan.entries == 0,
      "gate has ",
      plan.entries,
      " entries, which do not divide the ",
      size,
      " elements of dimension ",
      dim,
      " of shape ",
      shape_of(like));
  if (like.numel() == 0) return plan;
  plan.inner = (size == 1 ? like.numel() : like.stride(dim)) * (size / plan.entries);
  plan.by_entries = Divisor(static_cast<uint32_t>(plan.entries));
  if (plan.inner <= EntryCursor::kShortRun) plan.by_inner = Divisor(static_cast<uint32_t>(plan.inner));
  return plan;
}

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) {
  m.impl("blend", TORCH_BOX(&blend));
  m.impl("blend_backward", TORCH_BOX(&blend_backward));
  m.impl("blend_alpha_grad", TORCH_BOX(&blend_alpha_grad));
}

}  // namespace esper::cuda
