"""The report's plots of forks and of a stack's evaluations."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from esper.tolaria.record.page import forks, plots
from esper.tolaria.record.page.curves import curves
from esper.tolaria.record.page.drawing import seed_color
from tests.unit.tolaria.record.page.test_curves import boundary, forked, moved, twin

Events = list[dict[str, Any]]


def texts(svg: str | None) -> list[str]:
    assert svg is not None
    root = ElementTree.fromstring(svg)
    assert not re.search(r"nan|inf", " ".join(path.get("d", "") for path in root.iter()), re.IGNORECASE)
    return ["".join(found.itertext()).strip() for found in root.iter() if found.tag.endswith("}text")]


def evaluated(step: int, gain: float = 0.01, seed_id: str = "s1") -> dict[str, Any]:
    scores = {"twin_score": 2.0, "grown_score": 2.0 - gain, "samples": 512, "clipped_share": 0.004}
    return {"kind": "evaluation", "step": step, "seed_id": seed_id, "gain": gain, "standard_error": 0.001, **scores}


def looked(step: int, z: float, verdict: str, **fields: Any) -> dict[str, Any]:
    test = {"look": 1, "graft_step": 20, "margin": 0.002, "z_threshold": 2.366, "gain": 0.01, "standard_error": 0.004}
    errors = {"document_error": 0.001, "wander_error": 0.0039}
    gate = {"kind": "gate", "gate": "G4_SYSTEM_IMPACT", "seed_id": "s1", "step": step, "verdict": verdict, "z": z}
    return {**gate, **test, **errors, **fields}


STACK: Events = [
    *forked("CULLED"),
    *(evaluated(step) for step in (33, 36, 38, 40)),
    looked(36, 1.237, "EXTEND"),
    looked(40, -0.5, "FAIL"),
]


def test_each_fork_is_named_with_its_verdict_and_drawn_in_its_seeds_colour() -> None:
    shown = forks.forks(curves(STACK))
    assert {"s1: culled at step 40", "twin, never grafted", "with the seed"} <= set(texts(shown))
    assert seed_color("s1") in (shown or "")
    assert "s1: kept at step 40" in texts(forks.forks(curves(forked("FOSSILIZED"))))
    assert "s1: undecided at step 40" in texts(forks.forks(curves(forked(""))))


def test_the_loss_plot_has_both_branches_of_an_undone_stack() -> None:
    """In the window the trunk is not drawn, but the two branches; the grown one stays after the twin was installed."""
    shown = plots.loss_with_seeds([*STACK, moved(20, "SHADOWING"), moved(40, "CULLED")])
    assert "twin, never grafted" in texts(shown)
    colored = [path for path in re.findall(r"<path [^>]*>", shown) if f"stroke: {seed_color('s1')}" in path]
    assert any("stroke-dasharray" not in path for path in colored)
    assert "twin, never grafted" not in texts(plots.loss_with_seeds([boundary(10, 1.0), boundary(20, 1.0)]))


def test_each_look_is_marked_with_its_z_beside_the_bar_and_both_errors() -> None:
    shown = texts(forks.evaluations(STACK, curves(STACK)))
    assert {"z 1.2 of 2.4: go on", "z -0.5 of 2.4: undo", "s1: gain over its twin"} <= set(shown)
    assert {"evaluation", "margin", "look, documents' error", "its error by wander"} <= set(shown)


def test_looks_at_stacks_are_not_drawn_as_looks_at_widths() -> None:
    assert plots.twin_gains(STACK) is None


@pytest.mark.parametrize("gain", [float("nan"), float("inf")])
def test_an_evaluation_without_a_number_is_left_out(gain: float) -> None:
    assert forks.evaluations([evaluated(30, gain)], curves([])) is None
    events = [evaluated(30, gain), evaluated(31)]
    assert "s1: gain over its twin" in texts(forks.evaluations(events, curves(events)))


def test_without_twins_and_stacks_there_are_no_such_plots() -> None:
    events = [boundary(10, 1.0)]
    assert forks.forks(curves(events)) is forks.evaluations(events, curves(events)) is None


def test_of_many_forks_the_last_are_drawn_and_the_title_says_so() -> None:
    events: Events = []
    for number in range(1, 12):
        events += [boundary(10 * number, 1.0), twin(10 * number - 4, [2.0] * 5, f"s{number}")]
    shown = texts(forks.forks(curves(events)))
    assert "Training loss with each seed and without, the last 8 of 11" in shown
    assert "s4: undecided at step 40" in shown
    assert "s3: undecided at step 30" not in shown


def test_a_page_of_a_very_long_run_stays_small() -> None:
    events = [boundary(step, 1.0 + step % 7) for step in range(10, 200_001, 10)]
    events += [twin(50_001, [1.0 + step % 5 for step in range(20_000)]), moved(70_000, "CULLED")]
    found = curves(events)
    assert len(plots.loss_with_seeds(events, found)) < 150_000
    assert len(forks.forks(found) or "") < 100_000
