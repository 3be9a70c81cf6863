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
    return _varying(f"{name} says {{}} to {{}} positions", leaf)


def _unnamed_mask(name: str, leaf: Tensor) -> str:
    """Each row is so many ones and then zeros, or the other way round."""
    if leaf.dim() != 2 or leaf.size(1) < 2 or leaf.is_floating_point() or not bool(((leaf == 0) | (leaf == 1)).all()):
        return ""
    is_one = leaf == 1
    if bool(((is_one[:, 1:] != is_one[:, :-1]).sum(1) > 1).any()):
        return ""
    return _varying(f"{name} looks like a mask, {{}} to {{}} times 1 of {leaf.size(1)}", is_one.sum(1))


def _ends(name: str, leaf: Tensor) -> str:
    """One word, or features of zero, at the ends of rows and nowhere else, in several numbers."""
    if leaf.is_floating_point() and leaf.dim() == 3:
        word, is_word = "zeros", (leaf == 0).all(2)
    elif not leaf.is_floating_point() and leaf.dtype != torch.bool and leaf.dim() == 2 and leaf.numel():
        last = leaf[:, (0, -1)].flatten().mode().values
        word, is_word = str(last.item()), leaf == last
    else:
        return ""
    for where, run in (("ends", is_word.flip(1)), ("begins", is_word)):
        lengths = run.cumprod(1).sum(1)
        if bool((lengths.max() > 1) & (lengths.sum() == is_word.sum())):
            return _varying(f"{name} {where} with {word} {{}} to {{}} times", lengths)
    return ""


def _varying(words: str, counts: Tensor) -> str:
    least, most = (int(count) for count in counts.aminmax()) if counts.numel() else (0, 0)
    return words.format(least, most) if least < most else ""


SIGNS: tuple[Callable[[str, Tensor], str], ...] = (_lengths, _unnamed_mask, _ends)
