// How one element's blend weight is found on the device; the same rules as csrc/common/blend.h.

#pragma once

#include "runtime.h"
#include "vector.h"

namespace esper::cuda {

// Division of 31-bit numbers by a constant, as one multiplication.
struct Divisor {
  uint32_t value = 1;
  uint32_t magic = 1;
  uint32_t shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t divisor) : value(divisor) {
    while (shift < 31 && (uint32_t{1} << shift) < divisor) ++shift;
    magic = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor) / divisor + 1);
  }
  __device__ uint32_t divide(uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
};

struct Weight {
  double e;         // NaN if alpha or the gate's entry is NaN
  double slope;     // de / dalpha
  bool is_clamped;  // the clamp changed it
};

// Dense data seen as [outer, entries, inner] in memory order: element (o, v, i) uses gate entry v.
struct BlendPlan {
  const void* alpha = nullptr;
  const void* gate = nullptr;  // or null: one entry of weight 1
  bool is_alpha_double = false;
  bool is_gate_double = false;
  bool is_convex = false;
  double lo = 0;
  double hi = 1;
  int64_t entries = 1;
  int64_t inner = 1;
  Divisor by_entries;
  Divisor by_inner;

  __device__ static double read(const void* values, int64_t index, bool is_double) {
    return is_double ? static_cast<const double*>(values)[index] : static_cast<const float*>(values)[index];
  }
  // NaN passes through: neither comparison holds.
  __device__ static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

  __device__ Weight weight(double given_alpha, int64_t entry) const {
    const double value = clamp(given_alpha, 0.0, 1.0);
    const bool is_inside = value == given_alpha;
    const double factor = gate == nullptr ? 1.0 : read(gate, entry, is_gate_double);
    if (value == 0) return {0.0, is_inside && lo <= 0 ? factor : 0.0, !is_inside};
    const double raw = value * factor;
    const double e = clamp(raw, lo, hi);
    return {e, is_inside && e == raw ? factor : 0.0, !is_inside || (e != raw && raw == raw)};
  }
  __device__ double read_alpha() const { return read(alpha, 0, is_alpha_double); }
  // Of an element among fewer than 2^30.
  __device__ uint32_t entry_at(uint32_t element) const {
    if (entries == 1) return 0;
    const uint32_t run = by_inner.divide(element);
    return run - by_entries.divide(run) * by_entries.value;
  }
};

// Finds the gate entries of the elements of one block's tile, which begins at `base`.
class EntryCursor {
 public:
  __device__ EntryCursor(const BlendPlan& plan, int64_t base) : plan_(plan) {
    if (plan.entries == 1) return;
    const int64_t run = base / plan.inner;
    rest_ = base - run * plan.inner;
    first_ = static_cast<uint32_t>(run % plan.entries);
  }
  // The entry of the element at `offset` in the tile, and how far into its run that element lies.
  __device__ void seek(uint32_t offset) {
    entry_ = 0;
    if (plan_.entries == 1) return;
    const int64_t at = rest_ + offset;
    const uint32_t runs =
        plan_.inner <= kShortRun ? plan_.by_inner.divide(static_cast<uint32_t>(at)) : (at >= plan_.inner ? 1 : 0);
    const uint32_t entry = first_ + runs;
    entry_ = entry - plan_.by_entries.divide(entry) * plan_.by_entries.value;
    place_ = at - runs * plan_.inner;
  }
  __device__ void advance() {
    if (plan_.entries == 1 || ++place_ < plan_.inner) return;
    place_ = 0;
    entry_ = entry_ + 1 == plan_.entries ? 0 : entry_ + 1;
  }
  __device__ uint32_t entry() const { return entry_; }

  // Longer runs change entry at most once in a tile, and their positions may not fit 31 bits.
  static constexpr int64_t kShortRun = int64_t{1} << 30;

 private:
  const BlendPlan& plan_;
  int64_t rest_ = 0;
  int64_t place_ = 0;
  uint32_t first_ = 0;
  uint32_t entry_ = 0;
};

// Checks alpha and gate and lays the gate along `dim` of dense data with the layout of `like`.
BlendPlan plan_blend(
    const Tensor& like,
    const Tensor& alpha,
    const std::optional<Tensor>& gate,
    int64_t dim,
    double lo,
    double hi,
    bool is_convex,
    const OnDevice& device);

// Checks alpha and gate alone.
BlendPlan plan_weights(
    const Tensor& alpha, const std::optional<Tensor>& gate, double lo, double hi, const OnDevice& device);

}  // namespace esper::cuda
