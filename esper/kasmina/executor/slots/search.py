"""Finding slots: by one probe batch and the model's graph, or by the names that a user gives.

Spans come from proven paths between neighbouring layers, residual slots from activations and from the blocks of a list.
What could not be looked into is said with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.trace import ForwardTrace, Visit, is_script
from esper.kasmina.executor.slots.between import CallStep, GateStep, HalvesStep, ModuleStep, Step, gates, halves
from esper.kasmina.executor.slots.graphs import NO_GRAPH
from esper.kasmina.executor.slots.heads import Attention, Heads
from esper.kasmina.executor.slots.heads_trial import proven_heads
from esper.kasmina.executor.slots.layers import (
    ACTIVATIONS,
    features_in,
    features_out,
    holds_channels,
    is_batch_norm,
    is_convolution,
    is_dense,
    is_width_layer,
    reshape_obstacle,
)
from esper.kasmina.executor.slots.linear import PREFIX, linear_slot, linear_slots
from esper.kasmina.executor.slots.paths import SpanPath, span_paths
from esper.kasmina.executor.slots.repeats import run_by_turns, runs_once_in_its_part, runs_otherwise
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind

Regroup = Callable[[nn.Module, Sequence[Slot]], tuple[list[Slot], list[str]]]
"""From the slots that were found to those that are offered, and in words what is left out."""


@dataclass(frozen=True, slots=True)
class Search:
    """The slots in forward order, and in words what could not be looked into."""

    slots: tuple[Slot, ...]
    unseen: tuple[str, ...]


def find_slots(
    model: nn.Module,
    trace: ForwardTrace,
    *,
    named: Sequence[str] | None,
    is_causal: bool,
    rerun: Sequence[str] = (),
    run: Callable[[], Any] | None = None,
    offers_layers: bool = False,
    regroup: Regroup | None = None,
) -> Search:
    """The slots that the host offers, or the named ones; `check_found` refuses a host without any.

    `run` passes inputs through the host once to try attentions with more heads; without it no heads are offered.
    `regroup` has the last word on what is offered.
    `rerun` are the submodules that re-entrant checkpoints run again, in that order: no span may begin in one and end
    outside it, because such a checkpoint cuts the graph at its edge. Single linear layers, which adapters alone fit,
    are offered on request.
    """
    candidates, untraced = _candidates(model, trace)
    if offers_layers:
        candidates = _in_order(trace, [*candidates, *linear_slots(model, trace)])
    if run is not None:
        of_heads, closed = _heads(model, trace, run)
        candidates = _in_order(trace, [*candidates, *of_heads])
        untraced = (*untraced, *closed)
    if regroup is not None:
        candidates, left_out = regroup(model, candidates)
        untraced = (*untraced, *left_out)
    cut = [slot.slot_id for slot in candidates if _is_cut(slot, rerun)]
    unseen = (*untraced, *(f"{slot_id} begins and ends in different re-entrant checkpoints" for slot_id in cut))
    candidates = [slot for slot in candidates if slot.slot_id not in cut]
    chosen = candidates if named is None else [_named(model, trace, candidates, name) for name in named]
    if refused := next((slot for slot in chosen if _is_cut(slot, rerun)), None):
        remedy = "begins and ends in different re-entrant checkpoints: give them use_reentrant=False"
        raise ConfigError("slots", refused.slot_id, remedy)
    slots = tuple(replace(slot, order=order, is_causal=is_causal) for order, slot in enumerate(chosen))
    return Search(slots, unseen)


APART = "layers in a module of their own (an nn.Sequential), whose forward has no such line, are looked into apart"
REMEDY = "--slots names others, and --grow never trains it as it is"


def check_found(model: nn.Module, trace: ForwardTrace, found: Search) -> None:
    """Raises ConfigError where no slot is usable, with what was looked at."""
    if found.slots:
        return
    if is_script(model):
        raise ConfigError(
            "model", type(model).__name__, "is a compiled script, inside which nothing grows; give the module it is of"
        )
    why = f"; not looked into: {'; '.join(found.unseen)}" if found.unseen else ""
    if NO_GRAPH in why:
        why += f"; {APART}"
    raise ConfigError(
        "model", type(model).__name__, f"has no slot where a seed fits; looked at {_seen(model, trace)}{why}; {REMEDY}"
    )


def _is_cut(slot: Slot, rerun: Sequence[str]) -> bool:
    """One checkpoint runs its layers again in forward order; of two, the later one comes first."""
    places = [rerun.index(path) if path in rerun else None for path in (slot.read_path, slot.write_path)]
    if None in places:
        return places != [None, None]
    return places[0] > places[1]  # type: ignore[operator]


def _candidates(model: nn.Module, trace: ForwardTrace) -> tuple[list[Slot], tuple[str, ...]]:
    dims = {path: len(shapes[0]) for path in trace.calls if (shapes := trace.shapes(path))}
    calls = {path: given for path in ("", *trace.calls) if (given := trace.passed(path)) is not None}
    found_paths = span_paths(model, dims, calls, trace.count)
    out_of_turn = [path for path in found_paths.paths if not run_by_turns(trace, _ends(path))]
    spans = [
        _unless_read_elsewhere(trace, slot)
        for path in found_paths.paths
        if path not in out_of_turn and (slot := _span(model, trace, path)) is not None
    ]
    residuals = [_residual(model, trace, visit) for visit in trace if _takes_residual(model, trace, visit)]
    found = {slot.slot_id: slot for slot in (*spans, *residuals) if slot is not None}
    words = [f"{path.read_path} and {path.write_path} don't run by turns" for path in out_of_turn]
    return _in_order(trace, found.values()), (*found_paths.untraced, *words)


def _ends(path: SpanPath) -> tuple[str, ...]:
    """The layers from whose calls a seed reads, and the one to which it adds."""
    return (path.read_path, *gates(path.steps), path.write_path)


def _in_order(trace: ForwardTrace, slots: Iterable[Slot]) -> list[Slot]:
    return sorted(slots, key=lambda slot: (trace.visits[slot.read_path].order, not slot.is_span))


def _heads(model: nn.Module, trace: ForwardTrace, run: Callable[[], Any]) -> tuple[list[Slot], list[str]]:
    """Attentions that take more heads, and in words those that don't."""
    slots, refused = [], []
    for attention, heads in proven_heads(model, trace, run):
        if isinstance(heads, str):
            refused.append(f"{attention.path} takes no more heads: {heads}")
        else:
            slots.append(_unless_read_elsewhere(trace, _heads_slot(model, trace, attention, heads)))
    return slots, refused


