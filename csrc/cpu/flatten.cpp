#include "common/flatten.h"

#include <torch/csrc/stable/library.h>

#include "tensors.h"

namespace esper::cpu {
namespace {

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

void flatten_(const std::vector<Tensor>& grads, const std::vector<int64_t>& sizes, const Tensor& out, bool convert) {
  check_cpu(out, "out");
  const DType out_dtype = dtype_of(out, "out");
  ESPER_CHECK(out.dim() == 1 && out.is_contiguous(), "out has shape ", shape_of(out), ", expected a contiguous vector");
  ESPER_CHECK(
      sizes.empty() || sizes.size() == grads.size(), "sizes has ", sizes.size(), " entries, expected one for each of ",
      grads.size(), " gradients");
  const Span out_span = esper::cpu::span_of(out);
  std::vector<Source> sources;
  sources.reserve(grads.size());
  int64_t total = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t numel = grads[i].numel();
    const int64_t size = sizes.empty() ? numel : sizes[i];
    ESPER_CHECK(numel == size || numel == 0, "gradient ", i, " has ", numel, " elements, expected ", size);
    total += size;
    if (numel == 0) {
      sources.push_back({nullptr, size, out_dtype, {}, {}});
      continue;
    }
    sources.push_back(source_of(grads[i], numel, static_cast<int64_t>(i), out_dtype, convert));
    check_no_overlap(out_span, span_of(grads[i], sources.back()), "a gradient");
  }
  ESPER_CHECK(total == out.numel(), "flat gradient has ", out.numel(), " elements but ", total, " were expected");
  flatten(sources, out_dtype, out.mutable_data_ptr(), parallel_for);
}

}  // namespace
}  // namespace esper::cpu

STABLE_TORCH_LIBRARY_IMPL(esper, CPU, m) { m.impl("flatten_", TORCH_BOX(&esper::cpu::flatten_)); }
