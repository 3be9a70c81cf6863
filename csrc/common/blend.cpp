#include "blend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "limits.h"
#include "tiles.h"

namespace esper {
namespace {

constexpr int64_t kTile = 1024;

double entry_of(const BlendPlan& plan, int64_t entry) {
  if (plan.gate == nullptr) return 1.0;
  return plan.gate_dtype == DType::kFloat64 ? static_cast<const double*>(plan.gate)[entry]
                                            : static_cast<double>(static_cast<const float*>(plan.gate)[entry]);
}

// NaN passes through: neither comparison holds.
double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

// float64 computes in itself, the other types in float32.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class C>
BlendWeights<C> weights_of(const BlendPlan& plan, double e) {
  const C take = static_cast<C>(e);
  return {plan.convex ? C(1) - take : C(1), take};
}

template <class T>
void load_tile(const Tiles& t, DType dtype, const T* from, int64_t n, Compute<T>* to) {
  if constexpr (std::is_same_v<T, double>) {
    t.load_f64(dtype, from, n, to);
  } else {
    t.load_f32(dtype, from, n, to);
  }
}

template <class T>
void store_tile(const Tiles& t, DType dtype, const Compute<T>* from, int64_t n, T* to) {
  if constexpr (std::is_same_v<T, double>) {
    t.store_f64(dtype, from, n, to);
  } else {
    t.store_f32(dtype, from, n, to);
  }
}

template <class C>
void blend_run(const Tiles& t, const C* host, const C* seed, int64_t n, BlendWeights<C> w, C* out) {
  if constexpr (std::is_same_v<C, double>) {
    t.blend_f64(host, seed, n, w, out);
  } else {
    t.blend_f32(host, seed, n, w, out);
  }
}

template <class T>
void blend_piece(
    const Tiles& t, DType dtype, const T* host, const T* seed, int64_t n, BlendWeights<Compute<T>> w, T* out) {
  using C = Compute<T>;
  if (w.take == C(0)) {
    std::memcpy(out, host, n * sizeof(T));
  } else if (w.keep == C(0)) {
    std::memcpy(out, seed, n * sizeof(T));
  } else if constexpr (std::is_same_v<T, C>) {
    blend_run<C>(t, host, seed, n, w, out);
  } else {
    C h[kTile], s[kTile];
    for (int64_t i = 0; i < n; i += kTile) {
      const int64_t m = std::min(kTile, n - i);
      load_tile(t, dtype, host + i, m, h);
      load_tile(t, dtype, seed + i, m, s);
      blend_run<C>(t, h, s, m, w, h);
      store_tile(t, dtype, h, m, out + i);
    }
  }
}

// to = weight * grad: exact zeros for weight 0 whatever the gradient holds, a copy for weight 1.
template <class T>
void scale_piece(const Tiles& t, DType dtype, const T* grad, int64_t n, Compute<T> weight, T* to) {
  using C = Compute<T>;
  if (weight == C(0)) {
    std::memset(static_cast<void*>(to), 0, n * sizeof(T));
  } else if (weight == C(1)) {
    std::memcpy(to, grad, n * sizeof(T));
  } else if constexpr (std::is_same_v<T, C>) {
    for (int64_t i = 0; i < n; ++i) to[i] = weight * grad[i];
  } else {
    C wide[kTile];
    for (int64_t i = 0; i < n; i += kTile) {
      const int64_t m = std::min(kTile, n - i);
      load_tile(t, dtype, grad + i, m, wide);
      for (int64_t j = 0; j < m; ++j) wide[j] *= weight;
      store_tile(t, dtype, wide, m, to + i);
    }
  }
}

// Calls f(begin, count, entry) for every run of elements in [begin, end) that share an entry.
template <class F>
void for_runs(const BlendPlan& plan, int64_t begin, int64_t end, const F& f) {
  if (plan.entries == 1) return f(begin, end - begin, int64_t{0});
  int64_t run = begin / plan.inner;
  for (int64_t at = begin; at < end; ++run) {
    const int64_t n = std::min(end, (run + 1) * plan.inner) - at;
    f(at, n, run % plan.entries);
    at += n;
  }
}

// Channels last (inner == 1 or a few): weights vary along the fastest dimension, so they are expanded once per period.
template <class C>
struct Period {
  Period(const BlendPlan& plan) : length(plan.entries * plan.inner), keep(length), take(length) {
    for (int64_t i = 0; i < length; ++i) {
      const BlendWeights<C> w = weights_of<C>(plan, weight_of(plan, i / plan.inner).e);
      keep[i] = w.keep;
      take[i] = w.take;
    }
  }
  int64_t length;
  std::vector<C> keep, take;
};

constexpr int64_t kShortRun = 32;
constexpr int64_t kLongestPeriod = 16384;

bool is_periodic(const BlendPlan& plan) {
  return plan.entries > 1 && plan.inner < kShortRun && plan.entries * plan.inner <= kLongestPeriod;
}

template <class C, class F>
void for_periods(const Period<C>& period, int64_t begin, int64_t end, const F& f) {
  for (int64_t at = begin; at < end;) {
    const int64_t phase = at % period.length;
    const int64_t n = std::min({end - at, period.length - phase, kTile});
    f(at, n, phase);
    at += n;
  }
}

// Exact ends by selection rather than by branches: a weight of zero leaves its operand out, NaN or not.
template <class C>
void blend_varying(const C* host, const C* seed, const C* keep, const C* take, int64_t n, C* out) {
  for (int64_t i = 0; i < n; ++i) {
    const C h = keep[i] == C(0) ? C(0) : keep[i] * host[i];
    const C s = take[i] == C(0) ? C(0) : take[i] * seed[i];
    const C sum = h + s;
    out[i] = take[i] == C(0) ? host[i] : keep[i] == C(0) ? seed[i] : sum;
  }
}

template <class C>
void scale_varying(const C* grad, const C* weight, int64_t n, C* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = weight[i] == C(0) ? C(0) : weight[i] * grad[i];
}

template <class F>
void for_elements(int64_t size, int64_t item, ParallelFor parallel_for, const F& f) {
  const int64_t block = 8192;
  const auto body = [&](int64_t first, int64_t last) { f(first * block, std::min(last * block, size)); };
  parallel_for(ceil_div(size, block), ceil_div(kGrainBytes, block * item), RangeBody(body));
}

template <class T>
void blend_periodic(
    const BlendPlan& plan, DType dtype, const T* host, const T* seed, T* out, ParallelFor parallel_for) {
  using C = Compute<T>;
  const Period<C> period(plan);
  for_elements(plan.size(), sizeof(T), parallel_for, [&](int64_t begin, int64_t end) {
    const Tiles& t = tiles();
    C h[kTile], s[kTile];
    for_periods(period, begin, end, [&](int64_t at, int64_t n, int64_t phase) {
      load_tile(t, dtype, host + at, n, h);
      load_tile(t, dtype, seed + at, n, s);
      blend_varying(h, s, period.keep.data() + phase, period.take.data() + phase, n, h);
      store_tile(t, dtype, h, n, out + at);
    });
  });
}

template <class T>
void scale_periodic(
    const BlendPlan& plan, DType dtype, const T* grad, T* grad_host, T* grad_seed, ParallelFor parallel_for) {
  using C = Compute<T>;
  const Period<C> period(plan);
  for_elements(plan.size(), sizeof(T), parallel_for, [&](int64_t begin, int64_t end) {
    const Tiles& t = tiles();
    C g[kTile], product[kTile];
    for_periods(period, begin, end, [&](int64_t at, int64_t n, int64_t phase) {
      load_tile(t, dtype, grad + at, n, g);
      if (grad_host != nullptr) {
        scale_varying(g, period.keep.data() + phase, n, product);
        store_tile(t, dtype, product, n, grad_host + at);
      }
      if (grad_seed != nullptr) {
        scale_varying(g, period.take.data() + phase, n, product);
        store_tile(t, dtype, product, n, grad_seed + at);
      }
    });
  });
}

template <class T>
double alpha_grad_of_range(
    const BlendPlan& plan, const T* grad, const T* host, const T* seed, int64_t begin, int64_t end) {
  double total = 0;
  for_runs(plan, begin, end, [&](int64_t at, int64_t n, int64_t entry) {
    const double slope = weight_of(plan, entry).slope;
    if (slope == 0) return;
    double sum = 0;
    for (int64_t i = at; i < at + n; ++i) {
      const double difference = to_double(seed[i]) - (plan.convex ? to_double(host[i]) : 0.0);
      sum += to_double(grad[i]) * difference;
    }
    total += slope * sum;
  });
  return total;
}

}  // namespace

Weight weight_of(const BlendPlan& plan, int64_t entry) {
  const double alpha = clamp(plan.alpha, 0.0, 1.0);
  const bool is_inside = alpha == plan.alpha;
  const double gate = entry_of(plan, entry);
  if (alpha == 0) return {0.0, is_inside && plan.lo <= 0 ? gate : 0.0, !is_inside};
  const double raw = alpha * gate;
  const double e = clamp(raw, plan.lo, plan.hi);
  return {e, is_inside && e == raw ? gate : 0.0, !is_inside || (e != raw && raw == raw)};
}

void blend(
    const BlendPlan& plan, DType dtype, const void* host, const void* seed, void* out, ParallelFor parallel_for) {
  dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* h = static_cast<const T*>(host);
    const T* s = static_cast<const T*>(seed);
    T* o = static_cast<T*>(out);
    if (is_periodic(plan)) return blend_periodic(plan, dtype, h, s, o, parallel_for);
    for_elements(plan.size(), sizeof(T), parallel_for, [&](int64_t begin, int64_t end) {
      const Tiles& t = tiles();
      for_runs(plan, begin, end, [&](int64_t at, int64_t n, int64_t entry) {
        blend_piece(t, dtype, h + at, s + at, n, weights_of<Compute<T>>(plan, weight_of(plan, entry).e), o + at);
      });
    });
  });
}

