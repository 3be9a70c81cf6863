"""The report's plots, as inline SVG drawn from a run's events."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = Mapping[str, Any]

SEED_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")
FATE_STYLE: dict[Any, Any] = {"FOSSILIZED": ("kept", 0.16), "CULLED": ("culled", 0.07)}
REMOVED = ("CULLED", "EMBARGOED", "RESETTING", "DORMANT")
HEADROOM = 1.16  # room above the curves for the seeds' names
LEGEND_ROOM = 1.2  # room above the curves for the legend
PEAK_CUT = 4.0  # a bar this many times above nearly all others is cut, or it alone could be seen
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}


def of_kind(events: Sequence[Record], kind: str) -> list[Record]:
    """The events of one kind, in order."""
    return [event for event in events if event["kind"] == kind]


def seed_color(seed_id: str) -> str:
    """A seed's colour, the same in every plot."""
    digits = "".join(character for character in seed_id if character.isdigit()) or "0"
    return SEED_COLORS[int(digits) % len(SEED_COLORS)]


def loss_with_seeds(events: Sequence[Record]) -> str:
    """Losses and accuracy over steps, every seed's life shaded from graft to fate."""
    boundaries = of_kind(events, "boundary")
    steps = [event["step"] for event in boundaries]
    figure = _figure(height=4.2)
    axes = figure.add_subplot()
    axes.plot(steps, [event["loss"] for event in boundaries], color="#bbbbbb", linewidth=0.7, label="training loss")
    axes.plot(steps, [event["smoothed_loss"] for event in boundaries], color="#222222", label="smoothed")
    _scale_losses(axes, events, [event["loss"] for event in boundaries])
    accuracy = _of_epochs(events, "val_accuracy")
    if accuracy:
        right = axes.twinx()
        right.plot(*zip(*accuracy, strict=True), color="#c0392b", linewidth=1.0, alpha=0.8)
        right.set_ylabel("accuracy on judging data", color="#c0392b")
        right.set_ylim(0, HEADROOM)
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
    for life in seed_lives(events):
        _shade(axes, life)
    axes.legend(loc="center right", frameon=False)
    return _svg(figure, "Loss with the seeds' lives")


def _scale_losses(axes: Axes, events: Sequence[Record], losses: Sequence[float]) -> None:
    """Add the judging loss, and room above for the seeds' names; a judging loss that soars may leave the picture."""
    judged = _of_epochs(events, "val_loss")
    if judged:
        axes.plot(*zip(*judged, strict=True), color="#2c7fb8", linewidth=1.0, label="judging loss")
    highest = max(filter(math.isfinite, (*losses, *(loss for _, loss in judged[:1]))), default=0.0) or 1.0
    axes.set(xlabel="step", ylabel="loss", xlim=_span(events), ylim=(0, HEADROOM * highest))


def _of_epochs(events: Sequence[Record], name: str) -> list[tuple[int, float]]:
    """What was measured after each epoch, by step."""
    return [(event["step"], event[name]) for event in of_kind(events, "epoch") if event.get(name) is not None]


# The stages in which a seed is first in the forward pass: a stack is at once and wholly, and blends with nothing.
GRAFTED = ("BLENDING", "SHADOWING")


def seed_lives(events: Sequence[Record]) -> list[dict[str, Any]]:
    """One record for each grafted seed: first and last step in the forward pass, and its fate."""
    _, last_step = _span(events)
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
    middle = (life["start"] + life["end"]) / 2
    label = f"{life['seed_id']}\n{word}"
    axes.annotate(label, (middle, 0.99), xycoords=("data", "axes fraction"), ha="center", va="top", color=color)


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
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    for seed_id, points in series.items():
        axes.plot(*zip(*points, strict=True), color=seed_color(seed_id), label=seed_id, drawstyle="steps-post")
    axes.set(xlabel="step", ylabel="alpha", xlim=_span(events), ylim=(-0.05, 1.3))
    axes.legend(frameon=False, ncols=8, loc="upper left")
    return _svg(figure, "Alpha of each seed")


def twin_gains(events: Sequence[Record]) -> str | None:
    """Gain against the twin at each look, with error bars and the margin that it had to beat; None without looks."""
    looks = [event for event in of_kind(events, "gate") if event["gate"] == "G4_SYSTEM_IMPACT" and "gain" in event]
    if not looks:
        return None
    figure = _figure(height=3.2)
    axes = figure.add_subplot()
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
    axes.set_xticklabels([f"{look['seed_id']} look {look['look']}\n{look['verdict'].lower()}" for look in looks])
    axes.set_ylabel("gain in judging score")
    axes.set_xlim(-0.6, len(looks) - 0.4)
    return _svg(figure, "Gain against the twin (90 % interval); the bar is what the test asked for")


def step_times(events: Sequence[Record]) -> str | None:
    """Where a step's time goes, in means over ten stretches of the run; None without timings."""
    boundaries = [event for event in of_kind(events, "boundary") if event.get("timings")]
    if not boundaries:
        return None
    parts = tuple(boundaries[0]["timings"])
    width = max(1, math.ceil(len(boundaries) / 40))
    stretches = [boundaries[start : start + width] for start in range(0, len(boundaries), width)]
    steps = [stretch[-1]["step"] for stretch in stretches]
    figure = _figure(height=3.0)
    axes = figure.add_subplot()
    heights = [[_mean([event["timings"][part] for event in stretch]) for stretch in stretches] for part in parts]
    axes.stackplot(steps, heights, labels=[part.replace("_ms", "").replace("_", " ") for part in parts], alpha=0.85)
    totals = [sum(parts_of) for parts_of in zip(*heights, strict=True)]
    axes.set(xlabel="step", ylabel="milliseconds a step", xlim=_span(events), ylim=(0, LEGEND_ROOM * max(totals)))
    _cut_peaks(axes, totals)
    axes.legend(frameon=False, ncols=len(parts), loc="upper right")
    return _svg(figure, "Step time by part")


def _cut_peaks(axes: Axes, totals: Sequence[float]) -> None:
    usual, peak = sorted(totals)[int(0.9 * (len(totals) - 1))], max(totals)
    if peak > PEAK_CUT * usual > 0:
        axes.set_ylim(0, 2 * usual)
        note = f"cut: the highest stretch took {peak:.0f} ms a step"
        axes.annotate(note, (0.01, 0.92), xycoords="axes fraction", color="#b3261e")


def _span(events: Sequence[Record]) -> tuple[int, int]:
    """The run's steps: every plot over steps shows the same ones."""
    return 0, max((event["step"] for event in of_kind(events, "boundary")), default=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _figure(*, height: float) -> Figure:
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(9.5, height), layout="constrained")


def _svg(figure: Figure, title: str) -> str:
    for axes in figure.axes:
        axes.spines["top"].set_visible(False)
        if axes is figure.axes[0]:
            axes.spines["right"].set_visible(False)
            axes.grid(visible=True, alpha=0.25)
    figure.axes[0].set_title(title, loc="left", fontsize=11)
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