def _heads_slot(model: nn.Module, trace: ForwardTrace, attention: Attention, heads: Heads) -> Slot:
    kind = SlotKind.SLOT_KIND_SPAN_HEADS
    shape = trace.visits[attention.output_path].output_shape or ()
    layers = (*heads.paths(attention.path), attention.output_path)
    return Slot(
        slot_id=f"{_kind_name(kind)}:{attention.path}-{attention.output_path}",
        kind=kind,
        read_path=attention.path,
        write_path=attention.output_path,
        order=0,
        dims=len(shape),
        features=features_out(model.get_submodule(attention.output_path)),
        read_positions=_positions(shape, False),
        write_positions=_positions(shape, False),
        obstacle=next(filter(None, (_layer_obstacle(model, place) for place in layers)), ""),
        heads=heads,
    )


def _span(model: nn.Module, trace: ForwardTrace, path: SpanPath) -> Slot | None:
    shapes = trace.shapes(path.read_path), trace.shapes(path.write_path)
    read, write = model.get_submodule(path.read_path), model.get_submodule(path.write_path)
    width = features_out(read) // halves(path.steps)
    if not shapes[0] or not shapes[1] or features_in(write) % width:
        return None
    columns = features_in(write) // width if path.flattens else 1
    if not path.flattens and features_in(write) != width:
        return None
    kind = SlotKind.SLOT_KIND_SPAN_LINEAR
    if is_convolution(read):
        kind = SlotKind.SLOT_KIND_SPAN_CONV_LINEAR if path.flattens else SlotKind.SLOT_KIND_SPAN_CONV
    return Slot(
        slot_id=f"{_kind_name(kind)}:{path.read_path}-{path.write_path}",
        kind=kind,
        read_path=path.read_path,
        write_path=path.write_path,
        order=0,
        dims=len(shapes[1][0]),
        features=features_out(write),
        read_positions=_all_positions(shapes[0], is_convolution(read)),
        write_positions=_all_positions(shapes[1], is_convolution(write)),
        between=path.steps,
        columns=columns,
        is_repeated=path.read_path in trace.repeated,
        obstacle=path.obstacle or _obstacle(model, trace, path),
    )