void blend_backward(
    const BlendPlan& plan, DType dtype, const void* grad, void* grad_host, void* grad_seed, ParallelFor parallel_for) {
  dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* g = static_cast<const T*>(grad);
    T* to_host = static_cast<T*>(grad_host);
    T* to_seed = static_cast<T*>(grad_seed);
    if (is_periodic(plan)) return scale_periodic(plan, dtype, g, to_host, to_seed, parallel_for);
    for_elements(plan.size(), sizeof(T), parallel_for, [&](int64_t begin, int64_t end) {
      const Tiles& t = tiles();
      for_runs(plan, begin, end, [&](int64_t at, int64_t n, int64_t entry) {
        const auto w = weights_of<Compute<T>>(plan, weight_of(plan, entry).e);
        for (int64_t i = at; i < at + n; i += kTile) {
          const int64_t m = std::min(kTile, at + n - i);
          if (to_host != nullptr) scale_piece(t, dtype, g + i, m, w.keep, to_host + i);
          if (to_seed != nullptr) scale_piece(t, dtype, g + i, m, w.take, to_seed + i);
        }
      });
    });
  });
}

double blend_alpha_grad(
    const BlendPlan& plan,
    DType dtype,
    const void* grad,
    const void* host,
    const void* seed,
    ParallelFor parallel_for) {
  const int64_t chunks = ceil_div(plan.size(), kSuperChunk);
  std::vector<double> partial(chunks);
  const auto body = [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c)
      dispatch(dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const int64_t begin = c * kSuperChunk;
        partial[c] = alpha_grad_of_range(
            plan, static_cast<const T*>(grad), static_cast<const T*>(host), static_cast<const T*>(seed), begin,
            std::min(begin + kSuperChunk, plan.size()));
      });
  };
  parallel_for(chunks, 1, RangeBody(body));
  double total = 0;
  for (double p : partial) total += p;
  return total;
}

void blend_stats(const BlendPlan& plan, float out[4]) {
  std::vector<double> e(plan.entries);
  double sum = 0, zeros = 0, clamped = 0;
  for (int64_t i = 0; i < plan.entries; ++i) {
    const Weight w = weight_of(plan, i);
    e[i] = w.e;
    sum += w.e;
    zeros += w.e == 0;
    clamped += w.is_clamped;
  }
  const double n = static_cast<double>(plan.entries);
  const bool is_known = sum == sum;
  const auto p95 = e.begin() + (ceil_div(plan.entries * 95, 100) - 1);
  if (is_known) std::nth_element(e.begin(), p95, e.end());
  out[0] = static_cast<float>(sum / n);
  out[1] = is_known ? static_cast<float>(*p95) : std::nanf("");
  out[2] = static_cast<float>(zeros / n);
  out[3] = static_cast<float>(clamped / n);
}

}  // namespace esper
