#include "common/gate.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "tensors.h"

namespace esper::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor> confidence_gate(const Tensor& logits, double k, double tau, bool entropy) {
  check_cpu(logits, "logits");
  ESPER_CHECK(
      logits.dim() == 2 && logits.size(1) >= 1, "logits has shape ", shape_of(logits),
      ", expected [samples, classes] with at least one class");
  const DType dtype = dtype_of(logits, "logits");
  const Tensor dense = logits.is_contiguous() ? logits : torch::stable::contiguous(logits);
  Tensor gate = new_tensor({logits.size(0)}, ScalarType::Float);
  Tensor statistics = new_tensor({logits.size(0), 3}, ScalarType::Float);
  Tensor events = new_tensor({}, ScalarType::Long);
  *static_cast<int64_t*>(events.mutable_data_ptr()) = esper::confidence_gate(
      dtype, dense.const_data_ptr(), logits.size(0), logits.size(1), {k, tau, entropy},
      static_cast<float*>(gate.mutable_data_ptr()), static_cast<float*>(statistics.mutable_data_ptr()), parallel_for);
  return {gate, statistics, events};
}

}  // namespace
}  // namespace esper::cpu

STABLE_TORCH_LIBRARY_IMPL(esper, CPU, m) { m.impl("confidence_gate", TORCH_BOX(&esper::cpu::confidence_gate)); }
