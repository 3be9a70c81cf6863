// out = sum_k c_k row_k, one pass, accumulated in float64, with the coefficients read from the device.
//
// Warps go through the columns from the last to the first: the Gram pass has just read them from first to last, so
// what it left in the second-level cache is met before it is evicted.

#include "gram.h"
#include "vector.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Elements per load: 16 bytes, or 8 of a two-byte type, whose float64 sums would fill the registers otherwise.
template <typename T>
inline constexpr int kLoad = sizeof(T) == 8 ? 2 : 4;

template <typename T, int kUnroll>
struct Columns {
  static constexpr int kSize = kLoad<T>;
  double sum[kUnroll][kSize] = {};

  __device__ void add(const Pack<T, kSize> (&packs)[kUnroll], double coefficient) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int e = 0; e < kSize; ++e) sum[u][e] += coefficient * to_double(packs[u].v[e]);
    }
  }
};

// One warp's columns [low, high) of one piece, kRows rows and kUnroll packs of each in flight.
template <typename T, int kRows, int kUnroll, typename Table>
__device__ int64_t
combine_packs(const Table& table, int piece, int64_t low, int64_t high, const double* coefficients, T* out) {
  constexpr int kSize = kLoad<T>;
  constexpr int kStep = kWarp * kSize;
  const int lane = threadIdx.x % kWarp;
  int64_t column = low;
  for (; column + kUnroll * kStep <= high; column += kUnroll * kStep) {
    const int64_t first = column + lane * kSize;
    Columns<T, kUnroll> columns;
    for (int k = 0; k < table.rows; k += kRows) {
      Pack<T, kSize> packs[kRows][kUnroll] = {};
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const T* row = k + r < table.rows ? table.template address<T>(piece, k + r) : nullptr;
        if (row == nullptr) continue;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) packs[r][u] = load<kSize>(row + first + u * kStep);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (k + r < table.rows) columns.add(packs[r], coefficients[k + r]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Pack<T, kSize> result;
#pragma unroll
      for (int e = 0; e < kSize; ++e) result.v[e] = from_double<T>(columns.sum[u][e]);
      store_stream(out + first + u * kStep, result);
    }
  }
  return column;
}

template <typename T, typename Table>
__device__ void combine_elements(
    const Table& table, int piece, int64_t low, int64_t high, const double* coefficients, T* out) {
  constexpr int kUnroll = 4;
  for (int64_t column = low + threadIdx.x % kWarp; column < high; column += kUnroll * kWarp) {
    double sum[kUnroll] = {};
    for (int k = 0; k < table.rows; ++k) {
      const T* row = table.template address<T>(piece, k);
      if (row == nullptr) continue;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (column + u * kWarp < high) sum[u] += coefficients[k] * to_double(row[column + u * kWarp]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (column + u * kWarp < high) out[column + u * kWarp] = from_double<T>(sum[u]);
    }
  }
}

template <typename T, int kRows, int kUnroll, int kWords>
__global__ void __launch_bounds__(kThreads) combine_kernel(
    const __grid_constant__ PieceTable<kWords> table,
    int64_t warp_columns,
    const double* __restrict__ coefficients,
    const int64_t* __restrict__ status,
    T* out) {
  __shared__ double shared[kMaxRows];
  if (threadIdx.x < table.rows) shared[threadIdx.x] = coefficients[threadIdx.x];
  const bool is_refused = status[0] != 0 || status[1] != 0;
  __syncthreads();

  const int64_t warp = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t begin = warp * warp_columns;
  for_each_part(table, begin, begin + warp_columns, [&](int piece, int64_t low, int64_t high) {
    T* to = out + table.start(piece);
    if (is_refused) {
      for (int64_t column = low + threadIdx.x % kWarp; column < high; column += kWarp) to[column] = zero<T>();
      return;
    }
    bool aligned = is_aligned(to);
    for (int k = threadIdx.x % kWarp; k < table.rows; k += kWarp) {
      aligned = aligned && is_aligned(table.template address<T>(piece, k));
    }
    if (__all_sync(~0u, aligned)) low = combine_packs<T, kRows, kUnroll>(table, piece, low, high, shared, to);
    combine_elements(table, piece, low, high, shared, to);
  });
}

template <typename T, int kRows, int kUnroll>
void launch_rows(const Rows& rows, const double* coefficients, const int64_t* status, T* out, cudaStream_t stream) {
  const int64_t warp_columns = kUnroll * kWarp * kLoad<T>;
  for_each_table(rows, [&](const auto& table, int64_t column) {
    constexpr int kWords = sizeof(table.words) / sizeof(int64_t);
    launch(
        combine_kernel<T, kRows, kUnroll, kWords>, ceil_div(table.columns, warp_columns * kWarps), kThreads, stream,
        table, warp_columns, coefficients, status, out + column);
  });
}

}  // namespace

void launch_combine(
    const Rows& rows, const double* coefficients, const int64_t* status, const Tensor& out, const OnDevice& device) {
  check_device(out, device.index(), "out");
  check_dtype(out, rows.dtype, "out");
  ESPER_CHECK(
      out.dim() == 1 && out.is_contiguous() && out.numel() == rows.columns, "out has ", out.numel(), " elements in ",
      out.dim(), " dimensions, expected a contiguous vector of ", rows.columns, " elements");
  check_disjoint(rows, out);
  dispatch_floating(rows.dtype, "rows", [&](auto type) {
    using T = typename decltype(type)::type;
    T* to = data<T>(out);
    if (rows.count <= 2)
      launch_rows<T, 2, 4>(rows, coefficients, status, to, device.stream());
    else if (rows.count <= 4)
      launch_rows<T, 4, 2>(rows, coefficients, status, to, device.stream());
    else
      launch_rows<T, 8, 1>(rows, coefficients, status, to, device.stream());
  });
}

}  // namespace esper::cuda