def _unless_read_elsewhere(trace: ForwardTrace, slot: Slot) -> Slot:
    """The slot; one whose layers' weights something else computes with is not to be folded."""
    if slot.obstacle:
        return slot
    read = [name for name in sorted(trace.read_elsewhere) if name.rpartition(".")[0] in _widened(slot)]
    if not read:
        return slot
    path, _, name = read[0].rpartition(".")
    return replace(slot, obstacle=f"something else than {path} computes with its {name}")


def _widened(slot: Slot) -> list[str]:
    """Whatever of the host a fold widens."""
    if slot.heads is not None:
        return [*slot.heads.paths(slot.read_path), slot.write_path]
    return [slot.read_path, *_places(slot.between), slot.write_path]


def _places(steps: Iterable[Step]) -> Iterator[str]:
    """The modules of the host among the steps, and among the steps within these."""
    for step in steps:
        if isinstance(step, (ModuleStep, GateStep)):
            yield step.path
        if isinstance(step, GateStep):
            yield from _places(step.steps)
        if isinstance(step, HalvesStep):
            yield from _places((*step.first, *step.second))


def _residual(model: nn.Module, trace: ForwardTrace, visit: Visit) -> Slot | None:
    shapes = trace.shapes(visit.path)
    if not shapes or len(shapes[0]) < 2 or not runs_once_in_its_part(trace, visit.path):
        return None
    shape = shapes[0]
    is_conv = _last_layer_is_convolution(model, trace, visit) and len(shape) > 2
    if len({each[1 if is_conv else -1] for each in shapes}) > 1:
        return None
    kind = SlotKind.SLOT_KIND_RESIDUAL_CONV if is_conv else SlotKind.SLOT_KIND_RESIDUAL_LINEAR
    positions = _all_positions(shapes, is_conv)
    return Slot(
        slot_id=f"{_kind_name(kind)}:{visit.path}-{visit.path}",
        kind=kind,
        read_path=visit.path,
        write_path=visit.path,
        order=0,
        dims=len(shape),
        features=shape[1] if is_conv else shape[-1],
        read_positions=positions,
        write_positions=positions,
        is_repeated=len(shapes) > 1,
    )


def _takes_residual(model: nn.Module, trace: ForwardTrace, visit: Visit) -> bool:
    """Activations, and the blocks of a list, that a later layer reads."""
    module = model.get_submodule(visit.path)
    parent = model.get_submodule(visit.path.rpartition(".")[0])
    is_block = isinstance(parent, (nn.ModuleList, nn.Sequential)) and any(module.children())
    is_block = is_block and not isinstance(module, nn.Sequential)
    later = any(other.order > visit.order and is_width_layer(model.get_submodule(other.path)) for other in trace)
    return (
        later
        and (is_block or isinstance(module, ACTIVATIONS))
        and visit.dtype is not None
        and (visit.dtype.is_floating_point)
    )


def _last_layer_is_convolution(model: nn.Module, trace: ForwardTrace, visit: Visit) -> bool:
    earlier = [other.path for other in trace if other.order <= visit.order]
    layers = [model.get_submodule(path) for path in earlier]
    return next((is_convolution(layer) for layer in reversed(layers) if is_width_layer(layer)), False)


def _named(model: nn.Module, trace: ForwardTrace, candidates: Sequence[Slot], name: str) -> Slot:
    """A user's slot: a full id, "read-write" for a span, or one path for a residual slot."""
    if name.startswith(PREFIX) and (layer := linear_slot(model, trace, name)) is not None:
        return layer
    wanted = name.partition(":")[2] or name
    pair = wanted if "-" in wanted else f"{wanted}-{wanted}"
    for slot in (slot for slot in candidates if slot.kind != SlotKind.SLOT_KIND_LINEAR):
        if name == slot.slot_id or (":" not in name and pair == f"{slot.read_path}-{slot.write_path}"):
            return slot
    read_path, _, write_path = pair.partition("-")
    for path in (read_path, write_path):
        if path not in trace.visits:
            raise ConfigError("slots", name, f"the host calls no submodule {path!r}; it has {_seen(model, trace)}")
    if read_path == write_path and not runs_once_in_its_part(trace, read_path):
        often = f"{read_path!r} runs {trace.count(read_path)} times in a forward pass of what holds it"
        raise ConfigError("slots", name, f"{often}, where one seed can't stand for all; name another slot")
    if trace.repeated & {read_path, write_path} and not run_by_turns(trace, (read_path, write_path)):
        often = " and ".join(f"{path!r} {trace.count(path)} times" for path in (read_path, write_path))
        raise ConfigError("slots", name, f"{often} in a forward pass, but not by turns; name another slot")
    found = _named_span(model, trace, read_path, write_path) if read_path != write_path else None
    if read_path == write_path:
        found = _residual(model, trace, trace.visits[read_path])
    if found is None or (":" in name and found.slot_id != name):
        known = ", ".join(slot.slot_id for slot in candidates) or "none"
        raise ConfigError("slots", name, f"is no place where a seed fits; the host's own slots are: {known}")
    return found


