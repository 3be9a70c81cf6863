"""A run's course over its cost: what had been spent at a step, and what is drawn of its grafts."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.unit.tools.experiments import load

for name in ("plan", "rows", "frontier", "comparing", "labels"):
    load(name)
labels, pictures = sys.modules["labels"], load("pictures")


def boundary(step: int, macs: int) -> dict[str, Any]:
    return {"kind": "boundary", "step": step, "loss": 1.0 / step, "training_macs": macs}


EVENTS = [
    boundary(10, 100),
    boundary(20, 300),
    {"kind": "twin", "seed_id": "s1", "from_step": 11, "step": 20, "losses": [0.2] * 10, "loss": 0.2},
    {"kind": "transition", "seed_id": "s1", "to_stage": "FOSSILIZED", "step": 20},
    boundary(30, 450),
]


@pytest.mark.parametrize(("step", "spent"), [(0, 0), (5, 50), (10, 100), (15, 200), (30, 450), (40, 450)])
def test_what_was_spent_is_linear_between_boundaries(step: int, spent: float) -> None:
    assert pictures._spent(step, [(10, 100), (20, 300), (30, 450)]) == spent


def test_a_graft_and_its_twin_are_drawn_over_what_they_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(pictures, "_saved", lambda drawn, title, path: saved.append(drawn) or path)
    assert pictures.course_picture("grown-1", EVENTS, tmp_path / "course.png") == tmp_path / "course.png"
    (axes,) = saved[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["s1's twin"].get_xdata()) == [100, 300]
    assert "s1, kept" in lines
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [100]


def test_a_run_that_never_told_its_cost_has_no_course(tmp_path: Path) -> None:
    events = [{key: value for key, value in event.items() if key != "training_macs"} for event in EVENTS]
    assert pictures.course_picture("old", events, tmp_path / "course.png") is None


def test_no_two_of_twenty_arms_share_a_colour_and_no_two_of_a_hundred_look_the_same() -> None:
    styles = [pictures._style(place) for place in range(100)]
    assert len({style["color"] for style in styles[:20]}) == 20
    assert len({(style["color"], style["marker"]) for style in styles}) == 100


@given(points=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=12, unique=True))
@settings(max_examples=3, deadline=None)
def test_names_stand_beside_their_points_and_cover_no_other(points: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(9.5, 4.6))
    axes = figure.subplots()
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    labels.label(axes, {f"arm-{number}": (point, "black") for number, point in enumerate(points)})
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
    assert len(boxes) == len(points)
    for one, other in combinations(boxes, 2):
        assert labels._overlap(one, other) < 1.0
    frame = axes.get_window_extent(renderer)
    assert all(labels._overlap(box, frame) > 0.99 * box.width * box.height for box in boxes)
