// Tensors of any strides into one buffer. The bytes are shared among threads, not the tensors.

#pragma once

#include <vector>

#include "dtype.h"
#include "parallel.h"

namespace esper {

struct Source {
  const void* data;  // null: absent, becomes zeros
  int64_t numel;
  DType dtype;
  // Logical order, outermost first, strides in elements; empty when the elements stand one after another.
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
};

// Writes the sources one after another into `out`.
void flatten(const std::vector<Source>& sources, DType out_dtype, void* out, ParallelFor parallel_for);

}  // namespace esper
