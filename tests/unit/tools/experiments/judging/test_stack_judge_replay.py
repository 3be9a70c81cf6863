"""The replay of judges on recorded grafts: what each keeps, what is fitted, and that the page says what it prints."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.kasmina.control.judge.stack_test import Evaluation
from tests.unit.tools.experiments.loading import JUDGING, load

recorded = load("recorded", JUDGING)
replay = load("stack_judge_replay", JUDGING)
PAGE = Path(__file__).parents[5] / "docs" / "results.md"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return dict(replay.study())


def counts(found: dict[str, Any], judge: str) -> dict[str, Any]:
    return next(row for row in found["counts"] if row["judge"] == judge)


def kept(found: dict[str, Any], judge: str) -> set[int]:
    return {row["number"] for row in found["series"] if row[judge]["kept"]}


def test_the_twin_rule_of_widths_keeps_one_recorded_stack_of_all_that_paid(found: dict[str, Any]) -> None:
    assert counts(found, "twin")["kept_of_paid"] == 1


def test_the_crude_rule_keeps_26_of_37_and_no_width_or_useless_zero_output(found: dict[str, Any]) -> None:
    assert len(kept(found, "crude")) == 26
    assert counts(found, "crude")["kept_of_useless"] == 0


def test_the_judge_keeps_as_many_that_paid_as_the_crude_rule_in_fewer_steps_and_nothing_useless(
    found: dict[str, Any],
) -> None:
    stack, crude = counts(found, "stack"), counts(found, "crude")
    assert stack["kept_of_paid"] >= crude["kept_of_paid"]
    assert stack["kept_of_useless"] == 0
    assert stack["twin_steps"] < crude["twin_steps"]


def test_a_fit_that_never_saw_the_run_judges_it_no_worse(found: dict[str, Any]) -> None:
    left_out = counts(found, "stack, wander of the other runs")
    assert left_out["kept_of_paid"] >= counts(found, "stack")["kept_of_paid"]
    assert left_out["kept_of_useless"] == 0


def test_what_the_judge_assumes_of_the_wander_covers_every_fit_that_leaves_a_run_out(found: dict[str, Any]) -> None:
    ranges, settings = found["wander_left_out"], found["settings"]
    assert ranges["share"][0] < settings["wander_share"] < ranges["share"][1] * 1.1
    assert settings["memory_steps"] >= ranges["memory_steps"][1]


def test_growth_is_behind_at_equal_flops_in_every_recorded_window(found: dict[str, Any]) -> None:
    assert all(row["gain_at_equal_flops"] < 0 for row in found["series"])


def test_the_fit_finds_the_share_and_memory_that_a_series_was_made_with() -> None:
    share, memory, spacing = 0.2, 20.0, 20
    state, rng = 0.0, random.Random(5)
    made = []
    for number, series in enumerate(recorded.load() * 12):
        evaluations = []
        for index in range(15):
            carried = math.exp(-spacing / memory)
            state = carried * state + math.sqrt(1 - carried**2) * rng.gauss(0.0, 1.0)
            gain = 0.01 + 1e-5 * index + share * state
            evaluations.append(
                Evaluation(
                    step=series.at + spacing * (index + 1), gain=gain, variance=1.0, samples=512,
                    clipped_share=0.0, twin_score=1.0,
                )
            )  # fmt: skip
        made.append(replace(series, number=number, evaluations=tuple(evaluations)))
    fit = replay.fit_wander(made)
    assert fit.share == pytest.approx(share, rel=0.15)
    assert fit.likely_memory[0] <= memory <= fit.likely_memory[1]


def test_the_page_of_results_says_what_the_replay_prints(found: dict[str, Any]) -> None:
    page = PAGE.read_text()
    for table in (replay.series_table(found["series"]), replay.count_table(found["counts"]), replay.fits(found)):
        for line in table.splitlines():
            assert line in page
