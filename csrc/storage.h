// Whether a tensor's memory is there. Storages can be freed or made smaller while tensors still refer to them; reading
// one would read another's memory, or take a freed gradient for an absent one.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

namespace esper {

// Elements from the first that the tensor may touch to the last.
inline int64_t extent_of(AtenTensorHandle tensor, int64_t numel) {
  bool is_contiguous = false;
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(tensor, &is_contiguous));
  if (is_contiguous || numel == 0) return numel;
  int64_t dims = 0;
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor, &dims));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor, &strides));
  int64_t last = 0;
  for (int64_t d = 0; d < dims; ++d) last += (sizes[d] - 1) * strides[d];
  return last + 1;
}

// Empty if all is well, or the end of a sentence that starts with the tensor's name.
inline std::string memory_complaint(AtenTensorHandle tensor) {
  int64_t numel = 0;
  int64_t held_bytes = 0;
  int64_t offset = 0;
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(tensor, &numel));
  if (numel == 0) return {};
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor, &held_bytes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor, &offset));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor, &dtype));
  const int64_t item_bytes = static_cast<int64_t>(aoti_torch_dtype_element_size(dtype));
  const int64_t needed_bytes = (offset + extent_of(tensor, numel)) * item_bytes;
  if (needed_bytes <= held_bytes) return {};
  return " needs " + std::to_string(needed_bytes) + " bytes of memory but its storage holds " +
         std::to_string(held_bytes) + ": it was freed or resized";
}

// Where a tensor's elements are. Strides are left to who needs them, and so is how much memory there is: a storage that
// is resized or freed moves, since the old memory is still held while the new one is allocated.
struct Footprint {
  void* address = nullptr;
  int64_t numel = 0;
  int32_t dtype = 0;
  bool is_contiguous = true;

  bool operator==(const Footprint& other) const {
    return address == other.address && numel == other.numel && dtype == other.dtype &&
           is_contiguous == other.is_contiguous;
  }
};

inline Footprint footprint_of(AtenTensorHandle tensor) {
  Footprint found;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(tensor, &found.numel));
  if (found.numel == 0) return found;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &found.address));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor, &found.dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(tensor, &found.is_contiguous));
  return found;
}

}  // namespace esper
