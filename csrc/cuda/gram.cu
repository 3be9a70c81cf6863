// Gram matrices of K rows. The grid follows from N and K alone and partial sums are added in a fixed order: results are
// reproducible.

#include "gram.h"
#include "products.h"
#include "reduce.h"

namespace esper::cuda {
namespace {

constexpr int kReduceThreads = 256;

// One block adds the partial sums of one pair.
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const double* partials, int64_t blocks, int rows, double* gram) {
  double total = 0;
#pragma unroll 4
  for (int64_t b = threadIdx.x; b < blocks; b += kReduceThreads) total += partials[blockIdx.x * blocks + b];
  total = sum_block<kReduceThreads>(total);
  if (threadIdx.x > 0) return;
  int i = 0;
  int rest = blockIdx.x;
  while (rest >= rows - i) rest -= rows - i++;
  gram[i * rows + i + rest] = gram[(i + rest) * rows + i] = total;
}

template <typename T, int kGroups, int kUnroll>
void launch_groups(const Rows& rows, const GramGrid& grid, double* sums, cudaStream_t stream) {
  Partials partials{sums, 0, grid.blocks};
  for_each_table<kGroups <= 2>(rows, [&](const auto& table, int64_t) {
    constexpr int kWords = sizeof(table.words) / sizeof(int64_t);
    const int64_t blocks = GramGrid::blocks_for(rows, table.columns);
    launch(
        gram_kernel<T, kGroups, kUnroll, kWords, WholeRows>, blocks, kGramThreads, stream, table,
        GramGrid::kWarpColumns, column_groups(rows.count), WholeRows{}, partials);
    partials.first_block += blocks;
  });
}

}  // namespace

GramGrid plan_gram(const Rows& rows) {
  GramGrid grid;
  for_each_table(rows, [&](const auto& table, int64_t) { grid.blocks += GramGrid::blocks_for(rows, table.columns); });
  return grid;
}

void launch_reduce(const Tensor& partials, int64_t blocks, int rows, double* gram, const OnDevice& device) {
  launch(reduce_kernel, pair_count(rows), kReduceThreads, device.stream(), data<double>(partials), blocks, rows, gram);
}

void launch_gram(const Rows& rows, double* gram, const OnDevice& device) {
  const GramGrid grid = plan_gram(rows);
  const Tensor partials = new_tensor(device.index(), ScalarType::Double, {pair_count(rows.count), grid.blocks});
  dispatch_floating(rows.dtype, "rows", [&](auto type) {
    using T = typename decltype(type)::type;
    double* sums = data<double>(partials);
    if (rows.count <= 8)
      launch_groups<T, 1, 4>(rows, grid, sums, device.stream());
    else if (rows.count <= 16)
      launch_groups<T, 2, 4>(rows, grid, sums, device.stream());
    else if (rows.count <= 32)
      launch_groups<T, 4, 2>(rows, grid, sums, device.stream());
    else
      launch_groups<T, 8, 1>(rows, grid, sums, device.stream());
  });
  launch_reduce(partials, grid.blocks, rows.count, gram, device);
}

namespace {

Tensor gram(Tensor& matrix, [[maybe_unused]] bool fast) {
  const OnDevice device(matrix);
  const Rows rows = matrix_rows(matrix);
  const Tensor out = new_tensor(device.index(), ScalarType::Double, {rows.count, rows.count});
  launch_gram(rows, data<double>(out), device);
  return out;
}

void gram_list(TensorList& tensors, const Tensor& out, [[maybe_unused]] bool fast) {
  check_dtype(out, ScalarType::Double, "out");
  ESPER_CHECK(
      out.dim() == 2 && out.size(0) == out.size(1) && out.is_contiguous(), "out: expected a contiguous [K, K] matrix");
  const OnDevice device(out);
  launch_gram(listed_rows(tensors, {}, out.size(0), out), data<double>(out), device);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) {
  m.impl("gram", TORCH_BOX(&gram));
  m.impl("gram_list_", TORCH_BOX(&gram_list));
}

}  // namespace esper::cuda
