// Weighting a host's activation with a seed's and the gradients of that: one pass, 16 bytes an access.
//
// Alpha and the gate stay on the device, so a new alpha neither recompiles nor re-captures. Weights of exactly 0 and 1
// leave an operand out, and where bandwidth counts unread: a NaN behind them does not show.

#include <tuple>

#include "../common/limits.h"
#include "layout.h"
#include "weights.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 256;

// Up to here a launch waits for one read after the other and for its instructions, not for bandwidth: one element a
// thread, all of its operands read at once, whether alpha will ask for them or not, and little code.
constexpr int64_t kSmall = 64 * kThreads;

template <typename C>
struct Pair {
  C keep;
  C take;
};

template <typename C>
__device__ inline Pair<C> pair_of(const BlendPlan& plan, double alpha, uint32_t entry) {
  const C take = static_cast<C>(plan.weight(alpha, entry).e);
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

// The weights of a launch: computed once per block where the entries are few, from the gate as they are met otherwise.
template <typename C>
class Weights {
 public:
  static constexpr int kTable = 128;

  __device__ Weights(const BlendPlan& plan, Pair<C>* table)
      : plan_(plan), table_(plan.entries <= kTable ? table : nullptr), alpha_(plan.read_alpha()) {
    if (table_ == nullptr) return;
    if (threadIdx.x < plan.entries) table[threadIdx.x] = pair_of<C>(plan, alpha_, threadIdx.x);
    __syncthreads();
  }
  __device__ Pair<C> operator[](uint32_t entry) const {
    return table_ != nullptr ? table_[entry] : pair_of<C>(plan_, alpha_, entry);
  }

 private:
  const BlendPlan& plan_;
  const Pair<C>* table_;
  double alpha_;
};

// Packs that a thread has in flight.
constexpr int kPacks = 2;

// The elements of one block: kPacks packs a thread, kSize elements each (1 where an address is not aligned).
template <typename T, int kSize>
struct Tile {
  static constexpr int64_t kElements = static_cast<int64_t>(kThreads) * kPacks * kSize;

  int64_t base;
  int64_t size;

  __device__ explicit Tile(int64_t elements) : base(blockIdx.x * kElements), size(elements) {}

  __device__ uint32_t offset(int u) const { return (u * kThreads + threadIdx.x) * kSize; }
  __device__ bool is_whole(int u) const { return base + offset(u) + kSize <= size; }
  __device__ bool holds(int u, int e) const { return base + offset(u) + e < size; }
  __device__ Pack<T, kSize> load(const T* from, int u) const {
    const T* at = from + base + offset(u);
    if constexpr (sizeof(Pack<T, kSize>) == 16) {
      if (is_whole(u)) return cuda::load<kSize>(at);
    }
    Pack<T, kSize> pack = {};
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
__device__ Pack<T, kSize> mix_pack(const Pack<T, kSize>& host, const Pack<T, kSize>& seed, Pair<compute_t<T>> weights) {
  using C = compute_t<T>;
  if (weights.take == C(0)) return host;
  if (weights.keep == C(0)) return seed;
  C h[kSize];
  C s[kSize];
  widen(host, h);
  widen(seed, s);
#pragma unroll
  for (int e = 0; e < kSize; ++e) h[e] = weights.keep * h[e] + weights.take * s[e];
  Pack<T, kSize> out;
  narrow(h, out);
  return out;
}

template <typename T, int kSize>
__device__ Pack<T, kSize> scale_pack(const Pack<T, kSize>& grad, compute_t<T> weight) {
  using C = compute_t<T>;
  if (weight == C(1)) return grad;
  Pack<T, kSize> out = {};
  if (weight == C(0)) return out;
  C g[kSize];
  widen(grad, g);
#pragma unroll
  for (int e = 0; e < kSize; ++e) g[e] *= weight;
  narrow(g, out);
  return out;
}

// kUniform: all elements of a pack share a gate entry. Otherwise no operand is left unread.
template <typename T, int kSize, bool kUniform>
__global__ void __launch_bounds__(kThreads) blend_kernel(
    BlendPlan plan, const T* __restrict__ host, const T* __restrict__ seed, T* __restrict__ out, int64_t size) {
  using C = compute_t<T>;
  __shared__ Pair<C> table[Weights<C>::kTable];
  const Weights<C> weights(plan, table);
  const Tile<T, kSize> tile(size);
  EntryCursor cursor(plan, tile.base);
  Pair<C> pairs[kPacks];
  Pack<T, kSize> hosts[kPacks] = {};
  Pack<T, kSize> seeds[kPacks] = {};
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    cursor.seek(tile.offset(u));
    pairs[u] = kUniform ? weights[cursor.entry()] : Pair<C>{C(1), C(1)};
  }
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (pairs[u].take == C(0) || pairs[u].keep != C(0)) hosts[u] = tile.load(host, u);
    if (pairs[u].take != C(0)) seeds[u] = tile.load(seed, u);
  }
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if constexpr (kUniform) {
      hosts[u] = mix_pack(hosts[u], seeds[u], pairs[u]);
    } else {
      C h[kSize];
      C s[kSize];
      widen(hosts[u], h);
      widen(seeds[u], s);
      cursor.seek(tile.offset(u));
#pragma unroll
      for (int e = 0; e < kSize; ++e, cursor.advance()) h[e] = mix(h[e], s[e], weights[cursor.entry()]);
      narrow(h, hosts[u]);
    }
    tile.store(out, u, hosts[u]);
  }
}

