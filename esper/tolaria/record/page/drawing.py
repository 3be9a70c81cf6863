"""What all plots of the report share: events by kind, the seeds' colours, figures, and figures as inline SVG.

Black, white and the plots' own ink become the page's variables, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from esper.core.plain import plain

Record = Mapping[str, Any]

WIDTH = 9.5
LABEL_LENGTH = 14  # ids are a few characters; what is longer would leave no room for the curves
INK, QUIET, FAINT = "#222222", "#8a8a8a", "#bbbbbb"
BAD = "#c0392b"
SEED_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")
PAGE_COLORS = {"#000000": "var(--ink, #000000)", INK: f"var(--ink, {INK})", "#ffffff": "var(--paper, #ffffff)"}
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
    digits = "".join(character for character in seed_id if character.isdecimal()) or "0"
    return SEED_COLORS[int(digits) % len(SEED_COLORS)]


def shortened(text: str) -> str:
    return text if len(text) <= LABEL_LENGTH else f"{text[: LABEL_LENGTH - 1]}…"


def as_label(text: str) -> str:
    """A text in a plot: short, and matplotlib reads no mathematics from it, nor "leave it out" from an underscore."""
    shown = shortened(plain(text)).replace("$", r"\$")
    return f"\N{ZERO WIDTH NON-JOINER}{shown}" if shown.startswith("_") else shown


def span(events: Sequence[Record]) -> tuple[int, int]:
    """The run's steps: every plot over all steps shows the same ones."""
    return 0, max((event["step"] for event in of_kind(events, "boundary")), default=1)


def figure(*, height: float) -> Figure:
    """An empty figure as wide as the page."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(WIDTH, height), layout="constrained")


def svg(drawn: Figure, title: str, *, panels: bool = False) -> str:
    """The figure as it stands in the page: `panels` side by side, or axes that lie on each other."""
    for axes in drawn.axes:
        axes.spines["top"].set_visible(False)
        if panels or axes is drawn.axes[0]:
            axes.spines["right"].set_visible(False)
            axes.grid(visible=True, alpha=0.25)
    if panels:
        drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
    else:
        drawn.axes[0].set_title(title, loc="left", fontsize=11)
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        drawn.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in PAGE_COLORS.items():
        text = text.replace(f": {color}", f": {variable}")
    return text
