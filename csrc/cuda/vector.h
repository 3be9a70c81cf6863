// Sixteen-byte accesses and conversions between element types.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace esper::cuda {

inline constexpr int kWarp = 32;

template <typename T>
inline constexpr int kPackSize = 16 / sizeof(T);

template <typename T, int kSize = kPackSize<T>>
struct alignas(sizeof(T) * kSize < 16 ? sizeof(T) * kSize : 16) Pack {
  T v[kSize];
};

__host__ __device__ inline bool is_aligned(const void* address) { return (reinterpret_cast<uintptr_t>(address) & 15) == 0; }

// A read that is not worth a place in the first-level cache but may be found in the second one later.
template <int kSize, typename T>
__device__ inline Pack<T, kSize> load_once(const T* address) {
  Pack<T, kSize> pack;
  if constexpr (sizeof(pack) == 16) {
    auto& bits = reinterpret_cast<uint4&>(pack);
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(address));
  } else {
    static_assert(sizeof(pack) == 8);
    auto& bits = reinterpret_cast<uint2&>(pack);
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(bits.x), "=r"(bits.y) : "l"(address));
  }
  return pack;
}

// A last read: the line may leave every cache.
template <typename T>
__device__ inline Pack<T> load_last(const T* address) {
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(address));
  return reinterpret_cast<const Pack<T>&>(bits);
}

template <typename T>
__device__ inline void store_stream(T* address, const Pack<T>& pack) {
  __stcs(reinterpret_cast<uint4*>(address), reinterpret_cast<const uint4&>(pack));
}

template <typename T>
__device__ inline T zero() {
  return T(0.0f);
}

__device__ inline double to_double(double x) { return x; }
__device__ inline double to_double(float x) { return x; }
__device__ inline double to_double(__half x) { return __half2float(x); }
__device__ inline double to_double(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T from_double(double x) {
  return static_cast<T>(x);
}
template <>
__device__ inline __half from_double<__half>(double x) {
  return __double2half(x);
}
template <>
__device__ inline __nv_bfloat16 from_double<__nv_bfloat16>(double x) {
  return __double2bfloat16(x);
}

// The type that element-wise arithmetic is done in: float32, or float64 for float64 elements.
template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <typename T>
using compute_t = typename Compute<T>::type;

template <typename T>
__device__ inline compute_t<T> widen(T x) {
  if constexpr (sizeof(T) == 2) {
    return static_cast<float>(x);
  } else {
    return x;
  }
}

template <typename T>
__device__ inline T narrow(compute_t<T> x) {
  return static_cast<T>(x);
}

}  // namespace esper::cuda
