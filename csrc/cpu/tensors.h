// Reading torch's tensors: what the operators accept, and the error that says what came instead.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/parallel.h"
#include "common/rows.h"
#include "storage.h"

namespace esper::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  text << "esper: ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// Raises RuntimeError with the parts as its text; torch's own check would put a path of the build machine first.
#define ESPER_CHECK(condition, ...)                    \
  do {                                                 \
    if (!(condition)) ::esper::cpu::fail(__VA_ARGS__); \
  } while (false)

// Torch's numbers for the dtypes, asked for once: the general translation costs as much as a small kernel.
inline std::optional<DType> dtype_or_none(const Tensor& t) {
  static const int32_t kCodes[] = {
      aoti_torch_dtype_float64(), aoti_torch_dtype_float32(), aoti_torch_dtype_bfloat16(), aoti_torch_dtype_float16()};
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  for (int i = 0; i < 4; ++i)
    if (code == kCodes[i]) return static_cast<DType>(i);
  return std::nullopt;
}

inline DType dtype_of(const Tensor& t, const char* name) {
  const std::optional<DType> dtype = dtype_or_none(t);
  ESPER_CHECK(
      dtype.has_value(), name, " has dtype ", torch::headeronly::toString(t.scalar_type()),
      ", expected float64, float32, bfloat16 or float16");
  return *dtype;
}

std::string shape_of(const Tensor& t);
// On the CPU, and its memory is there.
void check_cpu(const Tensor& t, const char* name);
void check_same_shape(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name);
void check_vector(const Tensor& t, const char* name, ScalarType dtype, int64_t numel);

Tensor new_tensor(const std::vector<int64_t>& sizes, ScalarType dtype);

// Uninitialised, of the shape and dtype of `like`.
Tensor new_tensor_strided(const Tensor& like, const int64_t* strides);

// Without elements, of the dtype of `like`.
Tensor new_empty(const Tensor& like);

// Each element has an address of its own and no address between the first and the last is unused.
bool is_dense(const Tensor& t);

void parallel_for(int64_t count, int64_t grain, const RangeBody& body);

// Rows together with what keeps their memory alive.
struct OwnedRows {
  std::vector<Tensor> tensors;
  std::vector<const void*> data;
  std::vector<int64_t> offsets;
  Rows view{};
};

OwnedRows rows_of_pool(const Tensor& rows);

// grads[k * T + t]. `sizes` gives the columns' lengths; when empty, each is that of the longest tensor in it.
OwnedRows rows_of_list(const std::vector<Tensor>& grads, int64_t k, const std::vector<int64_t>& sizes);

// The first byte that a tensor may touch and the one after the last.
struct Span {
  const char* begin;
  const char* end;
};
Span span_of(const Tensor& t);

// Refuses `out` if it shares memory with an input.
void check_no_overlap(const Span& out, const Span& input, const char* name);

}  // namespace esper::cpu
