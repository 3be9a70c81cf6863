"""The report's plots, as inline SVG drawn from a run's events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from esper.tolaria.record.page.curves import SMOOTHING, Curves, Point, curves
from esper.tolaria.record.page.drawing import BAD, FAINT, INK, Record, as_label, figure, of_kind, seed_color, span, svg
from esper.tolaria.record.page.forks import draw_fork

FATE_STYLE: dict[Any, Any] = {"FOSSILIZED": ("kept", 0.16), "CULLED": ("culled", 0.07)}
REMOVED = ("CULLED", "EMBARGOED", "RESETTING", "DORMANT")
HEADROOM = 1.16  # room above the curves for the seeds' names
LEGEND_ROOM = 1.2  # room above the curves for the legend
PEAK_CUT = 4.0  # a bar this many times above nearly all others is cut, or it alone could be seen
FIRST_STEPS = 0.05  # of the run, whose losses may leave the picture
ROOM_BELOW = 0.05


def loss_with_seeds(events: Sequence[Record], found: Curves | None = None) -> str:
    """Losses and accuracy over steps, every seed's life shaded from graft to fate, with the fork of its twin."""
    found = curves(events, SMOOTHING) if found is None else found
    drawn = figure(height=4.4)
    axes = drawn.add_subplot()
    axes.plot(*_columns(found.measured), color=FAINT, linewidth=0.7, label="training loss")
    for place, piece in enumerate(found.trunk or [[]]):
        axes.plot(*_columns(piece), color=INK, linewidth=1.6, label=None if place else "smoothed")
    for place, fork in enumerate(found.forks):
        draw_fork(axes, fork, is_labelled=place == 0)
    _scale_losses(axes, events, found)
    accuracy = _of_epochs(events, "val_accuracy")
    uppermost = axes
    if accuracy:
        right = uppermost = axes.twinx()
        right.plot(*zip(*accuracy, strict=True), color=BAD, alpha=0.8, **_thin(accuracy))
        right.set_ylabel("accuracy on judging data", color=BAD)
        right.set_ylim(0, HEADROOM)
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
    for life in seed_lives(events):
        _shade(axes, life)
    uppermost.legend(*axes.get_legend_handles_labels(), loc="center right", framealpha=0.8, edgecolor="none")
    return svg(drawn, "Loss with the seeds' lives")


def _scale_losses(axes: Axes, events: Sequence[Record], found: Curves) -> None:
    """Add the judging loss, and room above for names; the first losses and soaring ones may leave the picture.

    A judging loss that was measured once is drawn whole, so it stays inside: outside it would take the figure's room.
    """
    judged = _of_epochs(events, "val_loss")
    if judged:
        axes.plot(*zip(*judged, strict=True), color="#2c7fb8", label="judging loss", **_thin(judged))
    first = FIRST_STEPS * span(events)[1]
    branches = [point for fork in found.forks for point in (*fork.grown, *fork.twin)]
    smoothed = [point for piece in found.trunk for point in piece]
    told = [loss for step, loss in (*smoothed, *branches) if step > first and math.isfinite(loss)]
    known = [loss for _, loss in judged if math.isfinite(loss)]
    told += known if len(judged) == 1 else []
    low, high = min([*told, *known], default=0.0), max(told, default=1.0)
    room = (high - low) or abs(high) or 1.0
    axes.set(xlabel="step", ylabel="loss", xlim=span(events))
    axes.set_ylim(max(0.0, low - ROOM_BELOW * room) if low >= 0 else low - ROOM_BELOW * room, high + 0.25 * room)


