"""Settings of growth compared over small tasks: which is affordable, which the best, which the simplest close to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.experiments.loading import FOLDER, GROWING, load

load("texts")
planning, rows_module = load("plan"), load("rows")
load("frontier")
load("comparing")
load("launching")
load("run_plan")
small = load("small_settings", GROWING)
TEXT = """
about = "two settings beside two sizes"
seeds = [1, 2]
score = "accuracy"
common = []
[arms.grown]
[arms.defaults]
[arms.small]
[arms.large]
[sweep]
arms = ["small", "large"]
[settings]
seeds = [1, 2, 3, 4]
arms = { "+8" = "defaults", "x4" = "grown" }
"""
Made = tuple[Any, Any]


def made(
    tmp_path: Path,
    accuracy: Mapping[str, Sequence[float]],
    cost: Mapping[str, float] | None = None,
    name: str = "task",
    text: str = TEXT,
) -> Made:
    """A plan and its rows: settings' accuracies by seed; sizes have 0.7 and 0.9, and the sweep of both costs 100."""
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    plan, rows = planning.read_plan(path), rows_module.Rows(tmp_path / f"{name}.jsonl")
    macs = {"small": 20.0, "large": 80.0, "grown": 40.0, "defaults": 10.0} | dict(cost or {})
    sizes = {"small": [0.7] * 2, "large": [0.9] * 2}
    for arm, found in {**sizes, **accuracy}.items():
        for seed, score in enumerate(found, start=1):
            figures = {"test_accuracy": score, "val_accuracy": score, "val_loss": 1.0, "training_macs": macs[arm]}
            rows.add({"arm": arm, "seed": seed, "rate": None, "growth": {"kept": 1, "judged": 2}, **figures})
    return plan, rows


def by_setting(told: Mapping[str, Any]) -> dict[str, Any]:
    return {line["setting"]: line for line in told["lines"]}


def test_the_simplest_setting_is_picked_that_is_surely_within_the_margin(tmp_path: Path) -> None:
    told = small.compared([made(tmp_path, {"defaults": [0.899, 0.909, 0.919], "grown": [0.90, 0.91, 0.92]})])
    lines = by_setting(told)
    assert lines["x4"]["is_best"]
    assert lines["+8"]["behind_best"]["difference"] == pytest.approx(0.1)
    assert told["picked"] == "+8"
    assert "**+8**" in small.table(told)


def test_a_setting_that_is_only_on_average_within_the_margin_is_passed_over(tmp_path: Path) -> None:
    told = small.compared([made(tmp_path, {"defaults": [0.88, 0.92, 0.92], "grown": [0.90, 0.91, 0.92]})])
    assert by_setting(told)["+8"]["behind_best"]["difference"] == pytest.approx(0.333, abs=1e-3)
    assert told["picked"] == "x4"


def test_a_setting_must_be_good_enough_on_every_task(tmp_path: Path) -> None:
    plans = [
        made(tmp_path, {"defaults": [0.8, 0.8], "grown": [0.9, 0.9]}, name="one"),
        made(tmp_path, {"defaults": [0.9, 0.9], "grown": [0.8, 0.8]}, name="other"),
    ]
    told = small.compared(plans)
    assert told["picked"] is None
    assert "**none**" in small.table(told)


def test_a_setting_that_costs_too_much_of_the_sweep_is_neither_best_nor_picked(tmp_path: Path) -> None:
    told = small.compared([made(tmp_path, {"defaults": [0.8, 0.8], "grown": [0.9, 0.9]}, cost={"grown": 41.0})])
    lines = by_setting(told)
    assert not lines["x4"]["is_affordable"]
    assert lines["+8"]["is_best"]
    assert told["picked"] == "+8"


def test_of_one_seed_nothing_is_sure(tmp_path: Path) -> None:
    told = small.compared([made(tmp_path, {"defaults": [0.9], "grown": [0.9001]})])
    assert told["picked"] == "x4"
    assert by_setting(told)["+8"]["behind_best"]["upper"] is None


def test_settings_are_paired_by_the_seeds_that_all_have_and_held_against_the_sweep_by_all_they_share(
    tmp_path: Path,
) -> None:
    told = small.compared([made(tmp_path, {"defaults": [0.8, 0.8, 0.8, 0.8], "grown": [0.9, 0.9, 0.9]})])
    lines = by_setting(told)
    assert {name: line["runs"] for name, line in lines.items()} == {"+8": 3, "x4": 3}
    assert lines["+8"]["behind_sweep"]["pairs"] == 2
    assert lines["+8"]["behind_sweep"]["difference"] == pytest.approx(10.0)


def test_plans_that_name_other_settings_or_none_are_told_apart(tmp_path: Path) -> None:
    scores = {"defaults": [0.9, 0.9], "grown": [0.9, 0.9]}
    plans = [made(tmp_path, scores), made(tmp_path, scores, name="other", text=TEXT.replace('"x4"', '"x2"'))]
    with pytest.raises(SystemExit, match=r"other has the settings \['\+8', 'x2'\]; expected \['\+8', 'x4'\], as task"):
        small.compared(plans)
    with pytest.raises(SystemExit, match="no settings to compare"):
        small.settings_of(planning.read_plan(FOLDER / "plans" / "digits_race.toml"))


def test_a_plan_whose_settings_name_no_arm_or_choose_a_rate_by_their_own_seeds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(TEXT.replace('"x4" = "grown"', '"x4" = "none"'))
    with pytest.raises(SystemExit, match="'none' is to be compared"):
        planning.read_plan(path)
    path.write_text(TEXT.replace("common = []", "common = []\ntuning_seeds = [4]"))
    with pytest.raises(SystemExit, match=r"seeds \[4\] would choose rates and report them"):
        planning.read_plan(path)


def test_rows_are_compared_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, {"defaults": [0.9, 0.9], "grown": [0.9, 0.9]})
    (tmp_path / "task").mkdir()
    (tmp_path / "task.jsonl").rename(tmp_path / "task" / "rows.jsonl")
    monkeypatch.setattr(sys, "argv", ["small_settings.py", str(tmp_path / "task.toml"), "--out", str(tmp_path)])
    assert small.main() == 0
    assert "Picked, the simplest within 0.5 points of the best on every task: **+8**." in capsys.readouterr().out
