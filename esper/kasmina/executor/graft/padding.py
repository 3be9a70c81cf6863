"""Signs that the samples of a batch are of several lengths, for hosts that say so in no mask of a known name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from esper.kasmina.executor.passes.batches import named_leaves


def sign_of_padding(inputs: Any) -> str:
    """The first thing in the inputs that looks like it, in words; empty for none."""
    signs = (sign(name or "the input", leaf) for name, leaf in named_leaves(inputs) for sign in SIGNS)
    return next((said for said in signs if said), "")


def _lengths(name: str, leaf: Tensor) -> str:
    """Numbers of samples, by a name that says so."""
    if leaf.dim() != 1 or leaf.is_floating_point() or "len" not in name.lower():
        return ""
    return _varying(f"{name} says", leaf, "positions")


def _unnamed_mask(name: str, leaf: Tensor) -> str:
    """Each row is so many ones and then zeros, or the other way round."""
    if leaf.dim() != 2 or leaf.size(1) < 2 or leaf.is_floating_point() or not bool(((leaf == 0) | (leaf == 1)).all()):
        return ""
    is_one = leaf == 1
    if bool(((is_one[:, 1:] != is_one[:, :-1]).sum(1) > 1).any()):
        return ""
    return _varying(f"{name} looks like a mask,", is_one.sum(1), f"times 1 of {leaf.size(1)}")


def _ends(name: str, leaf: Tensor) -> str:
    """One word, or features of zero, at the ends of rows and nowhere else, in several numbers."""
    words = _words(leaf)
    if words is None:
        return ""
    for where, rows in (("ends", words.flip(1)), ("begins", words)):
        word = rows[_run(rows == rows[:, :1]).argmax(), 0]
        lengths = _run(rows == word)
        if bool((lengths.max() > 1) & (lengths.sum() == (rows == word).sum())):
            told = "zeros" if leaf.is_floating_point() else str(word.item())
            return _varying(f"{name} {where} with {told}", lengths, "times")
    return ""


def _words(leaf: Tensor) -> Tensor | None:
    """Whole numbers [samples, positions]; of features all-zero ones are 0, and no others are alike."""
    if not leaf.numel():
        return None
    if leaf.is_floating_point() and leaf.dim() == 3:
        others = torch.arange(1, 1 + leaf.shape[:2].numel(), device=leaf.device).view(leaf.shape[:2])
        return others.masked_fill((leaf == 0).all(2), 0)
    return leaf if leaf.dim() == 2 and not leaf.is_floating_point() and leaf.dtype != torch.bool else None


def _run(holds: Tensor) -> Tensor:
    """How long it holds from each row's beginning on."""
    return holds.cumprod(1).sum(1)


def _varying(before: str, counts: Tensor, after: str) -> str:
    least, most = (int(count) for count in counts.aminmax()) if counts.numel() else (0, 0)
    return f"{before} {least} to {most} {after}" if least < most else ""


SIGNS: tuple[Callable[[str, Tensor], str], ...] = (_lengths, _unnamed_mask, _ends)
