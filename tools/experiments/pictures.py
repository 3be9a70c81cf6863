"""Pictures of an experiment: final score over cost with the static frontier, and one grown run's loss over its cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

import matplotlib
from comparing import Line, scores, share_told
from frontier import Points, cost_at
from labels import Point, label
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from plan import Plan
from rows import Row, Rows

from esper.tolaria.record.course.reading import Record
from esper.tolaria.record.page.curves import Curves, Fork, curves
from esper.tolaria.record.page.curves import Point as StepAndLoss

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
ALL_TICKS, FEW_TICKS, ALL_TICKS_WITHIN = tuple(range(1, 10)), (1, 2, 5), 10.0
"""Multiples of powers of ten that an axis names: all where its high end is at most so many times its low end."""
FIRST_FALL = 0.03
"""Share of a run's cost whose losses may lie above its course's picture."""
TITLE_WIDTH, LEGEND_COLUMNS = 120, 6
WORDS = {"FOSSILIZED": "kept", "CULLED": "culled"}
Macs = Sequence[tuple[int, int]]


def seed_color(seed_id: str) -> str:
    """A seed's colour, the same in every picture."""
    digits = "".join(character for character in seed_id if character.isdecimal()) or "0"
    return SEED_COLORS[int(digits) % len(SEED_COLORS)]


def cost_picture(
    plan: Plan, rows: Rows, rates: Mapping[str, float | None], lines: Iterable[Line], path: Path
) -> Path | None:
    """Every run a small mark, every arm's mean a large one; the static sizes' means are joined. None without runs.

    Choices among sizes (`lines` are what comparing.py tells) are hollow. Where the static ones are a frontier, a dotted
    line leads from an arm to what they cost at its loss, and its name has the share. Accuracies are drawn as errors on
    a logarithmic axis, which keeps good ones apart; losses less what sets their seed apart from the others.
    """
    known = [(arm, rows.of(arm, rates[arm], plan.seeds)) for arm in plan.arms]
    shown = [(arm, own) for arm, own in known if own]
    if not shown:
        return None
    drawn, axes = _picture(6.5)
    told = {line["arm"]: line for line in lines}
    levels = _levels(plan, [own for _, own in shown])
    means: dict[str, tuple[float, float]] = {}
    for place, (arm, own) in enumerate(shown):
        found = [loss - levels.get(seed, 0.0) for seed, loss in _losses(plan, own).items()]
        costs = [row["training_macs"] for row in own.values()]
        means[arm] = fmean(costs), fmean(found)
        style = _style(place)
        axes.scatter(costs, found, s=14, alpha=0.4, linewidths=0, **style)
        axes.plot(*means[arm], linestyle="", markersize=9, markeredgecolor="white", zorder=4, **style)
    names = {arm: (means[arm], _style(place)["color"]) for place, (arm, _) in enumerate(shown)}
    for name, line in told.items():
        if name not in plan.arms:
            point = line["training_macs"], _as_loss(plan, line["score"])
            axes.plot(*point, "D", markersize=8, markerfacecolor="white", markeredgecolor=INK, zorder=4)
            names[name] = point, INK
    static = plan.frontier or (() if plan.sweep is None else plan.sweep.arms)
    joined = sorted(means[arm] for arm in static if arm in means)
    if len(joined) > 1:
        axes.plot(*zip(*joined, strict=True), color=QUIET, linewidth=1.2, zorder=1, label="static frontier")
    taken_out = " less what sets a seed apart" if levels else ""
    axes.set(xscale="log", xlabel="training MACs, everything booked", ylabel=f"test loss{taken_out}")
    if plan.score == "accuracy":
        axes.set(yscale="log", ylabel="test error, %")
        _tell_ticks(axes.yaxis)
    _tell_ticks(axes.xaxis)
    shares = {arm: share_told(told[arm]) for arm in means if "share_of_frontier" in told.get(arm, {})}
    ties = {arm: _tie(means[arm], joined) for arm in shares}
    for arm, tie in ties.items():
        axes.plot(*zip(*tie, strict=True), color=names[arm][1], linestyle=":", linewidth=1.2, zorder=2)
    if shares:
        axes.plot([], [], color=QUIET, linestyle=":", label="(share of the frontier's cost at the same loss)")
    spelt = {_name(plan, arm, shares.get(arm)): where for arm, where in names.items()}
    label(axes, spelt, [joined, *ties.values()])
    return _saved(drawn, plan.about, path)


def _name(plan: Plan, arm: str, share: str | None) -> str:
    """What an arm, or a choice among arms, is called beside its mean."""
    name = (plan.arms[arm].label if arm in plan.arms else None) or arm
    return name if share is None else f"{name} ({share})"


