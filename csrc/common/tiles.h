// The inner loops, in one copy per instruction set. Which copy runs changes the speed and never a bit of the result,
// except in the float32 block mode, in float64 rows and in the exponentials of the gate, where a fused multiply-add
// rounds once less.

#pragma once

#include <cstdint>

#include "dtype.h"

namespace esper {

// What the confidence gate needs of one row of logits.
struct RowSummary {
  float largest;
  float second;
  double exp_sum;       // of exp(x - largest)
  double weighted_sum;  // of (x - largest) exp(x - largest)
};

template <class T>
struct BlendWeights {
  T keep;  // multiplies the host
  T take;  // multiplies the seed
};

// Memory that will be read next: fetched while the processor multiplies.
struct Ahead {
  const void* const* rows = nullptr;  // [k], or null for nothing to fetch
  int64_t bytes = 0;                  // of each row
};

struct Tiles {
  const char* name;
  bool (*is_supported)();

  void (*load_f64)(DType dtype, const void* from, int64_t n, double* to);
  void (*load_f32)(DType dtype, const void* from, int64_t n, float* to);
  void (*store_f64)(DType dtype, const double* from, int64_t n, void* to);
  void (*store_f32)(DType dtype, const float* from, int64_t n, void* to);

  // Adds the products of each pair of rows i <= j of tile[k][stride] over n elements (a multiple of the lanes) to
  // sums[pair][lanes]; pairs run (0,0) (0,1) .. (0,k-1) (1,1) ..; 8 lanes in float64, 16 in float32.
  void (*gram_f64)(const double* tile, int64_t stride, int k, int64_t n, Ahead ahead, double* sums);
  void (*gram_f32)(const float* tile, int64_t stride, int k, int64_t n, Ahead ahead, float* sums);

  // out[i] = sum_r c[r] * rows[r][i], rows in order; a null row adds nothing.
  void (*combine_f64)(const double* const* rows, int k, int64_t n, const double* c, double* out);
  void (*combine_f32)(const float* const* rows, int k, int64_t n, const double* c, double* out);

  // out = keep * host + take * seed, element by element; out may be either input.
  void (*blend_f32)(const float* host, const float* seed, int64_t n, BlendWeights<float> w, float* out);
  void (*blend_f64)(const double* host, const double* seed, int64_t n, BlendWeights<double> w, double* out);

  RowSummary (*summarise)(const float* logits, int64_t n);
};

extern const Tiles kPortableTiles;
#if defined(__x86_64__)
extern const Tiles kAvx2Tiles;
extern const Tiles kAvx512Tiles;
#endif

// The widest supported set, or the one forced.
const Tiles& tiles();

// "auto" or a name in tiles(); false if there is none such, or the processor lacks it.
bool force_tiles(const char* name);

}  // namespace esper
