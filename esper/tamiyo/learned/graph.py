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

from esper.tamiyo.learned.arrays import NDArray, np
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
ANSWERING = ("candidate", "slot", "run")
"""Whose last state the heads read."""
NAMES = (*RUN_FEATURES, *CANDIDATE_FEATURES)
PLACES: Mapping[str, Sequence[int]] = {kind: [NAMES.index(name) for name in names] for kind, names in NODES.items()}
"""Columns of each kind of node."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Of each tensor, members first."""
    found: dict[str, tuple[int, ...]] = {
        f"encode_{kind}": (MEMBERS, 1 + len(names), HIDDEN) for kind, names in NODES.items()
    }
    found |= {f"{source}_to_{target}": (MEMBERS, ROUNDS, HIDDEN, HIDDEN) for source, target in RELATIONS}
    return found | {"head": (MEMBERS, 1 + len(ANSWERING) * HIDDEN, len(HEADS))}


@dataclass(frozen=True, slots=True)
class Groups:
    """An edge along which each target hears the mean of its own sources, of which each has one target."""

    target: NDArray[np.int64]
    """Of each source [sources]."""
    order: NDArray[np.int64] | None
    """Sources target by target; None where they stand so already."""
    starts: NDArray[np.int64]
    """Where each target's begin in that order [targets]."""
    counts: NDArray[np.int64]
    """Sources of each target [targets]."""

    @classmethod
    def of(cls, target: NDArray[np.int64]) -> Groups:
        """Targets are numbered without gaps."""
        is_ordered = bool((np.diff(target) >= 0).all())
        order = None if is_ordered else np.argsort(target, kind="stable")
        counts = np.bincount(target)
        return cls(target, order, np.cumsum(counts) - counts, counts)

    def means(self, said: Floats) -> Floats:
        """Of what the sources said [..., sources, H], by target."""
        ordered = said if self.order is None else said.take(self.order, axis=-2)
        sums: Floats = np.add.reduceat(ordered, self.starts, axis=-2)
        return sums / self.counts[:, None].astype(sums.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Nodes and their edges; of one packet or of many side by side."""

    nodes: Mapping[str, Any]
    """Scaled features of each kind, a column of ones first [count, 1 + features]."""
    edges: Mapping[str, Any]
    """"source_to_target" -> each target's one source [targets], or whose mean it hears: Groups, or, as a matrix, shares
    [targets, sources] that add up to 1 or 0."""


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
        # Half the digits, a quarter of the time: tanh is most of it, and predictions err by far more.
        with np.errstate(over="ignore", invalid="ignore"):
            told = forward(_single(self.tensors), Graph(nodes=_single(graph.nodes), edges=_single(graph.edges)))
        outputs = self.calibration[:, 0] + self.calibration[:, 1] * told.astype(np.float64)
        means, errors = outputs.mean(axis=0), outputs.std(axis=0, ddof=1)
        return Prediction(
            means={name: means[:, head] for head, name in enumerate(HEADS)},
            errors={name: errors[:, head] for head, name in enumerate(HEADS)},
        )


def _single(values: Mapping[str, Any]) -> dict[str, Any]:
    """In single precision; numbers of nodes stay, and so do groups of them."""
    return {
        name: value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value
        for name, value in values.items()
    }


def forward(tensors: Mapping[str, Any], graph: Graph) -> Any:
    """Heads [..., candidates, H], in NumPy or in torch; what tensors have before their last two dimensions stays.

    What one source says to many is multiplied where it is said, and what many say to one where it is heard.
    """
    known = {kind: _tanh(rows @ tensors[f"encode_{kind}"]) for kind, rows in graph.nodes.items()}
    for step in range(ROUNDS):
        heard: dict[str, Any] = {}
        for source, target in RELATIONS:
            if step == ROUNDS - 1 and target not in ANSWERING:
                continue
            name = f"{source}_to_{target}"
            said = known["slot" if source == "before" else source]
            message = _heard(graph.edges.get(name), said, tensors[name][..., step, :, :])
            if target in heard:
                heard[target] += message
            else:
                heard[target] = message
        known |= {kind: known[kind] + _tanh(message) for kind, message in heard.items()}
    head = tensors["head"]
    parts = [head[..., 1 + place * HIDDEN :, :][..., :HIDDEN, :] for place in range(len(ANSWERING))]
    told = head[..., :1, :] + known["candidate"] @ parts[0]
    for kind, part in zip(ANSWERING[1:], parts[1:], strict=True):
        told += _heard(graph.edges[f"{kind}_to_candidate"], known[kind], part)
    return told


def _tanh(values: Any) -> Any:
    return np.tanh(values) if isinstance(values, np.ndarray) else values.tanh()


def _heard(edge: Any, said: Any, weights: Any) -> Any:
    """What comes along an edge of what sources said [..., sources, HIDDEN]; without an edge nodes hear themselves."""
    if edge is None:
        return said @ weights
    if isinstance(edge, Groups):
        return edge.means(said) @ weights
    if edge.ndim > 1:
        return edge @ said @ weights
    message = said @ weights
    if message.shape[-2] == 1:
        return message  # one source for all of them: adding it spreads it
    # NumPy's `take` is four times as fast as its brackets; torch's means something else.
    return message.take(edge, axis=-2) if isinstance(message, np.ndarray) else message[..., edge, :]


def graph_of(packets: Sequence[tuple[Floats, Layout]], center: Floats, scale: Floats) -> Graph:
    """The packets' graphs side by side; each has features [N, F] of its candidates and where those stand."""
    rows = np.concatenate([features for features, _ in packets]) if len(packets) > 1 else packets[0][0]
    links = links_of([layout for _, layout in packets])

    def known(kind: str, found: Floats) -> Floats:
        places = PLACES[kind]
        scaled = standard(found[:, places], center[places], scale[places])
        return np.concatenate([np.ones((len(found), 1)), scaled], axis=1)

    nodes = {kind: known(kind, rows[first]) for kind, first in links.first.items()}
    nodes["candidate"] = known("candidate", rows)
    before = _before(links.edges["run_to_slot"], nodes["slot"][:, 1 + NODES["slot"].index("position")])
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
    edges |= {"candidate_to_slot": Groups.of(slot), "candidate_to_blueprint": Groups.of(blueprint)}
    edges["run_to_slot"] = run[first["slot"]]
    edges["slot_to_run"] = Groups.of(edges["run_to_slot"])
    return Links(first, edges)


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


def _before(run: NDArray[np.int64], position: Floats) -> Floats:
    """Each slot hears the one before it in the same run."""
    found, order = np.zeros((len(run), len(run))), np.lexsort((position, run))
    for earlier, later in pairwise(order):
        found[later, earlier] = float(run[earlier] == run[later])
    return found
