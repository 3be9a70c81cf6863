#include "gate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "limits.h"
#include "tiles.h"

namespace esper {
namespace {

struct Confidence {
  double margin;
  double log_sum_exp;
  double entropy;
};

Confidence confidence_of(const RowSummary& row, int64_t classes) {
  if (row.largest == INFINITY && row.second < INFINITY && row.exp_sum != row.exp_sum)
    return {1.0, INFINITY, 0.0};  // the limit: one class has all the probability
  const double log_z = std::log(row.exp_sum);
  const double margin =
      classes < 2 ? NAN : (1.0 - std::exp(static_cast<double>(row.second) - row.largest)) / row.exp_sum;
  return {margin, row.largest + log_z, std::max(log_z - row.weighted_sum / row.exp_sum, 0.0)};
}

double gate_of(const Confidence& c, int64_t classes, const GateConfig& config) {
  const double m = config.entropy ? 1.0 - c.entropy / std::log(static_cast<double>(classes)) : c.margin;
  return 1.0 / (1.0 + std::exp(-config.k * (m - config.tau)));
}

bool has_nan(const float* x, int64_t n) {
  return std::any_of(x, x + n, [](float v) { return v != v; });
}

// Writes one row's results; false if the row has no confidence.
bool gate_row(const float* x, int64_t classes, const GateConfig& config, float* gate, float* statistics) {
  const RowSummary row = tiles().summarise(x, classes);
  const bool is_limit = row.largest == INFINITY;
  const bool is_defined = is_limit ? row.second < INFINITY && !has_nan(x, classes) : std::isfinite(row.exp_sum);
  const Confidence c = is_defined ? confidence_of(row, classes) : Confidence{NAN, NAN, NAN};
  statistics[0] = static_cast<float>(c.margin);
  statistics[1] = static_cast<float>(c.log_sum_exp);
  statistics[2] = static_cast<float>(c.entropy);
  const double value = gate_of(c, classes, config);
  const bool is_gated = is_defined && classes > 1 && value == value;
  *gate = is_gated ? static_cast<float>(value) : 0.0f;
  return is_gated;
}

}  // namespace

int64_t confidence_gate(
    DType dtype,
    const void* logits,
    int64_t rows,
    int64_t classes,
    const GateConfig& config,
    float* gate,
    float* statistics,
    ParallelFor parallel_for) {
  std::atomic<int64_t> events{0};
  const int64_t row_bytes = std::max<int64_t>(classes * size_bytes(dtype), 1);
  const auto body = [&](int64_t first, int64_t last) {
    std::vector<float> wide(dtype == DType::kFloat32 ? 0 : classes);
    int64_t missing = 0;
    for (int64_t r = first; r < last; ++r) {
      const char* from = static_cast<const char*>(logits) + r * classes * size_bytes(dtype);
      const float* x = reinterpret_cast<const float*>(from);
      if (dtype != DType::kFloat32) {
        tiles().load_f32(dtype, from, classes, wide.data());
        x = wide.data();
      }
      missing += !gate_row(x, classes, config, gate + r, statistics + 3 * r);
    }
    events += missing;
  };
  parallel_for(rows, std::max<int64_t>(ceil_div(kGrainBytes / 4, row_bytes), 1), RangeBody(body));
  return events;
}

}  // namespace esper
