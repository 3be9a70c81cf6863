"""Experiments from plans: equal cost, nothing done twice, paired differences, and plans the launcher understands."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from esper.core.config import load as load_settings
from esper.tolaria.config import TrainConfig
from esper.tolaria.flags import given
from esper.tolaria.launcher import parser
from tests.unit.tools.experiments import FOLDER, load

load("texts")
run_plan = load("run_plan")
PLAN = """
about = "a host and what it grows into"
seeds = [1, 2]
common = ["--steps", "30"]
[arms.grown]
flags = ["--target-depth", "4"]
[arms.host]
cost_of = "grown"
"""


class Runner(run_plan.Runner):  # type: ignore[misc]
    """Notes what it would train."""

    trained: list[tuple[str, int, list[str]]]

    def _train(self, arm: str, seed: int, flags: Sequence[str]) -> dict[str, Any]:
        self.trained.append((arm, seed, list(flags)))
        grown = arm == "grown"
        names = ("steps", "final_parameters", "weights_digest")
        growth = {"germinated": int(grown), "judged": int(grown), "kept": int(grown)}
        return {
            **dict.fromkeys(names, 1),
            "test_loss": 1.0 + 0.1 * seed - 0.2 * grown,
            "training_macs": 600 * seed,
            "growth": growth,
            "seeds": [],
        }


def ran(plan: Any, out: Path, rows: Any) -> list[tuple[str, int, list[str]]]:
    runner = Runner(plan, out, rows, ["cpu"], ["--threads", "2"])
    runner.trained = []
    runner.run([(arm, seed) for seed in plan.seeds for arm in plan.arms])
    return runner.trained


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run_plan, "macs_of_step", lambda flags: 20)
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    return run_plan.read_plan(path)


def test_an_arm_of_equal_cost_makes_the_steps_that_the_other_one_paid_for(plan: Any, tmp_path: Path) -> None:
    trained = ran(plan, tmp_path, run_plan.Rows(tmp_path / "rows.jsonl"))
    assert [(arm, seed) for arm, seed, _ in trained] == [("grown", 1), ("grown", 2), ("host", 1), ("host", 2)]
    steps = [
        load_settings(
            TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given(parser().parse(flags))
        ).value.steps
        for _, _, flags in trained
    ]
    assert steps == [30, 30, 600 // 20, 1200 // 20]


def test_what_is_finished_is_not_trained_again(plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ran(plan, tmp_path, run_plan.Rows(path))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    again = ran(plan, tmp_path, run_plan.Rows(path))
    assert [(arm, seed) for arm, seed, _ in again] == [("host", 2)]
    assert len(path.read_text().splitlines()) == 4


def test_differences_are_paired_by_seed(plan: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(plan, tmp_path, rows)
    grown, host = run_plan.compared(plan, rows)
    assert "difference" not in grown
    assert host["difference"] == pytest.approx(-0.2)
    assert host["difference_95"] == pytest.approx(0.0, abs=1e-12)
    assert host["first_is_better"] == 2
    assert json.loads(json.dumps([grown, host])) == [grown, host]
    assert "| host | 2 | 1.1500 ± 0.0707 | -0.2000 ± 0.0000 | 2 of 2 |" in run_plan.table([grown, host])


def test_the_interval_is_students() -> None:
    mean, half = run_plan.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("cost_of", ["nobody", "host"])
def test_a_cost_that_nobody_has_is_refused(tmp_path: Path, cost_of: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(PLAN.replace('cost_of = "grown"', f'cost_of = "{cost_of}"'))
    with pytest.raises(SystemExit, match=f"arm host costs what '{cost_of}' costs"):
        run_plan.read_plan(path)


@pytest.mark.parametrize("path", sorted((FOLDER / "plans").glob("*.toml")), ids=lambda path: path.stem)
def test_the_launcher_understands_every_plan(path: Path, tmp_path: Path) -> None:
    plan = run_plan.read_plan(path)
    assert plan.about
    for arm in plan.arms:
        flags = parser().parse(plan.flags(arm, plan.seeds[0], tmp_path))
        settings = load_settings(TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given(flags)).value
        assert settings.steps
