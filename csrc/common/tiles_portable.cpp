// The copy for any processor: 16-byte vectors, products and sums rounded one by one.

#include "tiles.h"

#define ESPER_TILES kPortableTiles
#define ESPER_LABEL "portable"
#define ESPER_VECTOR_BYTES 16
#define ESPER_BLOCK 3

namespace {

template <class V>
inline V fused(V a, V b, V c) {
  return a * b + c;
}

void halves_to_floats(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = esper::to_float(esper::Float16{from[i]});
}

void floats_to_halves(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = esper::from_float<esper::Float16>(from[i]).bits;
}

bool is_supported() { return true; }

}  // namespace

#include "tiles_body.h"
