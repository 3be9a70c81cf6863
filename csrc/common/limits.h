// Constants that fix the numbers: change one and results change in their last bits, on every device.

#pragma once

#include <cstdint>

namespace esper {

// Rows that one status word of 64 bits can name.
inline constexpr int kMaxRows = 64;

// Elements whose products are summed before partial sums are added in index order; independent of threads and blocks.
inline constexpr int64_t kSuperChunk = 65536;

// Independent float64 accumulators of the CPU's dot products; element i goes to lane i % kLanes.
inline constexpr int kLanes = 8;

// A sum of weights no larger than this cannot normalise a mean.
inline constexpr double kSmallestWeightSum = 1e-12;

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace esper