template <typename T, int kSize, bool kUniform>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    BlendPlan plan, const T* __restrict__ grad, T* __restrict__ grad_host, T* __restrict__ grad_seed, int64_t size) {
  using C = compute_t<T>;
  __shared__ Pair<C> table[Weights<C>::kTable];
  const Weights<C> weights(plan, table);
  const Tile<T, kSize> tile(size);
  EntryCursor cursor(plan, tile.base);
  Pair<C> pairs[kPacks];
  Pack<T, kSize> grads[kPacks] = {};
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    cursor.seek(tile.offset(u));
    pairs[u] = kUniform ? weights[cursor.entry()] : Pair<C>{C(1), C(1)};
  }
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (grad_host != nullptr || pairs[u].take != C(0)) grads[u] = tile.load(grad, u);
  }
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if constexpr (kUniform) {
      if (grad_host != nullptr) tile.store(grad_host, u, scale_pack(grads[u], pairs[u].keep));
      if (grad_seed != nullptr) tile.store(grad_seed, u, scale_pack(grads[u], pairs[u].take));
    } else {
      C g[kSize];
      C hosts[kSize];
      C seeds[kSize];
      widen(grads[u], g);
      cursor.seek(tile.offset(u));
#pragma unroll
      for (int e = 0; e < kSize; ++e, cursor.advance()) {
        const Pair<C> own = weights[cursor.entry()];
        hosts[e] = scale(g[e], own.keep);
        seeds[e] = scale(g[e], own.take);
      }
      Pack<T, kSize> pack;
      narrow(hosts, pack);
      if (grad_host != nullptr) tile.store(grad_host, u, pack);
      narrow(seeds, pack);
      if (grad_seed != nullptr) tile.store(grad_seed, u, pack);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    small_blend_kernel(BlendPlan plan, const T* host, const T* seed, T* out, uint32_t size) {
  using C = compute_t<T>;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= size) return;
  const C from_host = widen(host[i]);
  const C from_seed = widen(seed[i]);
  out[i] = narrow<T>(mix(from_host, from_seed, pair_of<C>(plan, plan.read_alpha(), plan.entry_at(i))));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    small_backward_kernel(BlendPlan plan, const T* grad, T* grad_host, T* grad_seed, uint32_t size) {
  using C = compute_t<T>;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= size) return;
  const C g = widen(grad[i]);
  const Pair<C> weights = pair_of<C>(plan, plan.read_alpha(), plan.entry_at(i));
  if (grad_host != nullptr) grad_host[i] = narrow<T>(scale(g, weights.keep));
  if (grad_seed != nullptr) grad_seed[i] = narrow<T>(scale(g, weights.take));
}

// Calls body(size of a pack, whether it shares a gate entry) with constants: 16 bytes where every address allows it.
template <typename T, typename Body>
void with_pack(const BlendPlan& plan, bool is_aligned, Body&& body) {
  using One = std::integral_constant<int, 1>;
  using Whole = std::integral_constant<int, kPackSize<T>>;
  if (!is_aligned)
    body(One{}, std::true_type{});
  else if (plan.entries == 1 || plan.inner % kPackSize<T> == 0)
    body(Whole{}, std::true_type{});
  else
    body(Whole{}, std::false_type{});
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
    if (size <= kSmall) {
      launch(
          small_blend_kernel<T>, ceil_div(size, kThreads), kThreads, device.stream(), plan, data<T>(h), data<T>(s),
          data<T>(out), static_cast<uint32_t>(size));
      return;
    }
    with_pack<T>(plan, is_aligned(h.data_ptr()) && is_aligned(s.data_ptr()), [&](auto pack, auto is_uniform) {
      launch(
          blend_kernel<T, pack(), is_uniform()>, ceil_div(size, Tile<T, pack()>::kElements), kThreads, device.stream(),
          plan, data<T>(h), data<T>(s), data<T>(out), size);
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
    T* to_host = want_host ? data<T>(grad_host) : nullptr;
    T* to_seed = want_seed ? data<T>(grad_seed) : nullptr;
    if (size <= kSmall) {
      launch(
          small_backward_kernel<T>, ceil_div(size, kThreads), kThreads, device.stream(), plan, data<T>(g), to_host,
          to_seed, static_cast<uint32_t>(size));
      return;
    }
    with_pack<T>(plan, is_aligned(g.data_ptr()), [&](auto pack, auto is_uniform) {
      launch(
          backward_kernel<T, pack(), is_uniform()>, ceil_div(size, Tile<T, pack()>::kElements), kThreads,
          device.stream(), plan, data<T>(g), to_host, to_seed, size);
    });
  });
  return {grad_host, grad_seed};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) {
  m.impl("blend", TORCH_BOX(&blend));
  m.impl("blend_backward", TORCH_BOX(&blend_backward));
}

}  // namespace esper::cuda
