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

from tests.unit.tools.experiments.loading import load

for name in ("plan", "rows", "frontier", "comparing", "labels"):
    load(name)
labels, pictures = sys.modules["labels"], load("pictures")
planning, rows_module, comparing = (sys.modules[name] for name in ("plan", "rows", "comparing"))


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


def test_the_first_fall_leaves_the_picture_and_forks_stay_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(pictures, "_saved", lambda drawn, title, path: saved.append(drawn) or path)
    spent = {step: step if step < 500 else 1000 * step for step in range(10, 900, 10)}
    falling = [{**boundary(step, macs), "loss": 90.0 if step < 20 else 2.0} for step, macs in spent.items()]
    pictures.course_picture("falls", falling, tmp_path / "course.png")
    (axes,) = saved[0].axes
    assert axes.get_ylim()[1] == pytest.approx(2.1, rel=0.1)
    twin = {**EVENTS[2], "losses": [50.0] * 10, "loss": 50.0}
    pictures.course_picture("forks", [*falling[:2], twin, EVENTS[3], *falling[2:]], tmp_path / "course.png")
    assert saved[1].axes[0].get_ylim()[1] >= 50.0


def test_a_run_that_never_told_its_cost_has_no_course(tmp_path: Path) -> None:
    events = [{key: value for key, value in event.items() if key != "training_macs"} for event in EVENTS]
    assert pictures.course_picture("old", events, tmp_path / "course.png") is None


def test_no_two_of_twenty_arms_share_a_colour_and_no_two_of_a_hundred_look_the_same() -> None:
    styles = [pictures._style(place) for place in range(100)]
    assert len({style["color"] for style in styles[:20]}) == 20
    assert len({(style["color"], style["marker"]) for style in styles}) == 100


STATIC = """
about = "two budgets of a static network, and what grows"
seeds = [1, 2]
common = []
[arms.grown]
[arms.static]
budgets = [100, 800]
[frontier]
arms = ["static@100", "static@800"]
"""


def drawn_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, seed_apart: float) -> Figure:
    """The cost picture of a grown arm of cost 200 beside static ones that lose 1.0 and 0.4; seed 2 lies apart."""
    (tmp_path / "static.toml").write_text(STATIC)
    plan = planning.read_plan(tmp_path / "static.toml")
    rows = rows_module.Rows(tmp_path / "rows.jsonl")
    for arm, cost, own in (("grown", 200, loss), ("static@100", 100, 1.0), ("static@800", 800, 0.4)):
        for seed in plan.seeds:
            figures = {"steps": 1, "final_parameters": 1, "wall_s": 1.0, "growth": {"kept": 0, "judged": 0}}
            found = own + seed_apart * (seed == 2)
            rows.add({"arm": arm, "seed": seed, "rate": None, "test_loss": found, "training_macs": cost, **figures})
    rates = dict.fromkeys(plan.arms)
    saved: list[Figure] = []
    monkeypatch.setattr(pictures, "_saved", lambda drawn, title, path: saved.append(drawn) or path)
    lines = list(comparing.compared(plan, rows, rates))
    assert pictures.cost_picture(plan, rows, rates, lines, tmp_path / "cost.png") is not None
    return saved[0]


def test_a_dotted_line_leads_to_what_the_frontier_costs_at_an_arms_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (axes,) = drawn_of(tmp_path, monkeypatch, 0.7, 0.0).axes
    (tie,) = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    # Half-way in the loss lies half-way in the logarithm of the cost.
    assert list(tie.get_xdata()) == pytest.approx([200, 100 * 8**0.5])
    assert list(tie.get_ydata()) == pytest.approx([0.7, 0.7])
    assert "grown (0.71 ± 0.00)" in {text.get_text() for text in axes.texts}


def test_a_loss_that_no_static_network_reached_is_tied_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn_of(tmp_path, monkeypatch, 0.3, 0.0).axes
    assert all(len(set(line.get_xdata())) < 2 for line in axes.lines if line.get_linestyle() == ":")


def test_what_a_seed_loses_in_every_arm_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn_of(tmp_path, monkeypatch, 0.7, 0.2).axes
    heights = [offset[1] for mark in axes.collections for offset in mark.get_offsets()]
    assert heights == pytest.approx([0.8, 0.8, 1.1, 1.1, 0.5, 0.5])
    assert "less what sets a seed apart" in axes.get_ylabel()


@pytest.mark.parametrize(("value", "told"), [(2e9, "2e9"), (5.0, "5"), (0.05, "0.05"), (0.005, "5e-3"), (1e15, "1e15")])
def test_ticks_are_said_shortly(value: float, told: str) -> None:
    assert pictures._tick(value, 0) == told


@given(points=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=12, unique=True))
@settings(max_examples=3)
def test_names_stand_beside_their_points_and_cover_no_other(points: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(9.5, 4.6))
    axes = figure.subplots()
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    labels.label(axes, {f"arm-{number}": (point, "black") for number, point in enumerate(points)})
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
    assert len(boxes) == len(points)
    for one, other in combinations(boxes, 2):
        assert labels._overlap(one, labels._extents([other])) < 1.0
    frame = axes.get_window_extent(renderer)
    assert all(labels._overlap(box, labels._extents([frame])) > 0.99 * box.width * box.height for box in boxes)
