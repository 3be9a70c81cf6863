// Sixteen-byte accesses and conversions between element types.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace esper::cuda {

inline constexpr int kWarp = 32;

template <typename T>
inline constexpr int kPackSize = 16 / sizeof(T);

template <typename T, int kSize = kPackSize<T>>
struct alignas(sizeof(T) * kSize < 16 ? sizeof(T) * kSize : 16) Pack {
  T v[kSize];
};

__host__ __device__ inline bool is_aligned(const void* address) {
  return (reinterpret_cast<uintptr_t>(address) & 15) == 0;
}

// A read whose neighbours follow shortly: the second-level cache fetches 256 bytes, the first keeps nothing.
template <int kSize, typename T>
__device__ inline Pack<T, kSize> load_ahead(const T* address) {
  Pack<T, kSize> pack;
  if constexpr (sizeof(pack) == 16) {
    auto& bits = reinterpret_cast<uint4&>(pack);
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(address));
  } else {
    static_assert(sizeof(pack) == 8);
    auto& bits = reinterpret_cast<uint2&>(pack);
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];"
                 : "=r"(bits.x), "=r"(bits.y)
                 : "l"(address));
  }
  return pack;
}

// An ordinary read: on an H100 streams of them reach 2 to 3 percent more than with a hint that the line is used once.
template <int kSize, typename T>
__device__ inline Pack<T, kSize> load(const T* address) {
  return *reinterpret_cast<const Pack<T, kSize>*>(address);
}

template <typename T, int kSize>
__device__ inline void store_stream(T* address, const Pack<T, kSize>& pack) {
  using Bits = std::conditional_t<sizeof(pack) == 16, uint4, uint2>;
  static_assert(sizeof(pack) == sizeof(Bits));
  __stcs(reinterpret_cast<Bits*>(address), reinterpret_cast<const Bits&>(pack));
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

// Two elements at a time where the hardware has an instruction for it.
__device__ inline float2 widen_pair(__half2 x) { return __half22float2(x); }
__device__ inline float2 widen_pair(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ inline void narrow_pair(float2 x, __half2& to) { to = __float22half2_rn(x); }
__device__ inline void narrow_pair(float2 x, __nv_bfloat162& to) { to = __float22bfloat162_rn(x); }

template <typename T>
using pair_t = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

template <typename T, int kSize>
__device__ inline void widen(const Pack<T, kSize>& pack, compute_t<T> (&x)[kSize]) {
  if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
#pragma unroll
    for (int e = 0; e < kSize; e += 2) {
      const float2 both = widen_pair(reinterpret_cast<const pair_t<T>&>(pack.v[e]));
      x[e] = both.x;
      x[e + 1] = both.y;
    }
  } else {
#pragma unroll
    for (int e = 0; e < kSize; ++e) x[e] = widen(pack.v[e]);
  }
}

template <typename T, int kSize>
__device__ inline void narrow(const compute_t<T> (&x)[kSize], Pack<T, kSize>& pack) {
  if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
#pragma unroll
    for (int e = 0; e < kSize; e += 2) narrow_pair({x[e], x[e + 1]}, reinterpret_cast<pair_t<T>&>(pack.v[e]));
  } else {
#pragma unroll
    for (int e = 0; e < kSize; ++e) pack.v[e] = narrow<T>(x[e]);
  }
}

}  // namespace esper::cuda
