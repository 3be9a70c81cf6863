// Rows of a matrix or of lists of tensors, checked and reduced to addresses.

#include "lists.h"

namespace esper::cuda {
namespace {

// The number of columns of piece `piece`: given, or that of the longest tensor in it.
int64_t piece_size(const TensorList& tensors, const std::vector<int64_t>& sizes, size_t piece, size_t pieces) {
  if (!sizes.empty()) return sizes[piece];
  int64_t size = 0;
  for (size_t index = piece; index < tensors.size(); index += pieces) size = std::max(size, tensors[index].size());
  return size;
}

}  // namespace

void check_listed(const ListedTensor& tensor, size_t index, int32_t device) {
  int32_t layout = 0;
  int32_t kind = 0;
  int32_t position = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(tensor.handle(), &layout));
  ESPER_CHECK(layout == aoti_torch_layout_strided(), "gradient ", index, " is sparse, expected a strided tensor");
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.handle(), &kind));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.handle(), &position));
  const bool is_cuda = kind == aoti_torch_device_type_cuda();
  ESPER_CHECK(
      is_cuda && position == device, "gradient ", index, " is on ", device_name(is_cuda, position),
      ", expected cuda:", device, ", where the other tensors are");
  const std::string complaint = memory_complaint(tensor.handle());
  ESPER_CHECK(complaint.empty(), "gradient ", index, complaint);
}

Rows matrix_rows(Tensor& matrix) {
  ESPER_CHECK(matrix.dim() == 2, "rows has shape ", shape_of(matrix), ", expected [K, N]");
  ESPER_CHECK(matrix.size(0) >= 1, "no gradients available for aggregation: rows has shape ", shape_of(matrix));
  ESPER_CHECK(matrix.size(0) <= kMaxRows, "rows has ", matrix.size(0), " rows, expected at most ", kMaxRows);
  Rows rows;
  rows.count = static_cast<int>(matrix.size(0));
  rows.dtype = matrix.scalar_type();
  const int64_t columns = matrix.size(1);
  if (columns == 0) return rows;
  if (columns > 1 && matrix.stride(1) != 1) matrix = torch::stable::contiguous(matrix);
  rows.add_piece(columns);
  const char* base = static_cast<const char*>(matrix.data_ptr());
  const int64_t row_bytes = matrix.stride(0) * static_cast<int64_t>(matrix.element_size());
  for (int k = 0; k < rows.count; ++k) rows.addresses.push_back(base + k * row_bytes);
  return rows;
}

Rows listed_rows(TensorList& tensors, const std::vector<int64_t>& sizes, int64_t row_count, const Tensor& like) {
  ESPER_CHECK(row_count >= 1 && !tensors.empty(), "no gradients available for aggregation");
  ESPER_CHECK(row_count <= kMaxRows, row_count, " rows of gradients, expected at most ", kMaxRows);
  ESPER_CHECK(
      tensors.size() % row_count == 0, tensors.size(), " gradients do not divide into ", row_count,
      " rows of equal length");
  const size_t pieces = tensors.size() / row_count;
  ESPER_CHECK(
      sizes.empty() || sizes.size() == pieces, "sizes has ", sizes.size(), " entries, expected one for each of ",
      pieces, " gradients");
  const int32_t device = like.get_device_index();
  int32_t raw_dtype = -1;
  Rows rows;
  rows.count = static_cast<int>(row_count);
  rows.dtype = like.scalar_type();
  for (size_t piece = 0; piece < pieces; ++piece) {
    const int64_t size = piece_size(tensors, sizes, piece, pieces);
    for (size_t index = piece; index < tensors.size(); index += pieces) {
      ListedTensor& tensor = tensors[index];
      ESPER_CHECK(
          tensor.size() == size || tensor.size() == 0, "gradient ", piece, " of row ", index / pieces, " has ",
          tensor.size(), " elements, expected ", size, " as in the other rows");
      if (size == 0) continue;
      if (tensor.size() == 0) {
        rows.addresses.push_back(nullptr);
        continue;
      }
      check_listed(tensor, index, device);
      if (raw_dtype < 0) {
        raw_dtype = tensor.raw_dtype();
        rows.dtype = tensor.dtype();
      }
      ESPER_CHECK(
          tensor.raw_dtype() == raw_dtype, "gradient tensors must share the same dtype: gradient ", piece, " of row ",
          index / pieces, " is ", torch::headeronly::toString(tensor.dtype()), ", the first is ",
          torch::headeronly::toString(rows.dtype));
      if (!tensor.is_contiguous()) tensor.make_contiguous();
      rows.addresses.push_back(tensor.address());
    }
    if (size > 0) rows.add_piece(size);
  }
  return rows;
}

void check_disjoint(const Rows& rows, const Tensor& out) {
  const int64_t item_bytes = static_cast<int64_t>(out.element_size());
  const char* begin = static_cast<const char*>(out.data_ptr());
  const char* end = begin + out.numel() * item_bytes;
  for (size_t word = 0; word < rows.addresses.size(); ++word) {
    const char* row = static_cast<const char*>(rows.addresses[word]);
    ESPER_CHECK(
        row == nullptr || row >= end || row + rows.sizes[word / rows.count] * item_bytes <= begin,
        "a row shares memory with out, which would be overwritten while it is read");
  }
}

}  // namespace esper::cuda
