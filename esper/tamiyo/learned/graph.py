"""A graph model of what candidates are worth: they hear of their slots, the slots of each other, all of the run.

Nodes are the run, its slots, the blueprints and the candidates (a blueprint's parameters in a slot). What a node knows
is a row of numbers; in each of ROUNDS it adds what it makes of itself and of the mean of its neighbours, by relation:
plain message passing, because the graphs are small, NumPy is there already, and the service stays without torch. The
same function is trained by Simic, which hands it torch in NumPy's place. MEMBERS that began differently disagree where
little was seen: their spread is the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from esper.tamiyo.learned.linear import HEADS, Floats, Layout, Prediction, standard
from esper.tamiyo.learned.observation import CANDIDATE_FEATURES, OWN_FEATURES, RUN_FEATURES, SLOT_FEATURES

ROUNDS, HIDDEN, MEMBERS = 2, 12, 4
NODES: Mapping[str, tuple[str, ...]] = {
    "run": tuple(RUN_FEATURES),
    "slot": tuple(SLOT_FEATURES),
    "blueprint": ("risk",),
    "candidate": tuple(name for name in OWN_FEATURES if name != "risk"),
}
"""Features of each kind of node."""
RELATIONS: Sequence[tuple[str, str]] = (
    *(("run", "run"), ("slot", "run")),
    *(("slot", "slot"), ("run", "slot"), ("before", "slot"), ("candidate", "slot")),
    *(("blueprint", "blueprint"), ("candidate", "blueprint")),
    *(("candidate", "candidate"), ("slot", "candidate"), ("blueprint", "candidate"), ("run", "candidate")),
)
"""Who is heard by whom; "before" is the slot that stands before one."""
NAMES = (*RUN_FEATURES, *CANDIDATE_FEATURES)


def shapes() -> dict[str, tuple[int, ...]]:
    """Of each tensor, members first."""
    found: dict[str, tuple[int, ...]] = {
        f"encode_{kind}": (MEMBERS, 1 + len(names), HIDDEN) for kind, names in NODES.items()
    }
    found |= {f"{source}_to_{target}": (MEMBERS, ROUNDS, HIDDEN, HIDDEN) for source, target in RELATIONS}
    return found | {"head": (MEMBERS, 1 + 3 * HIDDEN, len(HEADS))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Nodes and, as matrices that take means, their edges; of one packet or of many side by side."""

    nodes: Mapping[str, Any]
    """Scaled features of each kind, a column of ones first [count, 1 + features]."""
    edges: Mapping[str, Any]
    """"source_to_target" -> each target's one source [targets], or shares [targets, sources] that add up to 1 or 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphModel:
    """Weights of the graph policy."""

    center: Floats
    """Means of the features [F]."""
    scale: Floats
    """Their deviations [F], above 0."""
    tensors: Mapping[str, Floats]
    """By the names of `shapes`."""
    calibration: Floats
    """What is added to each head, and what it is multiplied by [H, 2]: fitted on runs that weren't trained on."""
    noise: Floats
    """Standard deviation of what each head leaves unexplained [H]."""

    def predict(self, features: Floats, layout: Layout) -> Prediction:
        """What each of N candidates [N, F] of one packet is worth."""
        graph = graph_of([(features, layout)], self.center, self.scale)
        members = [forward({k: v[m] for k, v in self.tensors.items()}, graph, np) for m in range(MEMBERS)]
        outputs = self.calibration[:, 0] + self.calibration[:, 1] * np.stack(members)
        means, errors = outputs.mean(axis=0), outputs.std(axis=0, ddof=1)
        return Prediction(
            means={name: means[:, head] for head, name in enumerate(HEADS)},
            errors={name: errors[:, head] for head, name in enumerate(HEADS)},
        )


def forward(tensors: Mapping[str, Any], graph: Graph, xp: Any) -> Any:
    """Heads of every candidate [candidates, H] by one member; `xp` is numpy, or torch."""
    known = {kind: xp.tanh(rows @ tensors[f"encode_{kind}"]) for kind, rows in graph.nodes.items()}
    for step in range(ROUNDS):
        heard: dict[str, Any] = {}
        for source, target in RELATIONS:
            name = f"{source}_to_{target}"
            said = known["slot" if source == "before" else source]
            message = _heard(graph.edges.get(name), said) @ tensors[name][step]
            if target in heard:
                heard[target] += message
            else:
                heard[target] = message
        known = {kind: rows + xp.tanh(heard[kind]) for kind, rows in known.items()}
    own = known["candidate"]
    around = [_heard(graph.edges[f"{kind}_to_candidate"], known[kind]) for kind in ("slot", "run")]
    return xp.concatenate([xp.ones_like(own[:, :1]), own, *around], 1) @ tensors["head"]


