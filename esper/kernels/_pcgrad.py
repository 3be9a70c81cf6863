"""Gradient surgery (Yu et al. 2020, arXiv 2001.06782) in the span of the rows, in float64.

K gradients stand in the rows of a `[K, N]` pool or in K lists of tensors. The order in which row i meets the others is
an argument, never hidden state. A row that is not finite is named in `status`, the result is zeros, and nothing waits
for the device. Sharded rows: sum `gram` over the ranks, then `pcgrad_solve` and `combine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from esper.kernels._flatten import present_or_empty
from esper.kernels._library import check_one_device, fake, operator, refuse_gradients

_gram: Callable[..., Tensor] = operator("gram")
_gram_list_ = operator("gram_list_")
_pcgrad_solve = operator("pcgrad_solve")
_combine_ = operator("combine_")
_combine_list_ = operator("combine_list_")
_pcgrad_ = operator("pcgrad_")
_pcgrad_list_ = operator("pcgrad_list_")

MAX_ROWS = 64
_SMALLEST_WEIGHT_SUM = 1e-12

Weights = Tensor | Sequence[float] | None
Reduction = Literal["sum", "mean"]


class PCGradSolution(NamedTuple):
    """result = sum_k coefficients[k] * row k. Counts are int64 and stay on the device."""

    coefficients: Tensor  # float64 [K]
    conflicts_raw: Tensor  # distinct unordered pairs with cosine < -tau
    conflicts_applied: Tensor  # projections done
    status: Tensor  # int64 [2]: mask of rows that are not finite, mask of rows with an invalid order or weight


class PCGrad(NamedTuple):
    """The de-conflicted sum (or mean) and how it came about."""

    flat: Tensor
    conflicts_raw: Tensor
    conflicts_applied: Tensor
    coefficients: Tensor
    status: Tensor


def gram(rows: Tensor, *, fast: bool = False) -> Tensor:
    """Inner products of the rows of `[K, N]`, float64 `[K, K]`; `fast` sums products in float32 over short blocks."""
    refuse_gradients([rows], "gram")
    return _gram(rows, fast)


def gram_list(grads: Sequence[Tensor | None], k: int, *, fast: bool = False) -> Tensor:
    """The same from k lists laid end to end: `grads[i * T + t]` is tensor t of row i. None is a zero gradient."""
    tensors = _tensors(grads, "gram_list")
    out = tensors[0].new_empty((k, k), dtype=torch.float64)
    _gram_list_(tensors, out, fast)
    return out


def pcgrad_solve(
    products: Tensor, order: Tensor, *, weights: Weights = None, reduction: Reduction = "sum", tau: float = 0.0
) -> PCGradSolution:
    """From the inner products to the coefficients of the de-conflicted sum. Row i of `order` permutes the rows."""
    refuse_gradients([products], "pcgrad_solve")
    mean, weight_tensor = _checked(products, order, weights, reduction)
    coefficients, conflicts, status = _pcgrad_solve(products, order, weight_tensor, mean, tau)
    return PCGradSolution(coefficients, conflicts[0], conflicts[1], status)


def combine(rows: Tensor, coefficients: Tensor, status: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`sum_k coefficients[k] * rows[k]`, or zeros where `status` names a row."""
    _check_matrix(rows)
    refuse_gradients([rows], "combine")
    out = _output(out, rows, rows.size(1), "combine")
    _combine_(rows, coefficients, status, out)
    return out


