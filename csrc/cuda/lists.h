// Lists of tensors as operator arguments, read once: a plain torch::stable::Tensor costs two allocations per element.

#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "pieces.h"

namespace esper::cuda {

// One element of a Tensor[] argument: it owns the handle and holds the facts that every operator asks for.
class ListedTensor {
 public:
  explicit ListedTensor(AtenTensorHandle handle) : handle_(handle) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(handle, &size_));
    if (size_ > 0) TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &address_));
  }
  int64_t size() const { return size_; }
  const void* address() const { return address_; }
  AtenTensorHandle handle() const { return handle_.get(); }

  bool is_contiguous() const {
    bool contiguous = false;
    TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle(), &contiguous));
    return contiguous;
  }
  int32_t raw_dtype() const {
    int32_t dtype = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle(), &dtype));
    return dtype;
  }
  ScalarType dtype() const { return to_scalar_type(raw_dtype()); }
  // From the first byte that the tensor may touch to the last.
  int64_t extent_bytes() const {
    return extent_of(handle(), size_) * static_cast<int64_t>(aoti_torch_dtype_element_size(raw_dtype()));
  }
  // Replaces a strided tensor by a contiguous copy.
  void make_contiguous() { *this = ListedTensor(new_handle(torch::stable::contiguous(share()).get())); }
  // The same tensor under a handle of its own.
  Tensor share() const { return Tensor(new_handle(handle())); }

 private:
  static AtenTensorHandle new_handle(AtenTensorHandle tensor) {
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor, &handle));
    return handle;
  }
  struct Delete {
    void operator()(AtenTensorHandle handle) const { aoti_torch_delete_tensor_object(handle); }
  };
  std::unique_ptr<AtenTensorOpaque, Delete> handle_;
  int64_t size_ = 0;
  void* address_ = nullptr;
};

using TensorList = std::vector<ListedTensor>;

// Raises unless the element is a strided tensor on the device whose memory is there.
void check_listed(const ListedTensor& tensor, size_t index, int32_t device);

// The K rows of a [K, N] matrix; `rows` is replaced by a copy if its columns do not lie next to each other.
Rows matrix_rows(Tensor& rows);

// K rows from K lists laid end to end: tensors[k * T + t] is piece t of row k. `sizes` may be empty when each piece is
// present in some row; strided tensors are replaced by copies.
Rows listed_rows(TensorList& tensors, const std::vector<int64_t>& sizes, int64_t row_count, const Tensor& like);

// Raises if `out`, of the rows' dtype, shares memory with a row.
void check_disjoint(const Rows& rows, const Tensor& out);

}  // namespace esper::cuda

namespace torch::stable::detail {

template <>
struct ToImpl<esper::cuda::ListedTensor> {
  static esper::cuda::ListedTensor call(StableIValue value, uint64_t, bool) {
    return esper::cuda::ListedTensor(to<AtenTensorHandle>(value));
  }
};

}  // namespace torch::stable::detail