def _heard(edge: Any, said: Any) -> Any:
    """What comes along an edge of what the sources said [sources, HIDDEN]; nodes without an edge hear themselves."""
    if edge is None:
        return said
    if edge.ndim > 1:
        return edge @ said
    # NumPy's `take` is four times as fast as its brackets; torch's means something else.
    return said.take(edge, axis=0) if isinstance(said, np.ndarray) else said[edge]


def graph_of(packets: Sequence[tuple[Floats, Layout]], center: Floats, scale: Floats) -> Graph:
    """The packets' graphs side by side; each has features [N, F] of its candidates and where those stand."""
    scaled = standard(np.concatenate([features for features, _ in packets]), center, scale)
    links = links_of([layout for _, layout in packets])
    position = scaled[links.first["slot"], NAMES.index("position")]
    before = _before(links.edges["run_to_slot"], position)
    nodes = {kind: _columns(scaled[first], NODES[kind]) for kind, first in links.first.items()}
    nodes["candidate"] = _columns(scaled, NODES["candidate"])
    return Graph(nodes=nodes, edges={**links.edges, "before_to_slot": before})


@dataclass(frozen=True, slots=True)
class Links:
    """What of a graph follows from where candidates stand."""

    first: Mapping[str, NDArray[np.int64]]
    """By kind of node, the first candidate of each."""
    edges: Mapping[str, Any]
    """As in Graph."""


_KNOWN: WeakKeyDictionary[Layout, Links] = WeakKeyDictionary()
"""Of single layouts, which a service asks about with every packet."""


def links_of(layouts: Sequence[Layout]) -> Links:
    """Links of the layouts side by side."""
    if len(layouts) > 1:
        return _linked(layouts)
    (layout,) = layouts
    found = _KNOWN.get(layout)
    if found is None:
        found = _KNOWN[layout] = _linked(layouts)
    return found


def _linked(layouts: Sequence[Layout]) -> Links:
    run = np.repeat(np.arange(len(layouts)), [len(layout.slots) for layout in layouts])
    slot = _distinct([layout.slots for layout in layouts])
    blueprint = _distinct([layout.blueprints for layout in layouts])
    first = {"run": _firsts(run), "slot": _firsts(slot), "blueprint": _firsts(blueprint)}
    edges: dict[str, Any] = {"slot_to_candidate": slot, "blueprint_to_candidate": blueprint, "run_to_candidate": run}
    edges |= {"candidate_to_slot": _means(slot), "candidate_to_blueprint": _means(blueprint)}
    edges["run_to_slot"] = run[first["slot"]]
    edges["slot_to_run"] = _means(edges["run_to_slot"])
    return Links(first, edges)


def _columns(rows: Floats, names: Sequence[str]) -> Floats:
    picked = rows[:, [NAMES.index(name) for name in names]]
    return np.concatenate([np.ones((len(rows), 1)), picked], axis=1)


def _distinct(names: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Numbers of the candidates' slots or blueprints, those of each packet its own."""
    found, used = [], 0
    for own in names:
        numbers = np.unique(own, return_inverse=True)[1]
        found.append(numbers + used)
        used += int(numbers.max()) + 1
    return np.concatenate(found)


def _firsts(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each number stands first."""
    return np.unique(numbers, return_index=True)[1]


def _means(numbers: NDArray[np.int64]) -> Floats:
    """Shares [numbers, members] by which each number hears those that have it."""
    found = np.zeros((len(numbers), int(numbers.max()) + 1))
    found[np.arange(len(numbers)), numbers] = 1.0
    return np.asarray(found.T / np.maximum(1.0, found.T.sum(axis=1, keepdims=True)))


def _before(run: NDArray[np.int64], position: Floats) -> Floats:
    """Each slot hears the one before it in the same run."""
    found, order = np.zeros((len(run), len(run))), np.lexsort((position, run))
    for earlier, later in pairwise(order):
        found[later, earlier] = float(run[earlier] == run[later])
    return found
