#include "layout.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace esper::cuda {
namespace {

bool has_strides_of(const Tensor& tensor, const Tensor& like) {
  for (int64_t d = 0; d < like.dim(); ++d) {
    if (tensor.size(d) != 1 && tensor.stride(d) != like.stride(d)) return false;
  }
  return true;
}

}  // namespace

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  std::vector<int64_t> order(tensor.dim());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  int64_t expected = 1;
  for (int64_t d : order) {
    if (tensor.size(d) == 1) continue;
    if (tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

Tensor as_dense(const Tensor& tensor) { return is_dense(tensor) ? tensor : torch::stable::contiguous(tensor); }

Tensor laid_out_as(const Tensor& tensor, const Tensor& like) {
  if ((tensor.is_contiguous() && like.is_contiguous()) || has_strides_of(tensor, like)) return tensor;
  Tensor copy = new_like(like);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor new_like(const Tensor& like) {
  int32_t dtype = 0;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      like.dim(), like.sizes().data(), like.strides().data(), dtype, aoti_torch_device_type_cuda(),
      like.get_device_index(), &handle));
  return Tensor(handle);
}

void check_same(const Tensor& host, const Tensor& other, const char* name, const OnDevice& device) {
  check_device(other, device.index(), name);
  bool is_same = host.dim() == other.dim();
  for (int64_t d = 0; is_same && d < host.dim(); ++d) is_same = host.size(d) == other.size(d);
  ESPER_CHECK(is_same, name, " has shape ", shape_of(other), ", expected that of host, ", shape_of(host));
  ESPER_CHECK(
      host.scalar_type() == other.scalar_type(), name, " has dtype ", torch::headeronly::toString(other.scalar_type()),
      ", expected that of host, ", torch::headeronly::toString(host.scalar_type()));
}

}  // namespace esper::cuda
