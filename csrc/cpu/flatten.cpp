#include "common/flatten.h"

#include <torch/csrc/stable/library.h>

#include "opaque.h"
#include "tensors.h"

namespace esper::cpu {
namespace {

// What is known of the tensors before anything is copied. A plan keeps it, and with it the tensors' memory.
struct Flattening {
  DType out_dtype;
  int64_t numel = 0;
  std::vector<Tensor> grads;
  std::vector<Source> sources;
  std::vector<Span> spans;
  std::vector<Footprint> footprints;  // of a plan only
};

Source source_of(const Tensor& grad, int64_t numel, int64_t index, DType out_dtype, bool convert) {
  check_cpu(grad, "a gradient");
  const DType dtype = dtype_of(grad, "a gradient");
  ESPER_CHECK(
      dtype == out_dtype || convert, "gradient tensors must share the same dtype: gradient ", index, " is ",
      name_of(dtype), ", out is ", name_of(out_dtype), "; pass convert=True to convert");
  Source source{grad.const_data_ptr(), numel, dtype, {}, {}};
  if (!grad.is_contiguous()) {
    source.sizes.assign(grad.sizes().begin(), grad.sizes().end());
    source.strides.assign(grad.strides().begin(), grad.strides().end());
  }
  return source;
}

Span span_of(const Tensor& grad, const Source& source) {
  if (!source.sizes.empty()) return esper::cpu::span_of(grad);
  const char* begin = static_cast<const char*>(source.data);
  return {begin, begin + source.numel * size_bytes(source.dtype)};
}

Flattening examine(std::vector<Tensor> grads, const std::vector<int64_t>& sizes, const Tensor& like, bool convert) {
  check_cpu(like, "out");
  ESPER_CHECK(
      sizes.empty() || sizes.size() == grads.size(), "sizes has ", sizes.size(), " entries, expected one for each of ",
      grads.size(), " gradients");
  Flattening known{dtype_of(like, "out"), 0, std::move(grads), {}, {}, {}};
  known.sources.reserve(known.grads.size());
  known.spans.reserve(known.grads.size());
  for (size_t i = 0; i < known.grads.size(); ++i) {
    const Tensor& grad = known.grads[i];
    const int64_t numel = grad.numel();
    const int64_t size = sizes.empty() ? numel : sizes[i];
    ESPER_CHECK(numel == size || numel == 0, "gradient ", i, " has ", numel, " elements, expected ", size);
    known.numel += size;
    known.sources.push_back(
        numel == 0 ? Source{nullptr, size, known.out_dtype, {}, {}}
                   : source_of(grad, numel, static_cast<int64_t>(i), known.out_dtype, convert));
    known.spans.push_back(numel == 0 ? Span{nullptr, nullptr} : span_of(grad, known.sources.back()));
  }
  return known;
}

void copy_into(const Flattening& known, const Tensor& out) {
  ESPER_CHECK(out.dim() == 1 && out.is_contiguous(), "out has shape ", shape_of(out), ", expected a contiguous vector");
  ESPER_CHECK(
      known.numel == out.numel(), "flat gradient has ", out.numel(), " elements but ", known.numel, " were expected");
  const Span out_span = esper::cpu::span_of(out);
  for (const Span& span : known.spans) check_no_overlap(out_span, span, "a gradient");
  flatten(known.sources, known.out_dtype, out.mutable_data_ptr(), parallel_for);
}

bool is_as_found(const Tensor& grad, const Source& source, const Footprint& footprint) {
  if (!(footprint_of(grad.get()) == footprint)) return false;
  const auto is_equal = [](auto left, const std::vector<int64_t>& right) {
    return left.size() == right.size() && std::equal(left.begin(), left.end(), right.begin());
  };
  return source.sizes.empty() || (is_equal(grad.sizes(), source.sizes) && is_equal(grad.strides(), source.strides));
}

void flatten_(std::vector<Tensor> grads, const std::vector<int64_t>& sizes, const Tensor& out, bool convert) {
  copy_into(examine(std::move(grads), sizes, out, convert), out);
}

Tensor flatten_plan(std::vector<Tensor> grads, const std::vector<int64_t>& sizes, const Tensor& like, bool convert) {
  auto known = std::make_shared<Flattening>(examine(std::move(grads), sizes, like, convert));
  for (const Tensor& grad : known->grads) known->footprints.push_back(footprint_of(grad.get()));
  return Opaque<Flattening>::give(std::move(known));
}

bool flatten_planned_(const Tensor& plan, const Tensor& out) {
  const std::shared_ptr<const Flattening> known = Opaque<Flattening>::find(plan);
  ESPER_CHECK(known != nullptr, "plan is not one that flatten_plan made for a tensor on the CPU");
  check_cpu(out, "out");
  const DType dtype = dtype_of(out, "out");
  ESPER_CHECK(
      dtype == known->out_dtype, "out is ", name_of(dtype), ", the plan was made for ", name_of(known->out_dtype));
  for (size_t i = 0; i < known->grads.size(); ++i)
    if (!is_as_found(known->grads[i], known->sources[i], known->footprints[i])) return false;
  copy_into(*known, out);
  return true;
}

}  // namespace
}  // namespace esper::cpu

STABLE_TORCH_LIBRARY_IMPL(esper, CPU, m) {
  m.impl("flatten_", TORCH_BOX(&esper::cpu::flatten_));
  m.impl("flatten_plan", TORCH_BOX(&esper::cpu::flatten_plan));
  m.impl("flatten_planned_", TORCH_BOX(&esper::cpu::flatten_planned_));
}