def combine_list(
    grads: Sequence[Tensor | None],
    coefficients: Tensor,
    status: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`combine` for lists laid end to end, into one vector."""
    tensors = _tensors(grads, "combine_list")
    widths = _widths(grads, coefficients.numel(), sizes)
    out = _output(out, tensors[0], sum(widths), "combine_list")
    _combine_list_(tensors, widths, coefficients, status, out)
    return out


def pcgrad(
    rows: Tensor,
    order: Tensor,
    *,
    weights: Weights = None,
    reduction: Reduction = "sum",
    tau: float = 0.0,
    fast: bool = False,
    out: Tensor | None = None,
) -> PCGrad:
    """Projects each row of `[K, N]` against those it conflicts with, in the order given, and adds the rows up.

    `order` is int64 `[K, K]`, row i the sequence in which i meets the others (i itself is skipped). `weights` multiply
    the projected rows; "mean" divides by their sum. Two rows conflict when their cosine is below -tau.
    """
    _check_matrix(rows)
    refuse_gradients([rows], "pcgrad")
    mean, weight_tensor = _checked(rows, order, weights, reduction)
    out = _output(out, rows, rows.size(1), "pcgrad")
    coefficients, conflicts, status = _pcgrad_(rows, order, weight_tensor, mean, tau, fast, out)
    return PCGrad(out, conflicts[0], conflicts[1], coefficients, status)


def pcgrad_list(
    grads: Sequence[Tensor | None],
    order: Tensor,
    *,
    weights: Weights = None,
    reduction: Reduction = "sum",
    tau: float = 0.0,
    fast: bool = False,
    sizes: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> PCGrad:
    """`pcgrad` for K lists laid end to end, without a copy: `grads[i * T + t]` is tensor t of row i.

    The result is one vector. None is a zero gradient; `sizes` is needed where a gradient is absent from every row.
    """
    tensors = _tensors(grads, "pcgrad_list")
    mean, weight_tensor = _checked(order, order, weights, reduction)
    widths = _widths(grads, order.size(0), sizes)
    out = _output(out, next(grad for grad in grads if grad is not None), sum(widths), "pcgrad_list")
    coefficients, conflicts, status = _pcgrad_list_(tensors, widths, order, weight_tensor, mean, tau, fast, out)
    return PCGrad(out, conflicts[0], conflicts[1], coefficients, status)


def _tensors(grads: Sequence[Tensor | None], name: str) -> Sequence[Tensor]:
    like = next((grad for grad in grads if grad is not None), None)
    if like is None:
        raise RuntimeError("no gradients available for aggregation")
    tensors = present_or_empty(grads, like)
    refuse_gradients(tensors, name)
    return tensors


def _check_matrix(rows: Tensor) -> None:
    if rows.dim() != 2:
        raise RuntimeError(f"rows has shape {list(rows.shape)}, expected [K, N]")


def _output(out: Tensor | None, like: Tensor, numel: int, name: str) -> Tensor:
    """A new vector, or the caller's, which must not be waiting for a gradient of its own."""
    if out is None:
        return like.new_empty(numel)
    refuse_gradients([out], name)
    return out


def _widths(grads: Sequence[Tensor | None], k: int, sizes: Sequence[int] | None) -> list[int]:
    """Elements of each tensor of one row."""
    if sizes is not None:
        return list(sizes)
    if k < 1 or len(grads) % k:
        raise RuntimeError(f"{len(grads)} gradients do not divide into {k} rows of equal length")
    columns = len(grads) // k
    widths = []
    for column in range(columns):
        present = next((grad for grad in grads[column::columns] if grad is not None), None)
        if present is None:
            raise RuntimeError(f"gradient {column} is absent from every row: pass sizes, the elements of each gradient")
        widths.append(present.numel())
    return widths


def _checked(rows: Tensor, order: Tensor, weights: Weights, reduction: str) -> tuple[bool, Tensor | None]:
    if reduction not in ("sum", "mean"):
        raise RuntimeError(f"reduction is {reduction!r}, expected 'sum' or 'mean'")
    k = rows.size(0)
    if order.dtype != torch.int64 or order.shape != (k, k):
        raise RuntimeError(f"order is {order.dtype} {list(order.shape)}, expected torch.int64 [{k}, {k}]")
    if weights is None:
        return reduction == "mean", None
    is_known = not isinstance(weights, Tensor) or weights.device.type == "cpu"
    tensor = torch.as_tensor(weights, dtype=torch.float64)
    if tensor.numel() == 0:
        raise RuntimeError("weighted aggregation requires non-empty weights")
    if tensor.shape != (k,):
        raise RuntimeError(
            "weights and gradients must have matching lengths: "
            f"weights have shape {list(tensor.shape)}, there are {k} rows"
        )
    if is_known and not torch.compiler.is_compiling():
        _check_sum(float(tensor.sum()), reduction)
    return reduction == "mean", tensor.to(rows.device)


def _check_sum(total: float, reduction: str) -> None:
    is_usable = abs(total) > _SMALLEST_WEIGHT_SUM if reduction == "mean" else True
    if not is_usable or total != total or total in (float("inf"), float("-inf")):
        raise RuntimeError(f"invalid weight normalisation: the weights add up to {total}")


def _solution_fake(k: Any, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        like.new_empty(k, dtype=torch.float64),
        like.new_empty(2, dtype=torch.int64),
        like.new_empty(2, dtype=torch.int64),
    )


@fake("gram")
def _gram_fake(rows: Tensor, fast: bool = False) -> Tensor:
    if rows.dim() != 2:
        raise RuntimeError(f"rows has shape {list(rows.shape)}, expected [K, N]")
    return rows.new_empty((rows.size(0), rows.size(0)), dtype=torch.float64)


@fake("gram_list_")
def _gram_list_fake(grads: list[Tensor], out: Tensor, fast: bool = False) -> None:
    check_one_device("gram_list", *grads, out)


@fake("pcgrad_solve")
def _pcgrad_solve_fake(products: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _solution_fake(products.size(0), products)


@fake("combine_")
def _combine_fake(rows: Tensor, coefficients: Tensor, status: Tensor, out: Tensor) -> None:
    check_one_device("combine", rows, coefficients, status, out)


@fake("combine_list_")
def _combine_list_fake(
    grads: list[Tensor], sizes: list[int], coefficients: Tensor, status: Tensor, out: Tensor
) -> None:
    check_one_device("combine_list", *grads, coefficients, status, out)


@fake("pcgrad_")
def _pcgrad_fake(rows: Tensor, order: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_one_device("pcgrad", rows, order, rest[0], rest[-1])
    return _solution_fake(rows.size(0), rows)


@fake("pcgrad_list_")
def _pcgrad_list_fake(
    grads: list[Tensor], sizes: list[int], order: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_device("pcgrad_list", *grads, order, rest[0], rest[-1])
    return _solution_fake(order.size(0), order)
