// Gradients into one pooled vector: one launch for some two thousand tensors of a dtype. The work is divided by ranges
// of the output, not by tensors, so large and tiny gradients keep every warp equally busy.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../opaque.h"
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
  if (distinct.size() == 1) {
    return dispatch_floating(to_scalar_type(distinct.front()), "a gradient", [&](auto type) {
      launch_flatten<typename decltype(type)::type>(rows, out, device.stream());
    });
  }
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

// What was found out about a gradient.
struct Found {
  int32_t dtype = -1;  // -1: absent
  bool is_contiguous = true;
  int64_t extent_bytes = 0;
};

// torch's own kernel knows every layout: it writes a strided gradient into its place.
struct Strided {
  Tensor grad;
  int64_t start;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
};

// What is known of the tensors before anything is copied. A plan keeps it, and with it the tensors' memory.
struct Flattening {
  int32_t device = 0;
  int32_t out_dtype = 0;
  TensorList grads;
  std::vector<Found> found;     // of each gradient
  Rows rows;                    // one, its pieces are the gradients that are not empty
  std::vector<int32_t> dtypes;  // of each piece, -1 for an absent one
  std::vector<Strided> strided;
  std::vector<Footprint> footprints;  // of each gradient, in a plan only
};

std::vector<int64_t> copied(const torch::headeronly::IntHeaderOnlyArrayRef& values) {
  return std::vector<int64_t>(values.begin(), values.end());
}

Found examine_gradient(const ListedTensor& grad, size_t index, int64_t size, const Flattening& known, bool convert) {
  ESPER_CHECK(
      grad.size() == size || grad.size() == 0, "gradient ", index, " has ", grad.size(), " elements, expected ", size);
  if (grad.size() == 0) return {};
  check_listed(grad, index, known.device);
  const int32_t dtype = grad.raw_dtype();
  if (dtype != known.out_dtype) check_floating(grad.dtype(), "a gradient");
  ESPER_CHECK(
      convert || dtype == known.out_dtype, "gradient tensors must share the same dtype: gradient ", index, " is ",
      torch::headeronly::toString(grad.dtype()), ", out is ",
      torch::headeronly::toString(to_scalar_type(known.out_dtype)), "; pass convert=True to convert");
  return {dtype, grad.is_contiguous(), grad.extent_bytes()};
}

void add_piece(Flattening& known, size_t index, int64_t size) {
  if (size == 0) return;
  const ListedTensor& grad = known.grads[index];
  const Found& found = known.found[index];
  if (!found.is_contiguous) {
    const Tensor tensor = grad.share();
    known.strided.push_back({tensor, known.rows.columns, copied(tensor.sizes()), copied(tensor.strides())});
  }
  known.rows.addresses.push_back(found.is_contiguous ? grad.address() : reinterpret_cast<const void*>(kElsewhere));
  known.dtypes.push_back(found.dtype);
  known.rows.add_piece(size);
}

Flattening examine(TensorList grads, const std::vector<int64_t>& sizes, const Tensor& like, bool convert) {
  ESPER_CHECK(
      sizes.empty() || sizes.size() == grads.size(), "sizes has ", sizes.size(), " entries, expected one for each of ",
      grads.size(), " gradients");
  Flattening known;
  known.device = like.get_device_index();
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &known.out_dtype));
  check_floating(like.scalar_type(), "out");
  known.grads = std::move(grads);
  known.rows.count = 1;
  for (size_t i = 0; i < known.grads.size(); ++i) {
    const int64_t size = sizes.empty() ? known.grads[i].size() : sizes[i];
    known.found.push_back(examine_gradient(known.grads[i], i, size, known, convert));
    add_piece(known, i, size);
  }
  return known;
}

void check_apart(const Flattening& known, const Tensor& out) {
  const char* out_begin = static_cast<const char*>(out.data_ptr());
  const char* out_end = out_begin + out.numel() * static_cast<int64_t>(out.element_size());
  for (size_t i = 0; i < known.grads.size(); ++i) {
    const char* begin = static_cast<const char*>(known.grads[i].address());
    ESPER_CHECK(
        begin + known.found[i].extent_bytes <= out_begin || out_end <= begin, "gradient ", i,
        " shares memory with out, which would be overwritten while it is read");
  }
}

void copy_into(const Flattening& known, const Tensor& out, const OnDevice& device) {
  ESPER_CHECK(out.dim() == 1 && out.is_contiguous(), "out has shape ", shape_of(out), ", expected a contiguous vector");
  ESPER_CHECK(
      known.rows.columns == out.numel(), "flat gradient has ", out.numel(), " elements but ", known.rows.columns,
      " were expected");
  check_apart(known, out);
  dispatch_floating(out.scalar_type(), "out", [&](auto type) {
    launch_dtypes(known.rows, known.dtypes, data<typename decltype(type)::type>(out), device);
  });
  for (const Strided& strided : known.strided) {
    Tensor all = out;
    Tensor place = torch::stable::narrow(all, 0, strided.start, strided.grad.numel());
    place = torch::stable::view(place, strided.grad.sizes());
    torch::stable::copy_(place, strided.grad);
  }
}

bool is_as_found(const Flattening& known) {
  for (size_t i = 0; i < known.grads.size(); ++i) {
    if (!(footprint_of(known.grads[i].handle()) == known.footprints[i])) return false;
  }
  return std::all_of(known.strided.begin(), known.strided.end(), [](const Strided& strided) {
    return copied(strided.grad.sizes()) == strided.sizes && copied(strided.grad.strides()) == strided.strides;
  });
}

void flatten(TensorList& grads, const std::vector<int64_t>& sizes, const Tensor& out, bool convert) {
  const OnDevice device(out);
  copy_into(examine(std::move(grads), sizes, out, convert), out, device);
}

Tensor flatten_plan(TensorList& grads, const std::vector<int64_t>& sizes, const Tensor& like, bool convert) {
  const OnDevice device(like);
  auto known = std::make_shared<Flattening>(examine(std::move(grads), sizes, like, convert));
  for (const ListedTensor& grad : known->grads) known->footprints.push_back(footprint_of(grad.handle()));
  return Opaque<Flattening>::give(std::move(known));
}

bool flatten_planned(const Tensor& plan, const Tensor& out) {
  const std::shared_ptr<const Flattening> known = Opaque<Flattening>::find(plan);
  ESPER_CHECK(known != nullptr, "plan is not one that flatten_plan made for a tensor on a GPU");
  const OnDevice device(out);
  check_device(out, known->device, "out");
  check_dtype(out, to_scalar_type(known->out_dtype), "out");
  if (!is_as_found(*known)) return false;
  copy_into(*known, out, device);
  return true;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(esper, CUDA, m) {
  m.impl("flatten_", TORCH_BOX(&flatten));
  m.impl("flatten_plan", TORCH_BOX(&flatten_plan));
  m.impl("flatten_planned_", TORCH_BOX(&flatten_planned));
}

}  // namespace esper::cuda
