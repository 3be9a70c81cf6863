#include "tensors.h"

#include <algorithm>
#include <numeric>
#include <sstream>

namespace esper::cpu {
namespace {

Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

}  // namespace

std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << '[';
  for (int64_t d = 0; d < t.dim(); ++d) text << (d ? ", " : "") << t.size(d);
  text << ']';
  return text.str();
}

void check_cpu(const Tensor& t, const char* name) {
  ESPER_CHECK(t.is_cpu(), name, " is not on the CPU, where the other tensors are");
  const std::string complaint = memory_complaint(t.get());
  ESPER_CHECK(complaint.empty(), name, complaint);
}

void check_same_shape(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  bool is_same = a.dim() == b.dim();
  for (int64_t d = 0; is_same && d < a.dim(); ++d) is_same = a.size(d) == b.size(d);
  ESPER_CHECK(is_same, b_name, " has shape ", shape_of(b), ", expected that of ", a_name, ", ", shape_of(a));
}

void check_vector(const Tensor& t, const char* name, ScalarType dtype, int64_t numel) {
  check_cpu(t, name);
  ESPER_CHECK(
      t.scalar_type() == dtype && t.numel() == numel && t.is_contiguous(), name, " is ",
      torch::headeronly::toString(t.scalar_type()), ' ', shape_of(t), ", expected contiguous ",
      torch::headeronly::toString(dtype), " with ", numel, " elements");
}

Tensor new_tensor(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), aoti_torch_device_type_cpu(), 0,
      &handle));
  return Tensor(handle);
}

namespace {

Tensor new_of_dtype(const Tensor& like, int64_t dims, const int64_t* sizes, const int64_t* strides) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

}  // namespace

Tensor new_tensor_strided(const Tensor& like, const int64_t* strides) {
  return new_of_dtype(like, like.dim(), like.sizes().data(), strides);
}

Tensor new_empty(const Tensor& like) {
  static const int64_t kSize = 0;
  static const int64_t kStride = 1;
  return new_of_dtype(like, 1, &kSize, &kStride);
}

bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  std::vector<int64_t> order(t.dim());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return t.stride(a) < t.stride(b); });
  int64_t expected = 1;
  for (int64_t d : order) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

void parallel_for(int64_t count, int64_t grain, const RangeBody& body) {
  if (count <= grain) return serial_for(count, grain, body);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(begin, end); });
}

OwnedRows rows_of_pool(const Tensor& rows) {
  check_cpu(rows, "rows");
  ESPER_CHECK(rows.dim() == 2, "rows has shape ", shape_of(rows), ", expected [K, N]");
  const int64_t k = rows.size(0);
  ESPER_CHECK(k <= kMaxRows, "rows has ", k, " rows, expected at most ", kMaxRows);
  ESPER_CHECK(k >= 1, "no gradients available for aggregation: rows has shape ", shape_of(rows));
  OwnedRows owned;
  const int64_t n = rows.size(1);
  owned.tensors.push_back(n <= 1 || rows.stride(1) == 1 ? rows : torch::stable::contiguous(rows));
  const Tensor& kept = owned.tensors.front();
  const DType dtype = dtype_of(rows, "rows");
  const char* base = static_cast<const char*>(kept.const_data_ptr());
  for (int64_t i = 0; i < k; ++i) owned.data.push_back(base + i * kept.stride(0) * size_bytes(dtype));
  owned.offsets = {0, n};
  owned.view = {static_cast<int>(k), 1, owned.offsets.data(), owned.data.data(), dtype};
  return owned;
}

OwnedRows rows_of_list(const std::vector<Tensor>& grads, int64_t k, const std::vector<int64_t>& sizes) {
  ESPER_CHECK(k >= 1 && !grads.empty(), "no gradients available for aggregation");
  ESPER_CHECK(k <= kMaxRows, k, " rows of gradients, expected at most ", kMaxRows);
  const int64_t total = static_cast<int64_t>(grads.size());
  ESPER_CHECK(total % k == 0, total, " gradients do not divide into ", k, " rows of equal length");
  const int64_t columns = total / k;
  ESPER_CHECK(
      sizes.empty() || static_cast<int64_t>(sizes.size()) == columns, "sizes has ", sizes.size(),
      " entries, expected one for each of ", columns, " gradients");
  OwnedRows owned;
  owned.offsets.assign(columns + 1, 0);
  std::optional<DType> dtype;
  for (int64_t c = 0; c < columns; ++c) {
    int64_t size = sizes.empty() ? 0 : sizes[c];
    if (sizes.empty())
      for (int64_t i = 0; i < k; ++i) size = std::max(size, grads[i * columns + c].numel());
    owned.offsets[c + 1] = owned.offsets[c] + size;
  }
  for (int64_t i = 0; i < total; ++i) {
    const Tensor& grad = grads[i];
    const int64_t size = owned.offsets[i % columns + 1] - owned.offsets[i % columns];
    const int64_t numel = grad.numel();
    ESPER_CHECK(
        numel == size || numel == 0, "gradient ", i % columns, " of row ", i / columns, " has ", numel,
        " elements, expected ", size, " as in the other rows");
    if (numel == 0) {
      owned.data.push_back(nullptr);
      continue;
    }
    check_cpu(grad, "a gradient");
    const DType found = dtype_of(grad, "a gradient");
    ESPER_CHECK(
        found == dtype.value_or(found), "gradient tensors must share the same dtype: gradient ", i % columns,
        " of row ", i / columns, " is ", name_of(found), ", the first is ", name_of(*dtype));
    dtype = found;
    owned.tensors.push_back(packed(grad));
    owned.data.push_back(owned.tensors.back().const_data_ptr());
  }
  owned.view = {static_cast<int>(k), columns, owned.offsets.data(), owned.data.data(), dtype.value_or(DType::kFloat32)};
  return owned;
}

Span span_of(const Tensor& t) {
  const char* begin = static_cast<const char*>(t.const_data_ptr());
  return {begin, begin + extent_of(t.get(), t.numel()) * static_cast<int64_t>(t.element_size())};
}

void check_no_overlap(const Span& out, const Span& input, const char* name) {
  ESPER_CHECK(
      input.end <= out.begin || out.end <= input.begin || input.begin == input.end, name,
      " shares memory with out, which would be overwritten while it is read");
}

}  // namespace esper::cpu