def _named_span(model: nn.Module, trace: ForwardTrace, read_path: str, write_path: str) -> Slot | None:
    """Two linear layers whose connection can't be proven: usable, never foldable."""
    read, write = model.get_submodule(read_path), model.get_submodule(write_path)
    if not is_dense(read) or not is_dense(write):
        return None
    shapes = trace.shapes(read_path), trace.shapes(write_path)
    leading = [[shape[:-1] for shape in each] for each in shapes]
    if not all(shapes) or leading[0] != leading[1] or not run_by_turns(trace, (read_path, write_path)):
        return None
    return Slot(
        slot_id=f"{_kind_name(SlotKind.SLOT_KIND_SPAN_LINEAR)}:{read_path}-{write_path}",
        kind=SlotKind.SLOT_KIND_SPAN_LINEAR,
        read_path=read_path,
        write_path=write_path,
        order=0,
        dims=len(shapes[1][0]),
        features=features_out(write),
        read_positions=_all_positions(shapes[0], False),
        write_positions=_all_positions(shapes[1], False),
        is_repeated=read_path in trace.repeated,
        between=(CallStep(nn.functional.relu),),
        obstacle=f"what lies between {read_path} and {write_path} could not be proven to be per channel",
    )


def _obstacle(model: nn.Module, trace: ForwardTrace, path: SpanPath) -> str:
    """Why one of the layers, or a norm between them, can't be widened; empty if they can."""
    between = [step.path for step in path.steps if isinstance(step, ModuleStep)]
    widened = [place for place in between if holds_channels(model.get_submodule(place))]
    ends = [_layer_obstacle(model, place) for place in _ends(path)]
    norms = [_norm_obstacle(place, model.get_submodule(place), model) for place in between]
    found = [*ends, *norms, runs_otherwise(trace, widened, path.read_path)]
    return next(filter(None, found), "")


def _norm_obstacle(path: str, norm: nn.Module, model: nn.Module) -> str:
    """A seed's BatchNorm gathers statistics and learns; one that doesn't can't take it in."""
    if not is_batch_norm(norm):
        return ""
    if any(not parameter.requires_grad for parameter in norm.parameters()):
        return f"{path} is frozen"
    return f"{path} is in eval mode" if model.training and not norm.training else ""


def _layer_obstacle(model: nn.Module, path: str) -> str:
    layer = model.get_submodule(path)
    if obstacle := reshape_obstacle(path, layer):
        return obstacle
    own = {id(parameter) for parameter in layer.parameters(recurse=False)}
    names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own]
    return f"{path} shares its weight with another layer" if len(names) > len(own) else ""


def _positions(shape: tuple[int, ...], is_conv: bool) -> int:
    return math.prod(shape[2:]) if is_conv else math.prod(shape[1:-1])


def _all_positions(shapes: Iterable[tuple[int, ...]], is_conv: bool) -> int:
    """Of all calls together."""
    return sum(_positions(shape, is_conv) for shape in shapes)


def _kind_name(kind: SlotKind) -> str:
    return short_name(SlotKind, kind).lower()


def _seen(model: nn.Module, trace: ForwardTrace) -> str:
    seen = [
        f"{visit.path} ({type(model.get_submodule(visit.path)).__name__}"
        f"{f', called {trace.count(visit.path)} times' if visit.path in trace.repeated else ''}"
        f"{_tied(trace, visit.path)})"
        for visit in trace
    ]
    return ", ".join(seen) or "no submodule at all"


def _tied(trace: ForwardTrace, path: str) -> str:
    """What of the layer something else computes with, as a tie by `F.linear(x, layer.weight)` does."""
    names = [name.rpartition(".")[2] for name in sorted(trace.read_elsewhere) if name.rpartition(".")[0] == path]
    return f", something else computes with its {' and '.join(names)}, too" if names else ""
