// Checks of a blend's alpha and gate, and where the gate's entries lie in memory.

#include "weights.h"

namespace esper::cuda {

BlendPlan plan_weights(
    const Tensor& alpha, const std::optional<Tensor>& gate, double lo, double hi, const OnDevice& device) {
  const auto is_double = [&](const Tensor& tensor, const char* name) {
    check_device(tensor, device.index(), name);
    const ScalarType dtype = tensor.scalar_type();
    ESPER_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::Double, name, " has dtype ",
        torch::headeronly::toString(dtype), ", expected float32 or float64");
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
      gate->numel() < EntryCursor::kShortRun, "gate has ", gate->numel(), " entries, expected fewer than ",
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
      plan.entries > 0 && size % plan.entries == 0, "gate has ", plan.entries, " entries, which do not divide the ",
      size, " elements of dimension ", dim, " of shape ", shape_of(like));
  if (like.numel() == 0) return plan;
  plan.inner = (size == 1 ? like.numel() : like.stride(dim)) * (size / plan.entries);
  plan.by_entries = Divisor(static_cast<uint32_t>(plan.entries));
  if (plan.inner <= EntryCursor::kShortRun) plan.by_inner = Divisor(static_cast<uint32_t>(plan.inner));
  return plan;
}

}  // namespace esper::cuda
