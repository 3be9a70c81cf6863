// Gradients into one pooled vector: one launch for some two thousand tensors of a dtype. The work is divided by ranges
// of the output, not by tensors, so large and tiny gradients keep every warp equally busy.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "lists.h"
#include "vector.h"

namespace esper::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// In place of an address: another launch writes this piece.
constexpr int64_t kElsewhere = 1;

template <typename Out, typename In>
__device__ inline Out convert(In x) {
  if constexpr (std::is_same_v<In, Out>) {
    return x;
  } else {
    return from_double<Out>(to_double(x));
  }
}

template <typename In, typename Out, int kUnroll>
__device__ int64_t copy_packs(const In* from, int64_t low, int64_t high, Out* to) {
  constexpr int kSize = kPackSize<std::conditional_t<(sizeof(In) > sizeof(Out)), In, Out>>;
  constexpr int kStep = kWarp * kSize;
  const int lane = threadIdx.x % kWarp;
  for (; low + kUnroll * kStep <= high; low += kUnroll * kStep) {
    Pack<In, kSize> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packs[u] = *reinterpret_cast<const Pack<In, kSize>*>(from + low + u * kStep + lane * kSize);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Pack<Out, kSize> converted;
#pragma unroll
      for (int e = 0; e < kSize; ++e) converted.v[e] = convert<Out>(packs[u].v[e]);
      *reinterpret_cast<Pack<Out, kSize>*>(to + low + u * kStep + lane * kSize) = converted;
    }
  }
  return low;
}

template <typename In, typename Out>
__device__ void copy_elements(const In* from, int64_t low, int64_t high, Out* to) {
  constexpr int kUnroll = 8;
  for (int64_t at = low + threadIdx.x % kWarp; at < high; at += kUnroll * kWarp) {
    In values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (at + u * kWarp < high) values[u] = from[at + u * kWarp];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (at + u * kWarp < high) to[at + u * kWarp] = convert<Out>(values[u]);
    }
  }
}

template <typename In, typename Out, int kWords>
__global__ void __launch_bounds__(kThreads)
    flatten_kernel(const __grid_constant__ PieceTable<kWords> table, int64_t warp_columns, Out* out) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for_each_part(table, warp * warp_columns, (warp + 1) * warp_columns, [&](int piece, int64_t low, int64_t high) {
    const int64_t source = table.words[table.pieces + piece];
    if (source == kElsewhere) return;
    Out* to = out + table.start(piece);
    if (source == 0) {
      for (int64_t at = low + threadIdx.x % kWarp; at < high; at += kWarp) to[at] = zero<Out>();
      return;
    }
    const In* from = reinterpret_cast<const In*>(source);
    if (is_aligned(from) && is_aligned(to)) {
      low = copy_packs<In, Out, 4>(from, low, high, to);
      low = copy_packs<In, Out, 1>(from, low, high, to);
    }
    copy_elements(from, low, high, to);
  });
}

template <typename In, typename Out>
void launch_flatten(const Rows& rows, Out* out, cudaStream_t stream) {
  const int64_t warp_columns = std::clamp<int64_t>(ceil_div(rows.columns, 16384 * 512) * 512, 512, 4096);
  for_each_table(rows, [&](const auto& table, int64_t column) {
    constexpr int kWords = sizeof(table.words) / sizeof(int64_t);
    launch(
        flatten_kernel<In, Out, kWords>, ceil_div(table.columns, warp_columns * kWarps), kThreads, stream, table,
        warp_columns, out + column);
  });
}

