"""The report's plots: whole SVG with labelled axes, a mark for each seed, and nothing that isn't a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest

from esper.tolaria.record.page import plots

SVG = "{http://www.w3.org/2000/svg}"
Events = list[dict[str, Any]]
RUN: Events = [{"kind": "run", "step": 0}]


def boundary(step: int, *seeds: tuple[str, str, float], **fields: Any) -> dict[str, Any]:
    shown = [{"seed_id": seed_id, "stage": stage, "alpha": alpha} for seed_id, stage, alpha in seeds]
    timings = {"step_ms": 1.0, "packet_ms": 0.1, "directives_ms": 0.0, "wait_ms": 0.2}
    told = {"loss": 2.0, "smoothed_loss": 1.5, "seeds": shown, "timings": timings}
    return {"kind": "boundary", "step": step, **told, **fields}


def moved(step: int, seed_id: str, to_stage: str) -> dict[str, Any]:
    return {"kind": "transition", "step": step, "seed_id": seed_id, "to_stage": to_stage}


def looked(seed_id: str, verdict: str, **fields: Any) -> dict[str, Any]:
    told = {"kind": "gate", "gate": "G4_SYSTEM_IMPACT", "seed_id": seed_id, "verdict": verdict, "look": 1}
    test = {"gain": 0.02, "standard_error": 0.005, "margin": 0.008, "z_threshold": 2.33}
    return {**told, **test, **fields}


GROWN: Events = [
    *RUN,
    boundary(10),
    moved(10, "s1", "GERMINATED"),
    moved(20, "s1", "BLENDING"),
    boundary(20, ("s1", "BLENDING", 0.5)),
    boundary(30, ("s1", "PROBATIONARY", 1.0)),
    looked("s1", "PASS", step=30),
    moved(40, "s1", "FOSSILIZED"),
    boundary(40, ("s1", "FOSSILIZED", 1.0)),
    moved(50, "s2", "BLENDING"),
    boundary(50, ("s1", "FOSSILIZED", 1.0), ("s2", "BLENDING", 0.5)),
    looked("s2", "FAIL", gain=-0.01, step=60),
    moved(60, "s2", "CULLED"),
    boundary(60, ("s1", "FOSSILIZED", 1.0), ("s2", "CULLED", 0.0)),
    moved(70, "s3", "BLENDING"),
    boundary(70, ("s1", "FOSSILIZED", 1.0), ("s2", "DORMANT", 0.0), ("s3", "BLENDING", 0.1)),
    {"kind": "epoch", "step": 70, "val_accuracy": 0.0, "val_loss": 1.75},
    {"kind": "finished", "step": 80},
]


def parsed(svg: str | None) -> ElementTree.Element:
    """The drawing, after making sure that it is one."""
    assert svg is not None
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    paths = [path.get("d", "") for path in root.iter(f"{SVG}path")]
    assert paths
    assert not re.search(r"nan|inf", "".join(paths), re.IGNORECASE)
    return root


def texts(svg: str | None) -> list[str]:
    return ["".join(found.itertext()).strip() for found in parsed(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (plots.loss_with_seeds, {"step", "loss", "accuracy on judging data", "training loss", "judging loss"}),
        (plots.alphas, {"step", "alpha", "s1", "s2", "s3"}),
        (plots.twin_gains, {"gain in judging score", "s1 look 1", "s2 look 1"}),
        (plots.step_times, {"step", "milliseconds a step", "packet", "directives", "wait"}),
    ],
)
def test_each_plot_is_whole_and_labelled(draw: Callable[[Sequence[Any]], str | None], labels: set[str]) -> None:
    assert labels <= set(texts(draw(GROWN)))


def test_each_seed_is_marked_with_its_fate() -> None:
    shown = texts(plots.loss_with_seeds(GROWN))
    assert [shown[place + 1] for place, text in enumerate(shown) if text in ("s1", "s2", "s3")] == [
        "kept",
        "culled",
        "undecided",
    ]


def test_a_life_lasts_from_the_graft_to_the_fate_or_to_the_end() -> None:
    assert [(life["seed_id"], life["start"], life["end"], life["fate"]) for life in plots.seed_lives(GROWN)] == [
        ("s1", 20, 40, "FOSSILIZED"),
        ("s2", 50, 60, "CULLED"),
        ("s3", 70, 70, ""),
    ]


def test_a_stack_lives_from_its_graft_though_it_never_blends() -> None:
    stages = [("GERMINATED", 10), ("SHADOWING", 20), ("PROBATIONARY", 20), ("CULLED", 60)]
    moves = [{"kind": "transition", "seed_id": "s1", "to_stage": stage, "step": step} for stage, step in stages]
    life = plots.seed_lives([*RUN, *moves])[0]
    assert (life["start"], life["end"], life["fate"]) == (20, 60, "CULLED")


def test_every_look_has_an_error_bar() -> None:
    root = parsed(plots.twin_gains(GROWN))
    # Whatever is drawn once for each look and each bar's two caps: matplotlib groups the bars by LineCollection.
    bars = [group for group in root.iter(f"{SVG}g") if re.fullmatch(r"LineCollection_\d+", group.get("id", ""))]
    assert len(bars) == 2 * 2  # a bar and the mark of what was asked for, for each look


@pytest.mark.parametrize("events", [[], RUN, [*RUN, {"kind": "finished", "step": 0}]])
def test_an_empty_run_has_axes_and_nothing_else(events: Events) -> None:
    assert "step" in texts(plots.loss_with_seeds(events))
    assert plots.alphas(events) is plots.twin_gains(events) is plots.step_times(events) is None
    assert plots.seed_lives(events) == []


def test_a_judgement_without_a_twin_draws_no_gain() -> None:
    muted = {"kind": "gate", "gate": "G4_SYSTEM_IMPACT", "seed_id": "s1", "verdict": "PASS", "step": 30}
    assert plots.twin_gains([*RUN, muted]) is None


@pytest.mark.parametrize("loss", [0.0, float("nan"), float("inf")])
def test_an_odd_loss_doesnt_spoil_the_plot(loss: float) -> None:
    events = [*RUN, boundary(10), boundary(20, loss=loss, smoothed_loss=loss), boundary(30)]
    assert "training loss" in texts(plots.loss_with_seeds(events))
    assert "training loss" in texts(plots.loss_with_seeds([*RUN, boundary(10, loss=loss, smoothed_loss=loss)]))


def test_without_accuracies_there_is_no_second_axis() -> None:
    events = [*RUN, boundary(10), {"kind": "epoch", "step": 10, "val_accuracy": None, "val_loss": 2.0}]
    assert "accuracy on judging data" not in texts(plots.loss_with_seeds(events))


def test_a_removed_seed_has_no_alpha_any_more() -> None:
    lives_on = [boundary(step, ("s1", "DORMANT", 0.0)) for step in range(30, 300, 10)]
    short = [*RUN, boundary(10, ("s1", "BLENDING", 1.0)), boundary(20, ("s1", "CULLED", 0.0))]

    def line(events: Events) -> str:
        return max((path.get("d", "") for path in parsed(plots.alphas(events)).iter(f"{SVG}path")), key=len)

    assert line([*short, *lives_on]).count("L") == line(short).count("L")


def test_a_seed_keeps_its_colour_in_every_plot() -> None:
    color = plots.seed_color("s1")
    assert color != plots.seed_color("s2")
    assert all(color in (draw(GROWN) or "") for draw in (plots.loss_with_seeds, plots.alphas, plots.twin_gains))


def test_the_same_events_give_the_same_drawing() -> None:
    assert plots.loss_with_seeds(GROWN) == plots.loss_with_seeds(list(GROWN))


@pytest.mark.parametrize("judged", [2.2959, 0.01, 1e6, float("nan"), float("inf")])
def test_a_judging_loss_that_was_measured_once_leaves_the_axes_their_room(judged: float) -> None:
    ended = {"kind": "epoch", "step": 18, "val_accuracy": 0.1, "val_loss": judged}
    events: Events = [*RUN, boundary(10, smoothed_loss=2.3606), boundary(18, smoothed_loss=2.3378), ended]
    assert "judging loss" in texts(plots.loss_with_seeds(events))


def test_judging_losses_below_the_training_losses_stay_in_the_picture() -> None:
    ended: Events = [{"kind": "epoch", "step": step, "val_loss": 1.0} for step in (20, 40)]
    losses: Events = [boundary(step, loss=2.0 + 0.01 * step) for step in (10, 20, 30, 40)]
    drawn = [label for label in texts(plots.loss_with_seeds([*RUN, *losses, *ended])) if re.fullmatch(r"[\d.]+", label)]
    assert "1.0" in drawn
