// Layouts of element-wise operators: dense in any order of dimensions, so that channels-last needs no copy.

#pragma once

#include "runtime.h"

namespace esper::cuda {

// Each element has an address of its own and no address between the first and the last is unused.
bool is_dense(const Tensor& tensor);

// The tensor itself, or a contiguous copy if it is not dense.
Tensor as_dense(const Tensor& tensor);

// `tensor` itself if it lies in memory as the dense `like` does, or a copy that does.
Tensor laid_out_as(const Tensor& tensor, const Tensor& like);

// Uninitialised, with the shape, dtype and layout of the dense `like`.
Tensor new_like(const Tensor& like);

void check_same(const Tensor& host, const Tensor& other, const char* name, const OnDevice& device);

}  // namespace esper::cuda
