// Lengths and inner products of seeds' gradients, per layer and in all, from one read.
//
// Layers' bounds lie on the device, so a warp finds the layers in its columns itself. A layer inside one warp's columns
// is finished there; of a longer one each warp leaves its share, which a second launch adds in order.

#include <tuple>

#include "gram.h"
#include "products.h"
#include "reduce.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 128;

struct LayerNorms {
  static constexpr bool kSquares = true;

  const int64_t* offsets;  // [layers + 1]
  int64_t layers;
  int64_t columns;
  int64_t warp_columns;
  double* norms;   // [rows, layers]
  double* shares;  // [warp][2][rows]: of the layer cut at the warp's first column, of the one cut at its last

  __device__ int64_t find(int64_t column) const {
    int64_t low = 0;
    int64_t high = layers - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (offsets[middle + 1] > column)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  // Sums the lanes that hold one row and stores the sum where the layer's place in the warp says.
  template <typename Adder, int kGroups>
  __device__ void finish(
      const Adder& adder, int rows, int64_t layer, int64_t low, int64_t high, Sums<kGroups, true>& sums) const {
    const int64_t warp = low / warp_columns;
    const bool is_cut_before = offsets[layer] < warp * warp_columns;
    const bool is_cut_after = offsets[layer + 1] > (warp + 1) * warp_columns;
    const int slots = kTile * 4 / adder.cells;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int p = 0; p < kGroups; ++p) {
      double square = sums.squares[p];
      sums.squares[p] = 0;
      square += __shfl_xor_sync(~0u, square, 1);
      square += __shfl_xor_sync(~0u, square, 2);
      for (int offset = slots * 4; offset < kWarp; offset *= 2) square += __shfl_xor_sync(~0u, square, offset);
      const int k = p * kTile + lane / 4;
      if (lane % 4 != 0 || lane / 4 >= slots || k >= rows) continue;
      if (is_cut_before || is_cut_after)
        shares[(warp * 2 + (is_cut_before ? 0 : 1)) * rows + k] = square;
      else
        norms[k * layers + layer] = sqrt(square);
    }
  }

  template <typename Adder, typename AnySums>
  __device__ void add(const Adder& adder, int64_t low, int64_t high, int rows, AnySums& sums) const {
    for (int64_t layer = find(low); low < high && layer < layers; ++layer) {
      const int64_t end = offsets[layer + 1] < high ? offsets[layer + 1] : high;
      if (end <= low) continue;
      adder.template add<false>(low, end, sums);
      finish(adder, rows, layer, low, end, sums);
      low = end;
    }
  }
};

// One block per layer and row: adds the shares of a layer that several warps read; an empty layer has length 0. Bounds
// that do not ascend from 0 to N give NaN: they are known on the device only.
__global__ void __launch_bounds__(kThreads) norms_kernel(LayerNorms layers, int rows) {
  const int64_t layer = blockIdx.x / rows;
  const int k = blockIdx.x % rows;
  const int64_t begin = layers.offsets[layer];
  const int64_t end = layers.offsets[layer + 1];
  const bool is_valid = layer == 0 ? begin == 0 : begin >= 0;
  if (!is_valid || end < begin || (layer + 1 == layers.layers ? end != layers.columns : end > layers.columns)) {
    if (threadIdx.x == 0) layers.norms[k * layers.layers + layer] = NAN;
    return;
  }
  const int64_t first = begin / layers.warp_columns;
  const int64_t last = end > begin ? (end - 1) / layers.warp_columns : first;
  if (end > begin && first == last) return;
  double square = 0;
  for (int64_t warp = first + threadIdx.x; end > begin && warp <= last; warp += kThreads) {
    square += layers.shares[(warp * 2 + (warp == first ? 1 : 0)) * rows + k];
  }
  square = sum_block<kThreads>(square);
  if (threadIdx.x == 0) layers.norms[k * layers.layers + layer] = sqrt(square);
}

__global__ void shares_kernel(const double* dots, int rows, double* shares) {
  double total = 0;
  for (int i = 0; i < rows; ++i) total += sqrt(dots[i * rows + i]);
  if (threadIdx.x >= rows) return;
  const double own = sqrt(dots[threadIdx.x * rows + threadIdx.x]);
  shares[threadIdx.x] = total > 0 || total != total ? own / total : 0.0;
}

template <typename T, int kGroups, int kUnroll>
void launch_metrics(
    const Rows& rows, const GramGrid& grid, const LayerNorms& layers, double* partials, cudaStream_t stream) {
  for_each_table(rows, [&](const auto& table, int64_t) {
    constexpr int kWords = sizeof(table.words) / sizeof(int64_t);
    if constexpr (kWords == kSmallTable) {
      launch(
          gram_kernel<T, kGroups, kUnroll, kWords, LayerNorms>, grid.blocks, kGramThreads, stream, table,
          GramGrid::kWarpColumns, column_groups(rows.count), layers, Partials{partials, 0, grid.blocks});
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> seed_metrics(Tensor& matrix, const Tensor& offsets) {
  const OnDevice device(matrix);
  check_device(offsets, device.index(), "offsets");
  check_dtype(offsets, ScalarType::Long, "offsets");
  ESPER_CHECK(
      offsets.dim() == 1 && offsets.is_contiguous() && offsets.numel() >= 2, "offsets has shape ", shape_of(offsets),
      ", expected a contiguous vector of at least 2 elements");
  const Rows rows = matrix_rows(matrix);
  const int64_t count = offsets.numel() - 1;
  const GramGrid grid = plan_gram(rows);
  const Tensor norms = new_tensor(device.index(), ScalarType::Double, {rows.count, count});
  const Tensor dots = new_tensor(device.index(), ScalarType::Double, {rows.count, rows.count});
  const Tensor shares = new_tensor(device.index(), ScalarType::Double, {rows.count});
  const Tensor partials = new_tensor(device.index(), ScalarType::Double, {pair_count(rows.count), grid.blocks});
  const Tensor cut =
      new_tensor(device.index(), ScalarType::Double, {ceil_div(rows.columns, GramGrid::kWarpColumns), 2, rows.count});
  const LayerNorms layers{data<int64_t>(offsets), count, rows.columns, GramGrid::kWarpColumns, data<double>(norms),
                          data<double>(cut)};
  dispatch_floating(rows.dtype, "rows", [&](auto type) {
    using T = typename decltype(type)::type;
    double* sums = data<double>(partials);
    if (rows.count <= kTile)
      launch_metrics<T, 1, 4>(rows, grid, layers, sums, device.stream());
    else
      launch_metrics<T, 8, 1>(rows, grid, layers, sums, device.stream());
  });
  launch(norms_kernel, count * rows.count, kThreads, device.stream(), layers, rows.count);
  launch_reduce(partials, grid.blocks, rows.count, data<double>(dots), device);
  launch(shares_kernel, 1, kMaxRows, device.stream(), data<double>(dots), rows.count, data<double>(shares));
  return {norms, dots, shares};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) { m.impl("seed_metrics", TORCH_BOX(&seed_metrics)); }

}  // namespace esper::cuda