def _columns(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _thin(points: Sequence[object]) -> dict[str, Any]:
    """A thin line; what was measured once is a dot, or it could not be seen."""
    return {"linewidth": 1.0, "marker": "o" if len(points) == 1 else None, "markersize": 4, "clip_on": len(points) > 1}


def _of_epochs(events: Sequence[Record], name: str) -> list[tuple[int, float]]:
    """What was measured after each epoch, by step."""
    return [(event["step"], event[name]) for event in of_kind(events, "epoch") if event.get(name) is not None]


# The stages in which a seed is first in the forward pass: a stack is at once and wholly, and blends with nothing.
GRAFTED = ("BLENDING", "SHADOWING")


def seed_lives(events: Sequence[Record]) -> list[dict[str, Any]]:
    """One record for each grafted seed: first and last step in the forward pass, and its fate."""
    _, last_step = span(events)
    lives: dict[str, dict[str, Any]] = {}
    for event in of_kind(events, "transition"):
        if event["to_stage"] in GRAFTED and event["seed_id"] not in lives:
            lives[event["seed_id"]] = {
                "seed_id": event["seed_id"],
                "start": event["step"],
                "end": last_step,
                "fate": "",
            }
        elif event["to_stage"] in FATE_STYLE and event["seed_id"] in lives:
            lives[event["seed_id"]].update(end=event["step"], fate=event["to_stage"])
    return list(lives.values())


def _shade(axes: Axes, life: Record) -> None:
    word, alpha = FATE_STYLE.get(life["fate"], ("undecided", 0.04))
    color = seed_color(life["seed_id"])
    axes.axvspan(life["start"], life["end"], color=color, alpha=alpha, linewidth=0)
    axes.axvline(life["end"], color=color, linestyle="-" if life["fate"] == "FOSSILIZED" else ":", linewidth=1.2)
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(
        f"{as_label(life['seed_id'])}\n{word}", (life["end"], 0.99), (-3, 0), ha="right", va="top", color=color, **where
    )


def alphas(events: Sequence[Record]) -> str | None:
    """Alpha of each seed over steps; None without seeds."""
    series: dict[str, list[tuple[int, float]]] = {}
    for event in of_kind(events, "boundary"):
        for seed in event["seeds"]:
            points = series.setdefault(seed["seed_id"], [])
            # A removed seed has no alpha: its line ends where it reaches the ground.
            if seed["stage"] not in REMOVED or (points and points[-1][1] > 0):
                points.append((event["step"], seed["alpha"]))
    series = {seed_id: points for seed_id, points in series.items() if points}
    if not series:
        return None
    drawn = figure(height=2.6)
    axes = drawn.add_subplot()
    for seed_id, points in series.items():
        style: dict[str, Any] = {"color": seed_color(seed_id), "drawstyle": "steps-post"}
        axes.plot(*zip(*points, strict=True), label=as_label(seed_id), **style)
    axes.set(xlabel="step", ylabel="alpha", xlim=span(events), ylim=(-0.05, 1.3))
    axes.legend(frameon=False, ncols=8, loc="upper left")
    return svg(drawn, "Alpha of each seed")


def twin_gains(events: Sequence[Record]) -> str | None:
    """Gain of widths against the twin at each look, with error bars and what they had to beat; None without looks.

    Stacks have a plot of their own, over steps.
    """
    gates = [event for event in of_kind(events, "gate") if event["gate"] == "G4_SYSTEM_IMPACT"]
    looks = [event for event in gates if "gain" in event and "graft_step" not in event]
    if not looks:
        return None
    drawn = figure(height=3.2)
    axes = drawn.add_subplot()
    for position, look in enumerate(looks):
        axes.errorbar(
            position,
            look["gain"],
            yerr=1.64 * look["standard_error"],
            fmt="o",
            color=seed_color(look["seed_id"]),
            capsize=4,
        )
        needed = look["margin"] + look["z_threshold"] * look["standard_error"]
        axes.hlines(needed, position - 0.3, position + 0.3, color="#222222", linewidth=1.2)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xticks(range(len(looks)))
    axes.set_xticklabels(
        [f"{as_label(look['seed_id'])} look {look['look']}\n{as_label(look['verdict'].lower())}" for look in looks]
    )
    axes.set_ylabel("gain in judging score")
    axes.set_xlim(-0.6, len(looks) - 0.4)
    return svg(drawn, "Gain against the twin (90 % interval); the bar is what the test asked for")


def step_times(events: Sequence[Record]) -> str | None:
    """Where a step's time goes, in means over ten stretches of the run; None without timings."""
    boundaries = [event for event in of_kind(events, "boundary") if event.get("timings")]
    if not boundaries:
        return None
    parts = tuple(boundaries[0]["timings"])
    width = max(1, math.ceil(len(boundaries) / 40))
    stretches = [boundaries[start : start + width] for start in range(0, len(boundaries), width)]
    steps = [stretch[-1]["step"] for stretch in stretches]
    drawn = figure(height=3.0)
    axes = drawn.add_subplot()
    heights = [[_mean([event["timings"][part] for event in stretch]) for stretch in stretches] for part in parts]
    labels = [as_label(part.replace("_ms", "").replace("_", " ")) for part in parts]
    axes.stackplot(steps, heights, labels=labels, alpha=0.85)
    totals = [sum(parts_of) for parts_of in zip(*heights, strict=True)]
    axes.set(xlabel="step", ylabel="milliseconds a step", xlim=span(events), ylim=(0, LEGEND_ROOM * max(totals)))
    _cut_peaks(axes, totals)
    axes.legend(frameon=False, ncols=len(parts), loc="upper right")
    return svg(drawn, "Step time by part")


def _cut_peaks(axes: Axes, totals: Sequence[float]) -> None:
    usual, peak = sorted(totals)[int(0.9 * (len(totals) - 1))], max(totals)
    if peak > PEAK_CUT * usual > 0:
        axes.set_ylim(0, 2 * usual)
        note = f"cut: the highest stretch took {peak:.0f} ms a step"
        axes.annotate(note, (0.01, 0.92), xycoords="axes fraction", color="#b3261e")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
