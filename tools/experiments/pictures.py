"""Pictures of an experiment: final score over cost with the static frontier, and one grown run's loss over its cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
from comparing import scores
from labels import label
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plan import Plan
from rows import Row, Rows

from esper.tolaria.record.page.curves import Curves, Fork, Point, curves
from esper.tolaria.record.reading import Record

INK, QUIET = "#222222", "#8a8a8a"
SEED_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}
MARKERS = "osD^vPXdp<>h8"
BRIGHT = tuple(matplotlib.color_sequences["tab10"])
DARK = tuple((0.55 * red, 0.55 * green, 0.55 * blue) for red, green, blue in BRIGHT)
COLORS = (*BRIGHT, *DARK)
LEAST_ERROR = 0.1
TITLE_WIDTH, LEGEND_COLUMNS = 120, 6
WORDS = {"FOSSILIZED": "kept", "CULLED": "culled"}
Macs = Sequence[tuple[int, int]]


def seed_color(seed_id: str) -> str:
    """A seed's colour, the same in every picture."""
    digits = "".join(character for character in seed_id if character.isdecimal()) or "0"
    return SEED_COLORS[int(digits) % len(SEED_COLORS)]


def cost_picture(plan: Plan, rows: Rows, rates: Mapping[str, float | None], path: Path) -> Path | None:
    """Every run a small mark, every arm's mean a large one; the static sizes' means are joined. None without runs.

    Accuracies are drawn as errors on a logarithmic axis, which keeps good ones apart.
    """
    known = [(arm, rows.of(arm, rates[arm], plan.seeds)) for arm in plan.arms]
    shown = [(arm, own) for arm, own in known if own]
    if not shown:
        return None
    drawn, axes = _picture()
    means: dict[str, tuple[float, float]] = {}
    for place, (arm, own) in enumerate(shown):
        found = _losses(plan, own)
        costs = [row["training_macs"] for row in own.values()]
        means[arm] = sum(costs) / len(costs), sum(found) / len(found)
        style = _style(place)
        axes.scatter(costs, found, s=12, alpha=0.3, linewidths=0, **style)
        axes.plot(*means[arm], linestyle="", markersize=9, markeredgecolor="white", zorder=4, **style)
    static = plan.frontier or (() if plan.sweep is None else plan.sweep.arms)
    joined = sorted(means[arm] for arm in static if arm in means)
    if len(joined) > 1:
        axes.plot(*zip(*joined, strict=True), color=QUIET, linewidth=1.2, zorder=1, label="static frontier")
    axes.set(xscale="log", xlabel="training MACs, everything booked", ylabel="test loss")
    if plan.score == "accuracy":
        axes.set(yscale="log", ylabel="test error, %")
    label(axes, {arm: (means[arm], _style(place)["color"]) for place, (arm, _) in enumerate(shown)})
    return _saved(drawn, plan.about, path)


def _style(place: int) -> dict[str, Any]:
    """An arm's colour and marker: after each round of colours the next markers, so that no two arms share both."""
    rounds, color = divmod(place, len(COLORS))
    return {"color": COLORS[color], "marker": MARKERS[(place + rounds) % len(MARKERS)]}


def _losses(plan: Plan, own: Mapping[int, Row]) -> list[float]:
    """What is drawn of each run: less is better."""
    found = scores(plan, own).values()
    return [max(LEAST_ERROR, 100.0 - score) for score in found] if plan.score == "accuracy" else list(found)


def course_picture(title: str, events: Sequence[Record], path: Path) -> Path | None:
    """Training loss over what had been spent by then; each graft is marked, and its twin a fork. None without cost."""
    macs = [(event["step"], event["training_macs"]) for event in events if "training_macs" in event]
    if not macs:
        return None
    drawn, axes = _picture()
    found: Curves = curves(events)
    for piece in found.trunk:
        _line(axes, piece, macs, color=INK, linewidth=1.6)
    axes.plot([], [], color=INK, linewidth=1.6, label="the network")
    for fork in found.forks:
        _fork(axes, fork, macs)
    axes.set(xlabel="training MACs, everything booked", ylabel="training loss, smoothed", yscale="log")
    return _saved(drawn, title, path)


def _fork(axes: Axes, fork: Fork, macs: Macs) -> None:
    """Both arms lie over the cost of both: while a twin trains, each step costs the two of them."""
    color = seed_color(fork.seed_id)
    widths = (1.0, 1.6) if fork.is_undone else (1.8, 1.0)
    _line(
        axes, fork.grown, macs, color=color, linewidth=widths[0], label=f"{fork.seed_id}, {WORDS.get(fork.fate, '?')}"
    )
    _line(axes, fork.twin, macs, color=color, linewidth=widths[1], linestyle="--", label=f"{fork.seed_id}'s twin")
    axes.axvline(_spent(fork.start, macs), color=color, linewidth=0.8, linestyle=":")


def _line(axes: Axes, points: Sequence[Point], macs: Macs, **style: Any) -> None:
    axes.plot([_spent(step, macs) for step, _ in points], [loss for _, loss in points], **style)


def _spent(step: int, macs: Macs) -> float:
    """What had been spent at a step, linear between boundaries."""
    place = bisect_left(macs, (step, 0))
    if place == len(macs):
        return macs[-1][1]
    before, spent = macs[place - 1] if place else (0, 0)
    after, more = macs[place]
    return spent + (more - spent) * (step - before) / max(1, after - before)


def _picture() -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(9.5, 4.6), layout="constrained", dpi=110)
        return drawn, drawn.subplots()


def _saved(drawn: Figure, title: str, path: Path) -> Path:
    """Written with its title above and its legend, where there is one, below."""
    drawn.suptitle("\n".join(wrap(title, TITLE_WIDTH)), x=0.01, ha="left", fontsize=10)
    if any(axes.get_legend_handles_labels()[0] for axes in drawn.axes):
        drawn.legend(frameon=False, loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8.5)
    with matplotlib.rc_context(STYLE):
        drawn.savefig(path)
    return path
