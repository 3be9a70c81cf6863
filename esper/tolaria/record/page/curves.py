"""From a run's events to curves of the training loss: the trunk that became the network, and the fork at each graft.

A fork has two branches over the same steps and batches, the grown arm and its twin. Both are means over the same
stretches, smoothed from one value at the graft on: what divides them is their losses alone. The trunk goes on from the
branch that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind

Point = tuple[int, float]

SMOOTHING = 0.05  # where a run doesn't tell its own
TRUNK_POINTS, BRANCH_POINTS = 800, 160
KEPT, UNDONE = "FOSSILIZED", "CULLED"
INSTALL = "INSTALL_TWIN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """The steps between two boundaries, with the mean loss of the arm that the run was about."""

    before: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """A graft's two branches, smoothed, from the last step that they share to the twin's last."""

    seed_id: str
    start: int
    end: int
    fate: str
    grown: Sequence[Point]
    twin: Sequence[Point]
    measured_grown: Sequence[Point] = ()
    measured_twin: Sequence[Point] = ()

    @property
    def is_undone(self) -> bool:
        """Whether the twin was installed in the grown network's place."""
        return self.fate == UNDONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """`measured` is unsmoothed; the pieces of the trunk lie between the forks."""

    measured: Sequence[Point]
    trunk: Sequence[Sequence[Point]]
    forks: Sequence[Fork]
    steps_a_point: int
    """Most steps whose mean is one point of the trunk."""


def curves(events: Sequence[Record], smoothing: float = SMOOTHING) -> Curves:
    """Every curve of the run, thinned: at most so many points, each the mean of as many neighbours."""
    stretches, twins, fates = _stretches(events), _twin_losses(events), _fates(events)
    pieces: list[list[Point]] = [[]]
    measured: list[Point] = []
    forks: list[Fork] = []
    now: float | None = None
    place = 0
    for seed_id, losses in twins.items():
        start, end, fate = min(losses) - 1, max(losses), fates.get(seed_id, "")
        before = [found for found in stretches[place:] if found.step <= start]
        inside = [found for found in stretches[place + len(before) :] if found.step <= end]
        place += len(before) + len(inside)
        own = [Stretch(before=found.before, step=found.step, loss=_mean_of(losses, found)) for found in inside]
        pieces[-1] += _smoothed(now, before, smoothing)
        now = pieces[-1][-1][1] if pieces[-1] else now
        root = [(start, now)] if now is not None else []
        grown, twin = _smoothed(now, inside, smoothing), _smoothed(now, own, smoothing)
        survivor = twin if fate == UNDONE else grown
        forks.append(
            Fork(
                seed_id=seed_id,
                start=start,
                end=end,
                fate=fate,
                grown=root + grown,
                twin=root + twin,
                measured_grown=_points(inside),
                measured_twin=_points(own),
            )
        )
        measured += _points(before) + _points(own if fate == UNDONE else inside)
        now = survivor[-1][1] if survivor else now
        pieces.append([survivor[-1]] if survivor else [])
    rest = stretches[place:]
    pieces[-1] += _smoothed(now, rest, smoothing)
    measured += _points(rest)
    share = max(1, math.ceil(len(measured) / TRUNK_POINTS))
    return Curves(
        measured=_thinned(measured, share),
        trunk=[_thinned(piece, share) for piece in pieces if piece],
        forks=[_thin(fork) for fork in forks],
        steps_a_point=share * max((found.step - found.before for found in stretches), default=1),
    )


def _stretches(events: Sequence[Record]) -> list[Stretch]:
    found, before = [], 0
    for event in of_kind(events, "boundary"):
        if event["step"] > before:
            found.append(Stretch(before=before, step=event["step"], loss=event["loss"]))
            before = event["step"]
    return found


def _twin_losses(events: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Losses of each seed's twin by the twin's own step; what was no number is left out."""
    found: dict[str, dict[int, float]] = {}
    for event in of_kind(events, "twin"):
        losses = found.setdefault(event["seed_id"], {})
        losses |= {step: loss for step, loss in enumerate(event["losses"], event["from_step"]) if loss is not None}
    return {seed_id: losses for seed_id, losses in found.items() if losses}


def _fates(events: Sequence[Record]) -> dict[str, str]:
    """A twin may have been installed without a verdict: where memory ran out."""
    moves, done = of_kind(events, "transition"), of_kind(events, "directive")
    installed = [event["seed_id"] for event in done if event["directive"] == INSTALL and event.get("succeeded")]
    fates = {move["seed_id"]: move["to_stage"] for move in moves if move["to_stage"] in (KEPT, UNDONE)}
    return dict.fromkeys(installed, UNDONE) | fates


def _mean_of(losses: Mapping[int, float], stretch: Stretch) -> float:
    known = [losses[step] for step in range(stretch.before + 1, stretch.step + 1) if step in losses]
    return sum(known) / len(known) if known else math.nan


def _smoothed(start: float | None, stretches: Sequence[Stretch], weight: float) -> list[Point]:
    """The exponential mean at each stretch's end, every step weighing as the run's own smoothing has it."""
    points, now = [], start
    for stretch in stretches:
        if math.isfinite(stretch.loss):
            kept = (1.0 - weight) ** (stretch.step - stretch.before)
            now = stretch.loss if now is None else stretch.loss + kept * (now - stretch.loss)
            points.append((stretch.step, now))
    return points


def _points(stretches: Sequence[Stretch]) -> list[Point]:
    return [(found.step, found.loss) for found in stretches if math.isfinite(found.loss)]


def _thin(fork: Fork) -> Fork:
    share = max(1, math.ceil(len(fork.grown) / BRANCH_POINTS))
    names = ("grown", "twin", "measured_grown", "measured_twin")
    branches: dict[str, Any] = {name: _thinned(getattr(fork, name), share) for name in names}
    return replace(fork, **branches)


def _thinned(points: Sequence[Point], share: int) -> list[Point]:
    """One point for each `share` neighbours; first and last stay, so that curves go on where others end."""
    if share == 1 or len(points) <= 2:
        return list(points)
    inner = points[1:-1]
    groups = [inner[place : place + share] for place in range(0, len(inner), share)]
    means = [(group[len(group) // 2][0], sum(value for _, value in group) / len(group)) for group in groups]
    return [points[0], *means, points[-1]]