def _tie(mean: Point, joined: Points) -> list[Point]:
    """From an arm to the frontier at its loss; the arm alone where none of the frontier's is as low."""
    there = cost_at(joined, mean[1])
    is_reached = there is not None and mean[1] >= min(loss for _, loss in joined)
    return [mean, (there, mean[1])] if is_reached else [mean]


def _levels(plan: Plan, shown: Sequence[Mapping[int, Row]]) -> dict[int, float]:
    """By how much each seed loses more than the others, over the arms that have all seeds; of errors none are told."""
    seeds = {seed for own in shown for seed in own}
    whole = [_losses(plan, own) for own in shown if {*own} == seeds]
    if plan.score != "loss" or len(seeds) < 2 or not whole:
        return {}
    mean = fmean(loss for losses in whole for loss in losses.values())
    return {seed: fmean(losses[seed] for losses in whole) - mean for seed in seeds}


def _tell_ticks(axis: Axis) -> None:
    """Numbers as they are said: 2e9, 0.5."""
    low, high = axis.get_view_interval()
    subs = ALL_TICKS if high < ALL_TICKS_WITHIN * low else FEW_TICKS
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, place: int) -> str:
    if 0.01 <= value < 10_000:
        return f"{value:g}"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"


def _style(place: int) -> dict[str, Any]:
    """An arm's colour and marker: after each round of colours the next markers, so that no two arms share both."""
    rounds, color = divmod(place, len(COLORS))
    return {"color": COLORS[color], "marker": MARKERS[(place + rounds) % len(MARKERS)]}


def _losses(plan: Plan, own: Mapping[int, Row]) -> dict[int, float]:
    """What is drawn of each run: less is better."""
    return {seed: _as_loss(plan, score) for seed, score in scores(plan, own).items()}


def _as_loss(plan: Plan, score: float) -> float:
    return max(LEAST_ERROR, 100.0 - score) if plan.score == "accuracy" else score


def course_picture(title: str, events: Sequence[Record], path: Path) -> Path | None:
    """Training loss over what had been spent by then; each graft is marked, and its twin a fork. None without cost.

    The first fall, out of the top, would press everything else flat.
    """
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
    axes.set_ylim(top=1.05 * _highest(axes, FIRST_FALL * macs[-1][1], found.forks))
    _tell_ticks(axes.yaxis)
    return _saved(drawn, title, path)


def _highest(axes: Axes, spent: float, forks: Sequence[Fork]) -> float:
    """The highest loss after so much was spent, or in a fork."""
    later = [y for line in axes.lines for x, y in line.get_xydata() if x >= spent and line.get_linestyle() != ":"]
    return float(max([*later, *(loss for fork in forks for _, loss in (*fork.grown, *fork.twin))]))


def _fork(axes: Axes, fork: Fork, macs: Macs) -> None:
    """Both arms lie over the cost of both: while a twin trains, each step costs the two of them."""
    color = seed_color(fork.seed_id)
    widths = (1.0, 1.6) if fork.is_undone else (1.8, 1.0)
    _line(
        axes, fork.grown, macs, color=color, linewidth=widths[0], label=f"{fork.seed_id}, {WORDS.get(fork.fate, '?')}"
    )
    _line(axes, fork.twin, macs, color=color, linewidth=widths[1], linestyle="--", label=f"{fork.seed_id}'s twin")
    axes.axvline(_spent(fork.start, macs), color=color, linewidth=0.8, linestyle=":")


def _line(axes: Axes, points: Sequence[StepAndLoss], macs: Macs, **style: Any) -> None:
    axes.plot([_spent(step, macs) for step, _ in points], [loss for _, loss in points], **style)


def _spent(step: int, macs: Macs) -> float:
    """What had been spent at a step, linear between boundaries."""
    place = bisect_left(macs, (step, 0))
    if place == len(macs):
        return macs[-1][1]
    before, spent = macs[place - 1] if place else (0, 0)
    after, more = macs[place]
    return spent + (more - spent) * (step - before) / max(1, after - before)


def _picture(height: float = 5.0) -> tuple[Figure, Axes]:
    """`height` in inches."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(9.5, height), layout="constrained", dpi=110)
        return drawn, drawn.subplots()


def _saved(drawn: Figure, title: str, path: Path) -> Path:
    """Written with its title above and its legend, where there is one, below."""
    drawn.suptitle("\n".join(wrap(title, TITLE_WIDTH)), x=0.01, ha="left", fontsize=10)
    if any(axes.get_legend_handles_labels()[0] for axes in drawn.axes):
        drawn.legend(frameon=False, loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8.5)
    with matplotlib.rc_context(STYLE):
        drawn.savefig(path)
    return path
