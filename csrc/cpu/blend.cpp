#include "common/blend.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "pages.h"
#include "tensors.h"

namespace esper::cpu {
namespace {

Tensor result_like(const Tensor& t, DType dtype) {
  Tensor result = new_tensor_strided(t, t.strides().data());
  prefer_large_pages(result.mutable_data_ptr(), result.numel() * size_bytes(dtype));
  return result;
}

double scalar_of(const Tensor& alpha) {
  check_cpu(alpha, "alpha");
  ESPER_CHECK(alpha.numel() == 1, "alpha has shape ", shape_of(alpha), ", expected a 0-d tensor");
  const std::optional<DType> dtype = dtype_or_none(alpha);
  if (dtype == DType::kFloat64) return *static_cast<const double*>(alpha.const_data_ptr());
  ESPER_CHECK(
      dtype == DType::kFloat32, "alpha has dtype ", torch::headeronly::toString(alpha.scalar_type()),
      ", expected float32 or float64");
  return *static_cast<const float*>(alpha.const_data_ptr());
}

void set_gate(BlendPlan& plan, const Tensor& gate) {
  check_cpu(gate, "gate");
  const std::optional<DType> dtype = dtype_or_none(gate);
  ESPER_CHECK(
      dtype == DType::kFloat32 || dtype == DType::kFloat64, "gate has dtype ",
      torch::headeronly::toString(gate.scalar_type()), ", expected float32 or float64");
  ESPER_CHECK(
      gate.dim() == 1 && gate.is_contiguous(), "gate has shape ", shape_of(gate), ", expected a contiguous vector");
  plan.gate = gate.const_data_ptr();
  plan.gate_dtype = *dtype;
  plan.entries = gate.numel();
}

// `layout` is a dense tensor of the data's shape: its strides say where a gate's entries lie in memory.
BlendPlan plan_of(
    const Tensor& layout,
    const Tensor& alpha,
    const std::optional<Tensor>& gate,
    int64_t gate_dim,
    double lo,
    double hi,
    bool convex) {
  BlendPlan plan;
  plan.alpha = scalar_of(alpha);
  plan.lo = lo;
  plan.hi = hi;
  plan.convex = convex;
  plan.inner = layout.numel();
  if (!gate.has_value()) return plan;
  set_gate(plan, *gate);
  ESPER_CHECK(
      gate_dim >= 0 && gate_dim < layout.dim(), "gate_dim is ", gate_dim, ", host has shape ", shape_of(layout));
  const int64_t size = layout.size(gate_dim);
  ESPER_CHECK(
      plan.entries > 0 && size % plan.entries == 0, "gate has ", plan.entries, " entries, which do not divide the ",
      size, " elements of dimension ", gate_dim, " of shape ", shape_of(layout));
  if (layout.numel() == 0) {
    plan.inner = 0;
    return plan;
  }
  plan.inner = (size == 1 ? layout.numel() : layout.stride(gate_dim)) * (size / plan.entries);
  plan.outer = layout.numel() / (plan.inner * plan.entries);
  return plan;
}

bool has_strides_of(const Tensor& t, const Tensor& like) {
  for (int64_t d = 0; d < like.dim(); ++d)
    if (t.size(d) != 1 && t.stride(d) != like.stride(d)) return false;
  return true;
}

// `t` itself if it lies in memory as `like` does, or a copy that does.
Tensor laid_out_as(const Tensor& t, const Tensor& like) {
  if ((t.is_contiguous() && like.is_contiguous()) || has_strides_of(t, like)) return t;
  Tensor copy = new_tensor_strided(like, like.strides().data());
  torch::stable::copy_(copy, t);
  return copy;
}

Tensor dense(const Tensor& t) { return is_dense(t) ? t : torch::stable::contiguous(t); }

void check_pair(const Tensor& host, const Tensor& seed, const char* seed_name) {
  check_cpu(host, "host");
  check_cpu(seed, seed_name);
  check_same_shape(host, "host", seed, seed_name);
  ESPER_CHECK(
      host.scalar_type() == seed.scalar_type(), seed_name, " has dtype ",
      torch::headeronly::toString(seed.scalar_type()), ", expected that of host, ",
      torch::headeronly::toString(host.scalar_type()));
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
  check_pair(host, seed, "seed");
  const DType dtype = dtype_of(host, "host");
  const Tensor h = dense(host);
  const Tensor s = laid_out_as(seed, h);
  const BlendPlan plan = plan_of(h, alpha, gate, gate_dim, lo, hi, convex);
  Tensor out = result_like(h, dtype);
  esper::blend(plan, dtype, h.const_data_ptr(), s.const_data_ptr(), out.mutable_data_ptr(), parallel_for);
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
  check_cpu(grad, "grad");
  const DType dtype = dtype_of(grad, "grad");
  const Tensor g = dense(grad);
  const BlendPlan plan = plan_of(g, alpha, gate, gate_dim, lo, hi, convex);
  const auto result = [&](bool is_wanted) { return is_wanted ? result_like(g, dtype) : new_empty(g); };
  Tensor grad_host = result(want_host);
  Tensor grad_seed = result(want_seed);
  esper::blend_backward(
      plan, dtype, g.const_data_ptr(), want_host ? grad_host.mutable_data_ptr() : nullptr,
      want_seed ? grad_seed.mutable_data_ptr() : nullptr, parallel_for);
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
  check_pair(host, seed, "seed");
  check_pair(host, grad, "grad");
  const DType dtype = dtype_of(host, "host");
  const Tensor h = dense(host);
  const Tensor s = laid_out_as(seed, h);
  const Tensor g = laid_out_as(grad, h);
  const BlendPlan plan = plan_of(h, alpha, gate, gate_dim, lo, hi, convex);
  const double total =
      esper::blend_alpha_grad(plan, dtype, g.const_data_ptr(), h.const_data_ptr(), s.const_data_ptr(), parallel_for);
  Tensor out = new_tensor({}, alpha.scalar_type());
  if (alpha.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(out.mutable_data_ptr()) = total;
  } else {
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(total);
  }
  return out;
}

Tensor blend_stats(const Tensor& alpha, const std::optional<Tensor>& gate, double lo, double hi) {
  BlendPlan plan;
  plan.alpha = scalar_of(alpha);
  plan.lo = lo;
  plan.hi = hi;
  if (gate.has_value()) set_gate(plan, *gate);
  ESPER_CHECK(plan.entries > 0, "gate is empty, expected at least one entry");
  Tensor out = new_tensor({4}, ScalarType::Float);
  esper::blend_stats(plan, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace
}  // namespace esper::cpu

STABLE_TORCH_LIBRARY_IMPL(esper, CPU, m) {
  m.impl("blend", TORCH_BOX(&esper::cpu::blend));
  m.impl("blend_backward", TORCH_BOX(&esper::cpu::blend_backward));
  m.impl("blend_alpha_grad", TORCH_BOX(&esper::cpu::blend_alpha_grad));
  m.impl("blend_stats", TORCH_BOX(&esper::cpu::blend_stats));
}
