// What every CUDA operator needs of torch and of the driver: device guard, current stream, checked launches, scratch
// tensors and dispatch over dtypes. Stable-ABI headers only, so that nvcc compiles it against a CPU-only torch.

#pragma once

#ifndef USE_CUDA
#define USE_CUDA
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <string>

#include "../storage.h"

#define ESPER_CHECK(condition, ...) STD_TORCH_CHECK(condition, "esper: ", __VA_ARGS__)

namespace esper::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the tensor's device current for a scope and names torch's current stream there.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    const std::string complaint = memory_complaint(tensor.get());
    ESPER_CHECK(complaint.empty(), "a tensor", complaint);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  int32_t index() const { return index_; }
  cudaStream_t stream() const { return stream_; }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// torch's own check would need a symbol that came after torch 2.11.
inline void check_cuda(cudaError_t code, const char* what) {
  ESPER_CHECK(code == cudaSuccess, what, ": ", cudaGetErrorName(code), ", ", cudaGetErrorString(code));
}

template <typename... Parameters, typename... Arguments>
void launch(
    void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream, const Arguments&... arguments) {
  ESPER_CHECK(blocks <= INT32_MAX, "a launch of ", blocks, " blocks exceeds the device's grid");
  if (blocks <= 0) return;
  kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(threads), 0, stream>>>(arguments...);
  check_cuda(cudaGetLastError(), "kernel launch");
}

inline Tensor new_tensor(int32_t device, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  int64_t strides[4];
  int64_t stride = 1;
  const int dims = static_cast<int>(sizes.size());
  for (int d = dims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes.begin()[d];
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dims, sizes.begin(), strides, torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cuda(), device, &handle));
  return Tensor(handle);
}

inline ScalarType to_scalar_type(int32_t raw) {
  return torch::stable::detail::to<ScalarType>(torch::stable::detail::from(raw));
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

inline void check_dtype(const Tensor& tensor, ScalarType expected, const char* name) {
  ESPER_CHECK(
      tensor.scalar_type() == expected, name, " has dtype ", torch::headeronly::toString(tensor.scalar_type()),
      ", expected ", torch::headeronly::toString(expected));
}

inline std::string device_name(bool is_cuda, int32_t index) {
  return is_cuda ? "cuda:" + std::to_string(index) : std::string("another kind of device");
}

inline void check_device(const Tensor& tensor, int32_t device, const char* name) {
  ESPER_CHECK(
      tensor.is_cuda() && tensor.get_device_index() == device, name, " is on ",
      device_name(tensor.is_cuda(), tensor.get_device_index()), ", expected cuda:", device,
      ", where the other tensors are");
  const std::string complaint = memory_complaint(tensor.get());
  ESPER_CHECK(complaint.empty(), name, complaint);
}

std::string shape_of(const Tensor& tensor);

template <typename T>
struct Type {
  using type = T;
};

inline void check_floating(ScalarType dtype, const char* name) {
  const bool is_floating = dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                           dtype == ScalarType::BFloat16;
  ESPER_CHECK(
      is_floating, name, " has dtype ", torch::headeronly::toString(dtype),
      ", expected float64, float32, bfloat16 or float16");
}

// Calls body(Type<T>{}) with the device type of a floating dtype.
template <typename Body>
void dispatch_floating(ScalarType dtype, const char* name, Body&& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(Type<float>{});
    case ScalarType::Double:
      return body(Type<double>{});
    case ScalarType::Half:
      return body(Type<__half>{});
    case ScalarType::BFloat16:
      return body(Type<__nv_bfloat16>{});
    default:
      check_floating(dtype, name);
  }
}

}  // namespace esper::cuda
