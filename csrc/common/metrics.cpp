#include "metrics.h"

#include <cmath>
#include <vector>

#include "gram.h"

namespace esper {

void seed_metrics(
    const Rows& rows,
    const int64_t* layers,
    int64_t count,
    ParallelFor parallel_for,
    double* layer_norms,
    double* dots,
    double* shares) {
  const int64_t k = rows.k;
  // Layers in groups of a fixed number, so that the order of additions does not follow the number of threads.
  constexpr int64_t kGroup = 8;
  const int64_t groups = ceil_div(count, kGroup);
  std::vector<double> partial(groups * k * k, 0.0);
  const auto body = [&](int64_t first, int64_t last) {
    std::vector<double> products(k * k);
    for (int64_t layer = first * kGroup; layer < std::min(last * kGroup, count); ++layer) {
      gram_of_range(rows, layers[layer], layers[layer + 1], products.data());
      double* sums = partial.data() + layer / kGroup * k * k;
      for (int64_t p = 0; p < k * k; ++p) sums[p] += products[p];
      for (int64_t i = 0; i < k; ++i) layer_norms[i * count + layer] = std::sqrt(products[i * k + i]);
    }
  };
  parallel_for(groups, 1, RangeBody(body));
  std::fill_n(dots, k * k, 0.0);
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t p = 0; p < k * k; ++p) dots[p] += partial[g * k * k + p];
  double total = 0;
  for (int64_t i = 0; i < k; ++i) total += std::sqrt(dots[i * k + i]);
  for (int64_t i = 0; i < k; ++i) shares[i] = total > 0 || total != total ? std::sqrt(dots[i * k + i]) / total : 0.0;
}

}  // namespace esper
