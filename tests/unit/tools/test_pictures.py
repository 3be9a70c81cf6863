"""A run's course over its cost: what had been spent at a step, and what is drawn of its grafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.experiments import load

for name in ("plan", "rows", "comparing"):
    load(name)
pictures = load("pictures")


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
