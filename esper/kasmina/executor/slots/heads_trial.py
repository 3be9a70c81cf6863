"""The trial of heads: an attention with one group more must give what it gave, and beside it what a seed gives.

One forward pass in eval mode shows what the attentions are called with; it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.trace import ForwardTrace, in_words
from esper.kasmina.executor.slots.arguments import Arguments, leading_tensor
from esper.kasmina.executor.slots.fresh import like
from esper.kasmina.executor.slots.heads import Attention, Heads, attentions, extra_tensors
from esper.kasmina.executor.slots.joining import joined
from esper.kasmina.executor.slots.layers import Side, features_in, features_out, growing_dim, stored_parameter

Found = tuple[Attention, Heads | str]
TOLERANCE = 1e-4


def proven_heads(model: nn.Module, trace: ForwardTrace, run: Callable[[], Any]) -> Iterator[Found]:
    """Each attention with the way in which its heads lie, or with the reason why it gets no more of them."""
    candidates = list(attentions(model, trace))
    if not candidates:
        return
    with side_pass([model], key=draw_key("heads"), training=False), torch.no_grad():
        calls = _calls(model, candidates, run)
        for attention in candidates:
            yield attention, _proven(model, attention, calls[attention.path])


def _calls(model: nn.Module, candidates: list[Attention], run: Callable[[], Any]) -> dict[str, Arguments]:
    calls: dict[str, Arguments] = {}
    with ExitStack() as handles:
        for attention in candidates:
            note = partial(_note, calls, attention.path)
            handle = model.get_submodule(attention.path).register_forward_pre_hook(note, with_kwargs=True)
            handles.callback(handle.remove)
        run()
    return calls


def _note(
    calls: dict[str, Arguments], path: str, _: nn.Module, arguments: tuple[object, ...], named: dict[str, object]
) -> None:
    calls[path] = Arguments.without_cache(arguments, named)


def _proven(model: nn.Module, attention: Attention, call: Arguments) -> Heads | str:
    module, why = model.get_submodule(attention.path), ""
    for heads in attention.ways:
        if extra := extra_tensors(module, heads):
            return f"{', '.join(extra)}: weights that all heads may share"
        try:
            if _is_equal(module, heads, call):
                return heads
            why = why or "it gives other values with one group of heads more"
        except Exception as error:  # noqa: BLE001 - the host's own code, with a number of heads that nobody foresaw
            why = why or in_words(error)
    return why


def _is_equal(module: nn.Module, heads: Heads, call: Arguments) -> bool:
    """Whether more heads in the host are its own and those of a seed, side by side."""
    groups, more = heads.groups(module), heads.projections_of(module, 1)
    wide = {name: _widened(module.get_submodule(name), more[name], blocks) for name, blocks in _blocks(heads)}
    before, beside, after = (
        leading_tensor(heads.resized(module, layers, count)(*call.positional, **call.named))
        for layers, count in (({}, groups), (more, 1), (wide, groups + 1))
    )
    both = torch.cat([before, beside], -1)
    limit = TOLERANCE * max(1.0, float(both.abs().max()))
    return after.shape == both.shape and float((after - both).abs().max()) <= limit


def _blocks(heads: Heads) -> list[tuple[str, int]]:
    return [(projection.name, projection.blocks) for projection in heads.projections]


def _widened(host: nn.Module, seed: nn.Module, blocks: int) -> nn.Module:
    width = features_out(host) + seed_rows(seed)
    wide = like(host, features_in(host), width, has_bias=stored_parameter(host, "bias") is not None)
    for name, parameter in wide.named_parameters():
        dim = growing_dim(host, name, Side.ROWS)
        parameter.copy_(joined(host.get_parameter(name), seed.get_parameter(name), dim, blocks))
    return wide


def seed_rows(seed: nn.Module) -> int:
    """Features that one of a seed's layers writes."""
    weight = seed.get_parameter("weight")
    return weight.shape[0] if isinstance(seed, nn.Linear) else weight.shape[1]
