#include "common/gram.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/metrics.h"
#include "common/pcgrad.h"
#include "pages.h"
#include "tensors.h"

namespace esper::cpu {
namespace {

using Tensors = std::vector<Tensor>;
using Sizes = std::vector<int64_t>;
using Solved = std::tuple<Tensor, Tensor, Tensor>;

double* doubles_of(const Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); }

Tensor gram_of(const Rows& rows, bool fast) {
  Tensor out = new_tensor({rows.k, rows.k}, ScalarType::Double);
  esper::gram(rows, fast, parallel_for, doubles_of(out));
  return out;
}

void check_order(const Tensor& order, int64_t k) {
  check_vector(order, "order", ScalarType::Long, k * k);
  const int64_t* entries = static_cast<const int64_t*>(order.const_data_ptr());
  for (int64_t i = 0; i < k * k; ++i)
    ESPER_CHECK(
        entries[i] >= 0 && entries[i] < k, "order[", i / k, ", ", i % k, "] is ", entries[i],
        ", expected a row from 0 to ", k - 1);
}

Tensor mask_tensor(const Solution& s) {
  Tensor status = new_tensor({2}, ScalarType::Long);
  uint64_t* words = static_cast<uint64_t*>(status.mutable_data_ptr());
  words[0] = s.non_finite_rows;
  words[1] = s.invalid_rows;
  return status;
}

Solved solve_with(
    const Tensor& gram, const Tensor& order, const std::optional<Tensor>& weights, bool mean, double tau) {
  ESPER_CHECK(gram.dim() == 2 && gram.size(0) == gram.size(1), "gram has shape ", shape_of(gram), ", expected [K, K]");
  const int64_t k = gram.size(0);
  ESPER_CHECK(k >= 1 && k <= kMaxRows, "gram has ", k, " rows, expected 1 to ", kMaxRows);
  check_vector(gram, "gram", ScalarType::Double, k * k);
  check_order(order, k);
  if (weights.has_value()) check_vector(*weights, "weights", ScalarType::Double, k);
  Tensor coefficients = new_tensor({k}, ScalarType::Double);
  Tensor conflicts = new_tensor({2}, ScalarType::Long);
  const Solution s = solve(
      doubles_of(gram), static_cast<int>(k), static_cast<const int64_t*>(order.const_data_ptr()),
      weights.has_value() ? doubles_of(*weights) : nullptr, mean, tau, doubles_of(coefficients));
  int64_t* counts = static_cast<int64_t*>(conflicts.mutable_data_ptr());
  counts[0] = s.conflicts_raw;
  counts[1] = s.conflicts_applied;
  return {coefficients, conflicts, mask_tensor(s)};
}

void combine_into(const OwnedRows& rows, const Tensor& coefficients, const Tensor& status, const Tensor& out) {
  check_cpu(out, "out");
  check_vector(coefficients, "coefficients", ScalarType::Double, rows.view.k);
  check_vector(status, "status", ScalarType::Long, 2);
  const DType dtype = dtype_of(out, "out");
  ESPER_CHECK(
      out.dim() == 1 && out.is_contiguous() && out.numel() == rows.view.size(), "out has shape ", shape_of(out),
      ", expected a contiguous vector of ", rows.view.size(), " elements");
  const Span out_span = span_of(out);
  for (const Tensor& input : rows.tensors) check_no_overlap(out_span, span_of(input), "a row");
  prefer_large_pages(out.mutable_data_ptr(), out.numel() * size_bytes(dtype));
  const int64_t* words = static_cast<const int64_t*>(status.const_data_ptr());
  if (words[0] != 0 || words[1] != 0) {
    std::memset(out.mutable_data_ptr(), 0, out.numel() * size_bytes(dtype));
  } else {
    esper::combine(rows.view, doubles_of(coefficients), parallel_for, dtype, out.mutable_data_ptr());
  }
}

Tensor gram(const Tensor& rows, bool fast) { return gram_of(rows_of_pool(rows).view, fast); }

void gram_list_(const Tensors& grads, const Tensor& out, bool fast) {
  check_cpu(out, "out");
  ESPER_CHECK(out.dim() == 2 && out.size(0) == out.size(1), "out has shape ", shape_of(out), ", expected [K, K]");
  check_vector(out, "out", ScalarType::Double, out.size(0) * out.size(0));
  esper::gram(rows_of_list(grads, out.size(0), {}).view, fast, parallel_for, doubles_of(out));
}

Solved pcgrad_solve(
    const Tensor& gram, const Tensor& order, const std::optional<Tensor>& weights, bool mean, double tau) {
  return solve_with(gram, order, weights, mean, tau);
}

void combine_(const Tensor& rows, const Tensor& coefficients, const Tensor& status, const Tensor& out) {
  combine_into(rows_of_pool(rows), coefficients, status, out);
}

void combine_list_(
    const Tensors& grads, const Sizes& sizes, const Tensor& coefficients, const Tensor& status, const Tensor& out) {
  combine_into(rows_of_list(grads, coefficients.numel(), sizes), coefficients, status, out);
}

Solved pcgrad_rows(
    const OwnedRows& rows,
    const Tensor& order,
    const std::optional<Tensor>& weights,
    bool mean,
    double tau,
    bool fast,
    const Tensor& out) {
  Solved solved = solve_with(gram_of(rows.view, fast), order, weights, mean, tau);
  combine_into(rows, std::get<0>(solved), std::get<2>(solved), out);
  return solved;
}

Solved pcgrad_(
    const Tensor& rows,
    const Tensor& order,
    const std::optional<Tensor>& weights,
    bool mean,
    double tau,
    bool fast,
    const Tensor& out) {
  return pcgrad_rows(rows_of_pool(rows), order, weights, mean, tau, fast, out);
}

Solved pcgrad_list_(
    const Tensors& grads,
    const Sizes& sizes,
    const Tensor& order,
    const std::optional<Tensor>& weights,
    bool mean,
    double tau,
    bool fast,
    const Tensor& out) {
  ESPER_CHECK(order.dim() == 2, "order has shape ", shape_of(order), ", expected [K, K]");
  return pcgrad_rows(rows_of_list(grads, order.size(0), sizes), order, weights, mean, tau, fast, out);
}

void check_offsets(const Tensor& offsets, int64_t n) {
  check_vector(offsets, "offsets", ScalarType::Long, offsets.numel());
  const int64_t* entries = static_cast<const int64_t*>(offsets.const_data_ptr());
  const int64_t count = offsets.numel();
  bool is_ascending = count >= 2 && entries[0] == 0 && entries[count - 1] == n;
  for (int64_t i = 1; is_ascending && i < count; ++i) is_ascending = entries[i - 1] <= entries[i];
  ESPER_CHECK(is_ascending, "offsets do not ascend from 0 to the rows' length, ", n);
}

Solved seed_metrics(const Tensor& rows, const Tensor& offsets) {
  const OwnedRows owned = rows_of_pool(rows);
  check_offsets(offsets, owned.view.size());
  const int64_t k = owned.view.k;
  const int64_t layers = offsets.numel() - 1;
  Tensor norms = new_tensor({k, layers}, ScalarType::Double);
  Tensor dots = new_tensor({k, k}, ScalarType::Double);
  Tensor shares = new_tensor({k}, ScalarType::Double);
  esper::seed_metrics(
      owned.view, static_cast<const int64_t*>(offsets.const_data_ptr()), layers, parallel_for, doubles_of(norms),
      doubles_of(dots), doubles_of(shares));
  return {norms, dots, shares};
}

}  // namespace
}  // namespace esper::cpu

STABLE_TORCH_LIBRARY_IMPL(esper, CPU, m) {
  m.impl("gram", TORCH_BOX(&esper::cpu::gram));
  m.impl("gram_list_", TORCH_BOX(&esper::cpu::gram_list_));
  m.impl("pcgrad_solve", TORCH_BOX(&esper::cpu::pcgrad_solve));
  m.impl("combine_", TORCH_BOX(&esper::cpu::combine_));
  m.impl("combine_list_", TORCH_BOX(&esper::cpu::combine_list_));
  m.impl("pcgrad_", TORCH_BOX(&esper::cpu::pcgrad_));
  m.impl("pcgrad_list_", TORCH_BOX(&esper::cpu::pcgrad_list_));
  m.impl("seed_metrics", TORCH_BOX(&esper::cpu::seed_metrics));
}
