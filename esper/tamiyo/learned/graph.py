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

import numpy as np
from numpy.typing import NDArray

from esper.tamiyo.learned.linear import HEADS, LIMIT, Floats, Layout, Prediction
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
    """"source_to_target" -> [targets, sources], rows that add up to 1 or are 0."""


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
            message = (graph.edges[name] @ said if name in graph.edges else said) @ tensors[name][step]
            heard[target] = heard[target] + message if target in heard else message
        known = {kind: rows + xp.tanh(heard[kind]) for kind, rows in known.items()}
    ones = graph.nodes["candidate"][:, :1]
    around = [graph.edges[f"{kind}_to_candidate"] @ known[kind] for kind in ("slot", "run")]
    return xp.concatenate([ones, known["candidate"], *around], 1) @ tensors["head"]


def graph_of(packets: Sequence[tuple[Floats, Layout]], center: Floats, scale: Floats) -> Graph:
    """The packets' graphs side by side; each has features [N, F] of its candidates and where those stand."""
    candidates = np.concatenate([features for features, _ in packets])
    scaled = np.clip(np.nan_to_num((candidates - center) / scale, nan=0.0), -LIMIT, LIMIT)
    run = np.repeat(np.arange(len(packets)), [len(features) for features, _ in packets])
    slot, blueprint = _distinct(packets, "slots"), _distinct(packets, "blueprints")
    edges = {
        "slot_to_candidate": _one_hot(slot),
        "blueprint_to_candidate": _one_hot(blueprint),
        "run_to_candidate": _one_hot(run),
    }
    first = {"run": _firsts(run), "slot": _firsts(slot), "blueprint": _firsts(blueprint)}
    edges |= {f"candidate_to_{kind}": _means(edges[f"{kind}_to_candidate"].T) for kind in ("slot", "blueprint")}
    edges["run_to_slot"] = edges["run_to_candidate"][first["slot"]]
    edges["slot_to_run"] = _means(edges["run_to_slot"].T)
    edges["before_to_slot"] = _before(run[first["slot"]], scaled[first["slot"], NAMES.index("position")])
    places = {**first, "candidate": np.arange(len(scaled))}
    nodes = {kind: _columns(scaled[places[kind]], names) for kind, names in NODES.items()}
    return Graph(nodes=nodes, edges=edges)


def _columns(rows: Floats, names: Sequence[str]) -> Floats:
    picked = rows[:, [NAMES.index(name) for name in names]]
    return np.concatenate([np.ones((len(rows), 1)), picked], axis=1)


def _distinct(packets: Sequence[tuple[Floats, Layout]], what: str) -> NDArray[np.int64]:
    """Numbers of the candidates' slots or blueprints, those of each packet its own."""
    found, used = [], 0
    for _, layout in packets:
        _, numbers = np.unique(getattr(layout, what), return_inverse=True)
        found.append(numbers + used)
        used += int(numbers.max()) + 1
    return np.concatenate(found)


def _firsts(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each number stands first."""
    return np.unique(numbers, return_index=True)[1]


def _one_hot(numbers: NDArray[np.int64]) -> Floats:
    found = np.zeros((len(numbers), int(numbers.max()) + 1))
    found[np.arange(len(numbers)), numbers] = 1.0
    return found


def _means(matrix: Floats) -> Floats:
    return np.asarray(matrix / np.maximum(1.0, matrix.sum(axis=1, keepdims=True)))


def _before(run: NDArray[np.int64], position: Floats) -> Floats:
    """Each slot hears the one before it in the same run."""
    found, order = np.zeros((len(run), len(run))), np.lexsort((position, run))
    for earlier, later in pairwise(order):
        found[later, earlier] = float(run[earlier] == run[later])
    return found
