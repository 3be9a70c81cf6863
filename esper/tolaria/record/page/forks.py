"""Plots of forks: each graft's two arms over its window, and what a stack's judge measured of them step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esper.tolaria.record.page.curves import Curves, Fork, Point
from esper.tolaria.record.page.drawing import BAD, INK, QUIET, Record, as_label, figure, of_kind, seed_color, svg

COLUMNS = 2
MOST_PANELS = 8
PANEL_HEIGHT = 2.7
AROUND = 0.3  # of a window, shown before its graft and after its verdict
LABEL_ROOM = 0.35  # of a picture's height, above what is drawn
ROWS_OF_WORDS = 4
DASHES = (0, (3, 1.5))
LEGEND = ("evaluation", "margin", "look, documents' error", "its error by wander")
WORDS = {"FOSSILIZED": "kept", "CULLED": "culled"}
VERDICTS = {"PASS": "keep", "FAIL": "undo", "EXTEND": "go on"}


def draw_fork(axes: Axes, fork: Fork, *, is_labelled: bool) -> None:
    """Both branches: the grown arm in its seed's colour, the twin dashed; the one that was given up is thinner."""
    grown, twin = (1.0, 1.6) if fork.is_undone else (1.8, 1.0)
    _line(axes, fork.grown, color=seed_color(fork.seed_id), linewidth=grown)
    _line(axes, fork.twin, color=INK, linewidth=twin, linestyle=DASHES)
    if is_labelled:
        axes.plot([], [], color=INK, linestyle=DASHES, linewidth=1.2, label="twin, never grafted")


def forks(found: Curves) -> str | None:
    """One panel for each of the last forks, near enough to see what divides the arms; None without twins."""
    shown = found.forks[-MOST_PANELS:]
    if not shown:
        return None
    drawn, panels = _panels(len(shown))
    for place, (axes, fork) in enumerate(zip(panels, shown, strict=True)):
        _zoomed(axes, found, fork, is_labelled=place == 0)
    drawn.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=8.5)
    last = "" if len(shown) == len(found.forks) else f", the last {len(shown)} of {len(found.forks)}"
    return svg(drawn, f"Training loss with each seed and without{last}", panels=True)


def _zoomed(axes: Axes, found: Curves, fork: Fork, *, is_labelled: bool) -> None:
    """The window and a little around it; what came long before may leave the picture."""
    low, high = fork.start - AROUND * (fork.end - fork.start), fork.end + AROUND * (fork.end - fork.start)
    color = seed_color(fork.seed_id)
    axes.axvspan(fork.start, fork.end, color=color, alpha=0.08, linewidth=0)
    _line(axes, fork.measured_grown, color=color, linewidth=0.7, alpha=0.45)
    _line(axes, fork.measured_twin, color=INK, linewidth=0.7, alpha=0.35, linestyle=DASHES)
    near = [[point for point in piece if low <= point[0] <= high] for piece in found.trunk]
    for piece in near:
        _line(axes, piece, color=INK, linewidth=1.6)
    draw_fork(axes, fork, is_labelled=is_labelled)
    if is_labelled:
        axes.plot([], [], color=color, linewidth=1.6, label="with the seed")
        axes.plot([], [], color=INK, linewidth=1.6, label="the network that there was and is")
    shown = [*fork.grown, *fork.twin, *fork.measured_grown, *fork.measured_twin]
    shown += [point for piece in near for point in piece if point[0] > fork.end]
    losses = [loss for _, loss in shown]
    room = (max(losses) - min(losses)) or 1.0
    axes.set(xlim=(max(0, low), high), ylim=(min(losses) - 0.08 * room, max(losses) + 0.08 * room), ylabel="loss")
    word = WORDS.get(fork.fate, "undecided")
    axes.set_title(f"{as_label(fork.seed_id)}: {word} at step {fork.end:,}", color=color, fontsize=10)


def evaluations(events: Sequence[Record], found: Curves) -> str | None:
    """Each stack's gain over its twin by step, and its looks; None where no stack was evaluated."""
    by_seed: dict[str, list[Record]] = {}
    for event in of_kind(events, "evaluation"):
        if math.isfinite(event["gain"]) and math.isfinite(event["standard_error"]):
            by_seed.setdefault(event["seed_id"], []).append(event)
    shown = list(by_seed.items())[-MOST_PANELS:]
    if not shown:
        return None
    drawn, panels = _panels(len(shown))
    starts = {fork.seed_id: fork.start for fork in found.forks}
    for place, (axes, (seed_id, own)) in enumerate(zip(panels, shown, strict=True)):
        _gains(axes, own, list(_looks(events, seed_id)), is_labelled=place == 0)
        axes.set_xlim(left=starts.get(seed_id))
        axes.set_title(f"{as_label(seed_id)}: gain over its twin", color=seed_color(seed_id), fontsize=10)
    drawn.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=8.5)
    return svg(drawn, "What the judge of stacks measured", panels=True)


def _gains(axes: Axes, own: Sequence[Record], looks: Sequence[Record], *, is_labelled: bool) -> None:
    label: dict[str, Any] = {name: name if is_labelled else None for name in LEGEND}
    axes.axhline(0, color=QUIET, linewidth=0.8)
    steps, gains, errors = ([event[name] for event in own] for name in ("step", "gain", "standard_error"))
    axes.errorbar(
        steps,
        gains,
        yerr=errors,
        fmt="o",
        markersize=3,
        color=seed_color(own[0]["seed_id"]),
        alpha=0.6,
        linewidth=0.8,
        label=label["evaluation"],
    )
    if looks:
        axes.axhline(looks[0]["margin"], color=QUIET, linewidth=1.0, linestyle=":", label=label["margin"])
    for place, look in enumerate(looks):
        _look(axes, look, place, {} if place else label)
    axes.set_ylabel("gain")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + LABEL_ROOM * (high - low))


def _look(axes: Axes, look: Record, place: int, label: dict[str, Any]) -> None:
    """The mean gain with both of its errors, and z beside its bar above."""
    step, gain = look["step"], look["gain"]
    wander: dict[str, Any] = {
        "fmt": "none",
        "ecolor": BAD,
        "elinewidth": 1.0,
        "capsize": 4,
        "label": label.get("its error by wander"),
    }
    documents: dict[str, Any] = {"fmt": "D", "markersize": 4, "color": INK, "elinewidth": 2.4}
    axes.errorbar(step, gain, yerr=look.get("wander_error", 0.0), **wander)
    axes.errorbar(
        step, gain, yerr=look.get("document_error", 0.0), **documents, label=label.get("look, documents' error")
    )
    axes.axvline(step, color=QUIET, linewidth=0.6, linestyle=":")
    verdict = VERDICTS.get(look["verdict"], look["verdict"].lower())
    words = f"z {look['z']:.1f} of {look['z_threshold']:.1f}: {verdict}"
    # Looks may follow each other closely: their words stand below each other.
    at = (step, 0.99 - 0.085 * (place % ROWS_OF_WORDS))
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(words, at, (-3, 0), ha="right", va="top", fontsize=8, **where)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """So many axes, two in a row; one alone has the row to itself."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    drawn = figure(height=PANEL_HEIGHT * rows + 0.5)
    return drawn, [drawn.add_subplot(rows, columns, place + 1) for place in range(count)]


def _line(axes: Axes, points: Sequence[Point], **style: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _looks(events: Sequence[Record], seed_id: str) -> Iterator[Record]:
    for gate in of_kind(events, "gate"):
        if gate["seed_id"] == seed_id and "graft_step" in gate and "z" in gate:
            yield gate
