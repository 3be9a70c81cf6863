"""The race of rules: pairs by seed and corpus, at equal steps and at equal cost, and the simplest within a bound."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.experiments.loading import FOLDER, GROWING, load

planning, rows_module = load("plan"), load("rows")
frontier = load("frontier")
load("comparing")
tables = load("race_table", GROWING)
race = load("race", GROWING)
TEXT = """
about = "three rules at two lengths"
seeds = [1, 2, 3, 4]
common = []
[arms.shares]
budgets = [100, 200]
[arms.knee]
budgets = [100, 200]
[arms.forecast]
budgets = [100, 200]
[arms.random]
budgets = [100, 200]
[arms.static]
budgets = [100, 200]
[frontier]
arms = ["static@100", "static@200"]
[race]
arms = ["shares", "knee", "forecast"]
control = "random"
"""
Made = tuple[Any, Any]


def made(
    tmp_path: Path,
    loss: Mapping[str, Callable[[int, int], float]],
    cost: Mapping[str, float],
    name: str = "small",
    skip: tuple[str, int] | None = None,
) -> Made:
    """A plan and its rows: the loss by seed and steps, the cost of a step; static ones lose 2 and 1, a MAC a step."""
    path = tmp_path / f"{name}.toml"
    path.write_text(TEXT)
    plan, rows = planning.read_plan(path), rows_module.Rows(tmp_path / f"{name}.jsonl")
    for arm in plan.arms:
        rule, steps = arm.split("@")
        for seed in plan.seeds:
            own = 3.0 - int(steps) / 100 if rule == "static" else loss[rule](seed, int(steps))
            figures = {"test_loss": own, "training_macs": cost.get(rule, 1.0) * int(steps)}
            if (arm, seed) != skip:
                growth = {"kept": 1, "judged": 2}
                rows.add({"arm": arm, "seed": seed, "rate": None, "growth": growth, **figures})
    return plan, rows


def flat(behind: float, spread: float = 0.0) -> Callable[[int, int], float]:
    """So far behind 1.5 nats, more or less by seed; what seeds and lengths have in common is large."""
    return lambda seed, steps: 1.5 + behind + spread * (-1) ** seed + 0.3 * seed - steps / 1000


EQUAL = {"shares": 1.0, "knee": 1.0, "forecast": 1.0, "random": 1.0}


def test_a_simpler_rule_is_picked_where_its_bound_lies_within_the_allowance(tmp_path: Path) -> None:
    losses = {"shares": flat(0.003, 0.001), "knee": flat(0.001), "forecast": flat(0.0), "random": flat(0.1)}
    told = race.raced([made(tmp_path, losses, EQUAL)])
    assert (told["best_steps"], told["picked_steps"]) == ("forecast", "shares")
    # Four pairs that differ by 0.002 and 0.004; Student's t of three degrees of freedom is 3.182.
    shares = told["rules"][0]["steps"]
    assert shares["pairs"] == 4
    half = 3.182 * math.sqrt(4 * 0.001**2 / 3) / 2
    assert shares["upper"] == pytest.approx(0.003 + half, rel=1e-3)
    assert told["control_steps"]["difference"] == pytest.approx(0.097)


def test_a_mean_within_the_allowance_is_not_enough(tmp_path: Path) -> None:
    losses = {"shares": flat(0.003, 0.004), "knee": flat(0.0041), "forecast": flat(0.0), "random": flat(0.1)}
    assert race.raced([made(tmp_path, losses, EQUAL)])["picked_steps"] == "knee"
    assert race.raced([made(tmp_path, losses, EQUAL, "more")], within=0.02)["picked_steps"] == "shares"


def test_at_equal_cost_a_rule_is_told_against_what_the_frontier_loses_for_as_much(tmp_path: Path) -> None:
    losses = {"shares": flat(0.0), "knee": flat(0.1), "forecast": flat(0.2), "random": flat(0.2)}
    cost = {"shares": 2.0, "knee": 1.0, "forecast": 1.0, "random": 1.0}
    told = race.raced([made(tmp_path, losses, cost)])
    # The frontier falls by one nat as its cost doubles: half the cost is worth one nat.
    knee, shares = told["rules"][1], told["rules"][0]
    assert (told["picked_steps"], told["picked_cost"]) == ("shares", "knee")
    assert shares["cost"]["difference"] == pytest.approx(0.9)
    assert knee["cost"] == {"pairs": 4, "difference": 0.0, "difference_95": 0.0, "upper": 0.0, "p": None}
    # shares@200 costs 400, which no static run did.
    assert told["outside_frontier"] == 4


def test_a_length_that_a_rule_has_not_run_counts_for_none(tmp_path: Path) -> None:
    losses = {"shares": lambda seed, steps: 5.0 if (seed, steps) == (2, 200) else 1.0, "knee": flat(0.5)}
    losses |= {"forecast": flat(0.6), "random": flat(0.7)}
    told = race.raced([made(tmp_path, losses, EQUAL, skip=("knee@200", 2))])
    assert (told["cells"], told["wanted"]) == (7, 8)
    assert told["rules"][0]["loss"] == 1.0
    assert "7 of 8 seeds and lengths were run by all rules; 1 are missing." in tables.table(told)


def test_a_missing_control_leaves_the_rules_their_pairs(tmp_path: Path) -> None:
    losses = {"shares": flat(0.0), "knee": flat(0.1), "forecast": flat(0.2), "random": flat(0.3)}
    told = race.raced([made(tmp_path, losses, EQUAL, skip=("random@100", 1))])
    assert told["cells"] == 8
    # The first seed has the longer run alone.
    assert told["control_steps"] == {
        "pairs": 4,
        "difference": pytest.approx(0.3),
        "difference_95": pytest.approx(0.0, abs=1e-9),
        "upper": pytest.approx(0.3),
        "p": pytest.approx(0.0, abs=1e-9),
    }


def test_each_seed_of_each_corpus_is_one_pair(tmp_path: Path) -> None:
    losses = {"shares": flat(0.01), "knee": flat(0.0), "forecast": flat(0.2), "random": flat(0.3)}
    told = race.raced([made(tmp_path, losses, EQUAL), made(tmp_path, losses, EQUAL, "other")])
    assert told["rules"][0]["steps"]["pairs"] == 8
    assert [(line["plan"], line["budget"]) for line in told["by_length"]][::4] == [
        ("small", "100"),
        ("small", "200"),
        ("other", "100"),
        ("other", "200"),
    ]
    assert json.loads(json.dumps(told)) == told


def test_without_a_frontier_nothing_is_told_at_equal_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TEXT", TEXT.replace('arms = ["static@100", "static@200"]', "arms = []"))
    losses = {"shares": flat(0.0), "knee": flat(0.1), "forecast": flat(0.2), "random": flat(0.3)}
    told = race.raced([made(tmp_path, losses, EQUAL)])
    assert (told["picked_steps"], told["picked_cost"]) == ("shares", None)
    assert "**At equal cost**: nothing can be told" in tables.table(told)


def test_one_seed_shows_no_bound_so_only_the_best_can_be_picked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TEXT", TEXT.replace("[1, 2, 3, 4]", "[1]"))
    losses = {"shares": flat(0.0001), "knee": flat(0.0), "forecast": flat(0.2), "random": flat(0.3)}
    told = race.raced([made(tmp_path, losses, EQUAL)])
    assert told["picked_steps"] == "knee"
    assert "nan" not in tables.table(told)


def test_plans_that_race_other_rules_are_refused(tmp_path: Path) -> None:
    losses = {"shares": flat(0.0), "knee": flat(0.1), "forecast": flat(0.2), "random": flat(0.3)}
    one = made(tmp_path, losses, EQUAL)
    (tmp_path / "other.toml").write_text(TEXT.replace('["shares", "knee", "forecast"]', '["shares", "knee"]'))
    other = planning.read_plan(tmp_path / "other.toml")
    with pytest.raises(SystemExit, match=r"other races .*; expected the same rules in one race"):
        race.raced([one, (other, one[1])])
    with pytest.raises(SystemExit, match="no seed and length was run by all of shares, knee, forecast"):
        race.raced([(one[0], rows_module.Rows(tmp_path / "none.jsonl"))])
    with pytest.raises(SystemExit, match="the plan digits_quick has no rules to race"):
        race.race_of(planning.read_plan(FOLDER / "plans" / "digits_quick.toml"))


@pytest.mark.parametrize(("cost", "loss"), [(100, 2.0), (200, 1.0), (100 * 2**0.5, 1.5), (50, 3.0), (400, 0.0)])
def test_between_its_budgets_a_frontiers_loss_is_linear_in_the_logarithm_of_the_cost(cost: float, loss: float) -> None:
    assert frontier.loss_at([(100, 2.0), (200, 1.0)], cost) == pytest.approx(loss)
    assert frontier.loss_at([(100, 2.0)], cost) is None


def test_each_piece_of_a_frontier_has_its_own_slope() -> None:
    points = [(100, 2.0), (200, 1.0), (400, 0.8)]
    assert frontier.loss_at(points, 200 * 2**0.5) == pytest.approx(0.9)
    assert frontier.loss_at(points, 200) == pytest.approx(1.0)
    assert frontier.cost_at(points, 0.9) == pytest.approx(200 * 2**0.5)
