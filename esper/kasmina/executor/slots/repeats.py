"""Layers that run more than once in a forward pass: a shared tower, a block that is called again, recurrence by hand.

A span widens such a layer soundly where each call of it leads by the same steps to a call of the same other layer, and
the two run by turns: a wider layer is wider at each call, and what the seed has read is of the call that it joins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from esper.kasmina.executor.passes.trace import ForwardTrace


class _Path(Protocol):
    @property
    def write_path(self) -> str:
        """Where it ends."""


P = TypeVar("P", bound=_Path)
"""From one layer to another, by steps; equal ones are the same."""


def same_each_time(
    begun: Iterable[tuple[str, Sequence[P]]], part_runs: int, runs: Callable[[str], int]
) -> tuple[list[P], list[str]]:
    """The paths of one graph that hold for every call of the layer where they begin, and in words what doesn't.

    `begun` are the calls on the graph with the paths that begin there. The graph is of a part that runs `part_runs`
    times in a forward pass, 0 where something else than its own forward calls its layers; `runs` says how often a
    layer does.
    """
    by_layer: dict[str, list[Sequence[P]]] = {}
    for layer, paths in begun:
        by_layer.setdefault(layer, []).append(paths)
    kept: list[P] = []
    refused: list[str] = []
    for layer, calls in by_layer.items():
        if runs(layer) < 2:
            kept += [path for paths in calls for path in paths]
        elif part_runs and runs(layer) != part_runs * len(calls):
            refused.append(f"{layer} runs {runs(layer)} times in a forward pass, not always where its graph shows it")
        elif len(calls[0]) == 1 and all(paths == calls[0] for paths in calls):
            kept.append(calls[0][0])
        elif any(calls):
            ends = {path.write_path for paths in calls for path in paths} | {"none" for paths in calls if not paths}
            led = f"to {', '.join(sorted(ends))}" if len(ends) > 1 else f"to {ends.pop()} by other steps"
            refused.append(f"{layer} runs {runs(layer)} times in a forward pass, and doesn't lead on alike: {led}")
    return kept, refused


def run_by_turns(trace: ForwardTrace, places: Sequence[str]) -> bool:
    """Whether these layers run equally often, each time all of them before any runs again, the last one last."""
    calls = sorted((visit for place in places for visit in trace.calls.get(place, ())), key=lambda visit: visit.order)
    rounds = [[visit.path for visit in calls[at : at + len(places)]] for at in range(0, len(calls), len(places))]
    return all(set(one) == set(places) and one[-1] == places[-1] for one in rounds)


def runs_otherwise(trace: ForwardTrace, places: Iterable[str], layer: str) -> str:
    """Which of these doesn't run as often as the layer beside which it is widened; empty if all do."""
    often = trace.count(layer)
    other = next((place for place in places if trace.count(place) != often), "")
    return other and f"{other} runs {trace.count(other)} times in a forward pass, and {layer} {often}"


def runs_once_in_its_part(trace: ForwardTrace, path: str) -> bool:
    """Whether each call of the module that holds it calls it once."""
    return trace.count(path) in (1, trace.count(path.rpartition(".")[0]))
