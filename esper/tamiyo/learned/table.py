"""Candidates as one array of numbers; what stays the same from packet to packet is reckoned once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar
from weakref import WeakKeyDictionary

from esper.tamiyo.growing.candidates import Candidate
from esper.tamiyo.growing.obstacles import Scene
from esper.tamiyo.growing.selection import Selection
from esper.tamiyo.learned.arrays import NDArray, np
from esper.tamiyo.learned.linear import Floats, Layout, as_array
from esper.tamiyo.learned.observation import (
    CANDIDATE_FEATURES,
    OF_SEEDS,
    OWN_FEATURES,
    PASSING,
    RUN_FEATURES,
    SLOT_FEATURES,
    Feature,
    Sight,
    finite,
    run_features,
)

T = TypeVar("T")


_FIRST = len(RUN_FEATURES)
_PASSING = {name: SLOT_FEATURES[name] for name in PASSING}
_OF_SEEDS = {name: SLOT_FEATURES[name] for name in OF_SEEDS}
_LASTING = {name: look for name, look in SLOT_FEATURES.items() if name not in {*PASSING, *OF_SEEDS}}


class Table:
    """Features of N candidates, which may stand in S slots; of whichever packet."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self._slots = list({item.slot.slot_id: item.slot for item in candidates}.values())
        self._last: tuple[tuple[object, ...], Floats] | None = None

    def rows(self, scene: Scene) -> Floats:
        """[N, F] in the order of RUN_FEATURES, then CANDIDATE_FEATURES; NaN is what is absent."""
        sight = Sight.of(scene)
        rows = self._lasting(sight).copy()
        rows[:, :_FIRST] = as_array([run_features(scene)], _FIRST)
        rows[:, _columns(_PASSING)] = _looked_at(_PASSING, self._slots, sight)[self._place]
        rows[:, _columns(_OF_SEEDS)] = self._of_seeds(sight)[self._place]
        return rows

    @cached_property
    def layout(self) -> Layout:
        return Layout(
            slots=[item.slot.slot_id for item in self.candidates],
            blueprints=[item.blueprint.blueprint_id if item.blueprint else "-" for item in self.candidates],
        )

    def _lasting(self, sight: Sight) -> Floats:
        """Rows with what changes with the host's size and shapes alone; the rest is still to be filled in."""
        metrics = sight.scene.packet.metrics
        sizes = [getattr(metrics, name) if metrics.HasField(name) else None for name in ("parameters", "forward_macs")]
        seen, last = (*sizes, *map(sight.shape, self._slots)), self._last
        if last is None or last[0] != seen:
            rows = np.empty((len(self.candidates), _FIRST + len(CANDIDATE_FEATURES)))
            rows[:, _columns(_LASTING)] = _looked_at(_LASTING, self._slots, sight)[self._place]
            rows[:, _columns(OWN_FEATURES)] = _looked_at(OWN_FEATURES, self.candidates, sight)
            self._last = last = seen, rows
        return last[1]

    def _of_seeds(self, sight: Sight) -> Floats:
        """What seeds left in each slot [S, features]; in most there was none."""
        found = np.zeros((len(self._slots), len(_OF_SEEDS)))
        grown = [place for place, slot in enumerate(self._slots) if slot.slot_id in sight.tried]
        if grown:
            found[grown] = _looked_at(_OF_SEEDS, [self._slots[place] for place in grown], sight)
        return found

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """Which of the slots each candidate stands in [N]."""
        places = {slot.slot_id: place for place, slot in enumerate(self._slots)}
        return np.array([places[item.slot.slot_id] for item in self.candidates], dtype=np.int64)


_KNOWN: WeakKeyDictionary[Selection, Table] = WeakKeyDictionary()


def table_of(selection: Selection) -> Table:
    """What is admissible of it; the same table for the same selection."""
    found = _KNOWN.get(selection)
    if found is None:
        found = _KNOWN[selection] = Table([item for item in selection.candidates if not item.excluded])
    return found


def _columns(names: Iterable[str]) -> list[int]:
    return [_FIRST + CANDIDATE_FEATURES.index(name) for name in names]


def _looked_at(features: Mapping[str, Callable[[T, Sight], Feature]], items: Sequence[T], sight: Sight) -> Floats:
    """Features of each item [items, features]."""
    return as_array([[finite(look(item, sight)) for look in features.values()] for item in items], len(features))
