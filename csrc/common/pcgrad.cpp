#include "pcgrad.h"

#include <algorithm>
#include <cmath>

#include "projection.h"

namespace esper {
namespace {

void inspect(const double* gram, int k, double tau, Solution& solution) {
  for (int i = 0; i < k; ++i) {
    if (!std::isfinite(gram[i * k + i])) solution.non_finite_rows |= uint64_t{1} << i;
    for (int j = i + 1; j < k; ++j)
      solution.conflicts_raw += is_conflict(gram[i * k + j], gram[i * k + i], gram[j * k + j], tau);
  }
}

}  // namespace

Solution solve(
    const double* gram,
    int k,
    const int64_t* order,
    const double* weights,
    bool mean,
    double tau,
    double* coefficients) {
  Solution solution;
  std::fill_n(coefficients, k, 0.0);
  inspect(gram, k, tau, solution);
  if (solution.non_finite_rows != 0) return solution;
  double total = 0;
  for (int i = 0; i < k; ++i) total += weights == nullptr ? 1.0 : weights[i];
  const double scale = mean ? 1.0 / total : 1.0;
  if (!std::isfinite(total) || (mean && std::fabs(total) <= kSmallestWeightSum)) solution.invalid_rows = ~uint64_t{0};
  double row[kMaxRows];
  for (int i = 0; i < k; ++i) {
    const int applied = project_row(gram, k, i, order + static_cast<int64_t>(i) * k, tau, row);
    if (applied < 0) solution.invalid_rows |= uint64_t{1} << i;
    solution.conflicts_applied += std::max(applied, 0);
    const double weight = (weights == nullptr ? 1.0 : weights[i]) * scale;
    for (int j = 0; j < k; ++j) coefficients[j] += weight * row[j];
  }
  if (solution.invalid_rows != 0) std::fill_n(coefficients, k, 0.0);
  return solution;
}

}  // namespace esper