// One launch per dtype; each leaves the pieces of the others alone and the first writes the zeros of absent ones.
template <typename Out>
void launch_dtypes(const Rows& rows, const std::vector<int32_t>& dtypes, Out* out, const OnDevice& device) {
  std::vector<int32_t> distinct;
  for (int32_t dtype : dtypes) {
    if (dtype >= 0 && std::find(distinct.begin(), distinct.end(), dtype) == distinct.end()) distinct.push_back(dtype);
  }
  if (distinct.empty()) return launch_flatten<Out, Out>(rows, out, device.stream());
  for (size_t turn = 0; turn < distinct.size(); ++turn) {
    Rows own = rows;
    for (size_t piece = 0; piece < dtypes.size(); ++piece) {
      const bool is_absent = dtypes[piece] < 0;
      if (is_absent ? turn > 0 : dtypes[piece] != distinct[turn]) {
        own.addresses[piece] = reinterpret_cast<const void*>(kElsewhere);
      }
    }
    dispatch_floating(to_scalar_type(distinct[turn]), "a gradient", [&](auto type) {
      launch_flatten<typename decltype(type)::type>(own, out, device.stream());
    });
  }
}

void check_gradient(
    const ListedTensor& grad, size_t index, int64_t size, const Tensor& out, int32_t out_dtype, bool convert) {
  ESPER_CHECK(
      grad.size() == size || grad.size() == 0, "gradient ", index, " has ", grad.size(), " elements, expected ", size);
  if (grad.size() == 0) return;
  check_listed(grad, index, out.get_device_index());
  const int32_t dtype = grad.raw_dtype();
  if (dtype != out_dtype) check_floating(grad.dtype(), "a gradient");
  ESPER_CHECK(
      convert || dtype == out_dtype, "gradient tensors must share the same dtype: gradient ", index, " is ",
      torch::headeronly::toString(grad.dtype()), ", out is ", torch::headeronly::toString(out.scalar_type()),
      "; pass convert=True to convert");
  const char* begin = static_cast<const char*>(grad.address());
  const char* out_begin = static_cast<const char*>(out.data_ptr());
  const char* out_end = out_begin + out.numel() * static_cast<int64_t>(out.element_size());
  ESPER_CHECK(
      begin + grad.extent_bytes() <= out_begin || out_end <= begin, "gradient ", index,
      " shares memory with out, which would be overwritten while it is read");
}

// torch's own kernel knows every layout: it writes a strided gradient into its place.
void copy_strided(ListedTensor& grad, const Tensor& out, int64_t start) {
  Tensor all = out;
  Tensor place = torch::stable::narrow(all, 0, start, grad.size());
  const Tensor from = grad.release();
  place = torch::stable::view(place, from.sizes());
  torch::stable::copy_(place, from);
}

void flatten(TensorList& grads, const std::vector<int64_t>& sizes, const Tensor& out, bool convert) {
  ESPER_CHECK(out.dim() == 1 && out.is_contiguous(), "out has shape ", shape_of(out), ", expected a contiguous vector");
  ESPER_CHECK(
      sizes.empty() || sizes.size() == grads.size(), "sizes has ", sizes.size(), " entries, expected one for each of ",
      grads.size(), " gradients");
  const OnDevice device(out);
  int32_t out_dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(out.get(), &out_dtype));
  check_floating(out.scalar_type(), "out");
  Rows rows;
  rows.count = 1;
  std::vector<int32_t> dtypes;  // of each piece, -1 for an absent one
  std::vector<std::pair<size_t, int64_t>> strided;
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t size = sizes.empty() ? grads[i].size() : sizes[i];
    check_gradient(grads[i], i, size, out, out_dtype, convert);
    if (size == 0) continue;
    const bool is_absent = grads[i].size() == 0;
    const bool is_strided = !is_absent && !grads[i].is_contiguous();
    if (is_strided) strided.emplace_back(i, rows.columns);
    rows.addresses.push_back(is_strided ? reinterpret_cast<const void*>(kElsewhere) : grads[i].address());
    dtypes.push_back(is_absent ? -1 : grads[i].raw_dtype());
    rows.add_piece(size);
  }
  ESPER_CHECK(
      rows.columns == out.numel(), "flat gradient has ", out.numel(), " elements but ", rows.columns, " were expected");
  dispatch_floating(out.scalar_type(), "out", [&](auto type) {
    launch_dtypes(rows, dtypes, data<typename decltype(type)::type>(out), device);
  });
  for (const auto& [index, start] : strided) copy_strided(grads[index], out, start);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) { m.impl("flatten_", TORCH_BOX(&flatten)); }

}  // namespace esper::cuda
