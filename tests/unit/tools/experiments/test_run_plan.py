"""Experiments from plans: equal cost, nothing done twice, paired differences, and plans the launcher understands."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from esper.core.settings.config import load as load_settings
from esper.tolaria.config import TrainConfig
from esper.tolaria.flags import given
from esper.tolaria.launcher import parser
from tests.unit.tools.experiments.loading import FOLDER, load

load("texts")
planning, rows_module = load("plan"), load("rows")
load("frontier")
comparing = load("comparing")
by_seed = load("by_seed")
launching = load("launching")
load("labels")
pictures = load("pictures")
run_plan = load("run_plan")
Run = planning.Run
PLAN = """
about = "a host and what it grows into"
seeds = [1, 2]
common = ["--steps", "30"]
[arms.grown]
flags = ["--target-depth", "4"]
[arms.host]
cost_of = "grown"
"""
SWEEP = """
about = "two sizes, and what grows from the smaller one"
seeds = [1, 2]
score = "accuracy"
rates = [0.001, 0.01]
tuning_seeds = [8, 9]
common = ["--steps", "40"]
[arms.grown]
flags = ["--hidden", "4,4"]
[arms.small]
flags = ["--hidden", "4,4", "--grow", "never"]
[arms.large]
flags = ["--hidden", "8,8", "--grow", "never"]
[arms.small-longer]
flags = ["--hidden", "4,4", "--grow", "never"]
cost_of = "grown"
rate_of = "small"
[arms.rival]
made_by = "rival.py"
rates = []
[sweep]
arms = ["small", "large"]
rungs = [0.5]
"""
FRONTIER = """
about = "two budgets of a static network, and what grows"
seeds = [1]
common = []
[arms.grown]
[arms.static]
budgets = [100, 800]
[frontier]
arms = ["static@100", "static@800"]
"""
RULES = """
about = "two rules at two budgets"
seeds = [1]
common = []
[arms.early]
budgets = [10, 20]
against = "early"
[arms.late]
budgets = [10, 20]
against = "early"
"""
ACCURACY = {"grown": 0.95, "small": 0.90, "large": 0.96, "small-longer": 0.91}
COST = {"grown": 400, "small": 100, "large": 800, "small-longer": 400}


class Runner(run_plan.Runner):  # type: ignore[misc]
    """Notes what it would train."""

    trained: list[tuple[Any, list[str]]]

    def _train(self, run: Any, flags: Sequence[str]) -> Any:
        self.trained.append((run, list(flags)))
        grown = run.arm == "grown"
        growth = {"germinated": int(grown), "judged": int(grown), "kept": int(grown)}
        accuracy = ACCURACY.get(run.arm, 0.5) + 0.01 * (run.rate == 0.01) * (run.arm != "grown")
        cost = COST.get(run.arm)
        summary = {
            "steps": 40,
            "final_parameters": 1,
            "test_loss": 1.0 + 0.1 * run.seed - 0.2 * grown,
            "val_loss": 1.0,
            "test_accuracy": accuracy,
            "val_accuracy": accuracy,
            "training_macs": 600 * run.seed if cost is None or "host" in self._plan.arms else cost,
            "growth": growth,
            "seeds": [],
        }
        early = {"kind": "epoch", "step": 20, "val_loss": 2.0, "val_accuracy": 0.5 + 0.1 * (run.arm == "small")}
        return run_plan.Trained(summary, [{"kind": "epoch", "step": 10}, early, {**early, "step": 40}])


def ran(plan: Any, out: Path, rows: Any) -> list[tuple[Any, list[str]]]:
    runner = Runner(plan, out, rows, launching.Places("cpu", 1), ["--threads", "2"])
    runner.trained = []
    runner.run(list(plan.arms), plan.seeds)
    return runner.trained


def written(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "small.toml"
    path.write_text(text)
    return planning.read_plan(path)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run_plan, "macs_of_step", lambda flags: 20)
    return written(tmp_path, PLAN)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run_plan, "macs_of_step", lambda flags: 20)
    return written(tmp_path, SWEEP)


def test_an_arm_of_equal_cost_makes_the_steps_that_the_other_one_paid_for(plan: Any, tmp_path: Path) -> None:
    trained = ran(plan, tmp_path, run_plan.Rows(tmp_path / "rows.jsonl"))
    assert [run[:2] for run, _ in trained] == [("grown", 1), ("grown", 2), ("host", 1), ("host", 2)]
    steps = [
        load_settings(
            TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given(parser().parse(flags))
        ).value.steps
        for _, flags in trained
    ]
    assert steps == [30, 30, 600 // 20, 1200 // 20]


def test_what_is_finished_is_not_trained_again(plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ran(plan, tmp_path, run_plan.Rows(path))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    again = ran(plan, tmp_path, run_plan.Rows(path))
    assert [run for run, _ in again] == [Run("host", 2, None)]
    assert len(path.read_text().splitlines()) == 4


def test_a_line_that_was_cut_short_is_trained_again_and_harms_no_other(plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ran(plan, tmp_path, run_plan.Rows(path))
    path.write_bytes(path.read_bytes()[:-20])
    again = ran(plan, tmp_path, run_plan.Rows(path))
    assert [run for run, _ in again] == [Run("host", 2, None)]
    assert len(run_plan.Rows(path)) == 4


def test_an_arms_rate_is_chosen_by_the_judging_data_of_other_seeds(sweep: Any, tmp_path: Path) -> None:
    trained = ran(sweep, tmp_path, run_plan.Rows(tmp_path / "rows.jsonl"))
    tuned = {run.arm for run, _ in trained if run.seed in sweep.tuning_seeds}
    assert tuned == {"grown", "small", "large"}
    rates = {run.arm: run.rate for run, _ in trained if run.seed in sweep.seeds}
    assert rates == {"grown": 0.001, "small": 0.01, "large": 0.01, "small-longer": 0.01}
    assert all(flags[flags.index("--lr") + 1] == f"{run.rate:g}" for run, flags in trained)


def test_a_sweep_pays_for_all_sizes_and_takes_the_one_that_judging_data_prefer(sweep: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    lines = {line["arm"]: line for line in comparing.compared(sweep, rows, run_plan.chosen_rates(sweep, rows))}
    swept = lines["sweep, best by judging data"]
    assert (swept["score"], swept["training_macs"]) == (pytest.approx(97.0), 900)
    assert swept["difference"] == pytest.approx(95.0 - 97.0)
    assert swept["first_costs"] == pytest.approx(400 / 900)


def test_halving_gives_up_what_looks_worse_at_the_rung_and_pays_only_until_then(sweep: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    lines = {line["arm"]: line for line in comparing.compared(sweep, rows, run_plan.chosen_rates(sweep, rows))}
    halved = lines["successive halving"]
    assert (halved["score"], halved["training_macs"]) == (pytest.approx(91.0), 100 + 800 / 2)


@pytest.mark.parametrize(("loss", "share"), [(1.0, 4.0), (0.7, 2.0), (0.4, 0.5), (0.3, 0.5), (1.1, None)])
def test_a_loss_is_held_against_what_the_frontier_costs_there(tmp_path: Path, loss: float, share: float | None) -> None:
    plan, rows = written(tmp_path, FRONTIER), run_plan.Rows(tmp_path / "rows.jsonl")
    for arm, cost, own in (("grown", 400, loss), ("static@100", 100, 1.0), ("static@800", 800, 0.4)):
        figures = {"steps": 1, "final_parameters": 1, "wall_s": 1.0, "growth": {"kept": 0, "judged": 0}}
        rows.add({"arm": arm, "seed": 1, "rate": None, "test_loss": own, "training_macs": cost, **figures})
    grown, *static = comparing.compared(plan, rows, run_plan.chosen_rates(plan, rows))
    # Half-way in the loss lies half-way in the logarithm of the cost.
    expected = share if share != 2.0 else 400 / (100 * 8**0.5)
    assert grown.get("share_of_frontier") == (None if expected is None else pytest.approx(expected))
    assert grown.get("share_of_frontier_95") is None
    json.dumps([grown, *static], allow_nan=False)
    assert not any("share_of_frontier" in line for line in static)


def test_rows_that_another_script_made_are_compared_and_not_trained(sweep: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    trained = ran(sweep, tmp_path, run_plan.Rows(path))
    assert "rival" not in {run.arm for run, _ in trained}
    rows = run_plan.Rows(path)
    rival = {**rows.get(Run("grown", 1, 0.001)), "arm": "rival", "rate": None, "test_accuracy": 0.9}
    rows.add(rival)
    lines = {line["arm"]: line for line in comparing.compared(sweep, rows, run_plan.chosen_rates(sweep, rows))}
    assert (lines["rival"]["runs"], lines["rival"]["difference"]) == (1, pytest.approx(5.0))


def test_the_pictures_are_drawn(sweep: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    rates = run_plan.chosen_rates(sweep, rows)
    lines = list(comparing.compared(sweep, rows, rates))
    assert [path.name for path in run_plan.draw(sweep, rows, rates, lines, tmp_path)] == ["cost.png"]
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_table_has_no_pictures_and_one_line_says_so(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    monkeypatch.delitem(sys.modules, "pictures")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run_plan.draw(sweep, rows, run_plan.chosen_rates(sweep, rows), [], tmp_path) == []
    assert capsys.readouterr().err == "no pictures are drawn: matplotlib is not installed; pip install matplotlib\n"


def test_a_course_is_titled_by_what_it_shows(sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(pictures, "course_picture", lambda title, events, path: titles.append(title))
    rows = rows_module.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    rates = run_plan.chosen_rates(sweep, rows)
    folder = tmp_path / Run("grown", 1, rates["grown"]).name
    folder.mkdir()
    (folder / "events.jsonl").touch()
    run_plan.draw(sweep, rows, rates, [], tmp_path)
    assert titles == ["two sizes, and what grows from the smaller one: grown, seed 1"]


def test_differences_are_paired_by_seed(plan: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(plan, tmp_path, rows)
    grown, host = comparing.compared(plan, rows, run_plan.chosen_rates(plan, rows))
    assert "difference" not in grown
    assert host["difference"] == pytest.approx(-0.2)
    assert host["difference_95"] == pytest.approx(0.0, abs=1e-12)
    assert host["first_is_better"] == 2
    assert json.loads(json.dumps([grown, host])) == [grown, host]
    assert "| host | 2 | 1.1500 ± 0.0707 | -0.2000 ± 0.0000 |" in comparing.table(plan, [grown, host])


def test_the_interval_is_students() -> None:
    mean, half = comparing.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_a_mean_far_from_zero_has_a_small_p() -> None:
    assert comparing.p_value([1.0, 1.1, 0.9]) == pytest.approx(0.0033, rel=0.02)
    assert comparing.p_value([1.0]) is None
    assert comparing.p_value([1.0, 1.0]) is None
    assert [comparing.chance(p) for p in (None, 0.0033, 0.0)] == ["-", "0.0033", "< 1e-15"]


@pytest.mark.parametrize("cost_of", ["nobody", "host"])
def test_a_cost_that_nobody_has_is_refused(tmp_path: Path, cost_of: str) -> None:
    with pytest.raises(SystemExit, match=f"arm host costs what '{cost_of}' costs"):
        written(tmp_path, PLAN.replace('cost_of = "grown"', f'cost_of = "{cost_of}"'))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("tuning_seeds = [8, 9]", ""), "expected tuning_seeds to choose them by"),
        (("tuning_seeds = [8, 9]", "tuning_seeds = [2, 8]"), r"seeds \[2\] would choose rates and report them"),
        (('score = "accuracy"', 'score = "speed"'), "score = 'speed'; expected one of loss, accuracy"),
        (("[sweep]\n", "[frontier]\n"), "a frontier needs score = 'loss'"),
        (('rate_of = "small"', 'rate_of = "rival"'), "has the rate of 'rival'; expected an arm with rates"),
        (('arms = ["small", "large"]', 'arms = ["tiny"]'), "'tiny' is to be compared; expected one of the arms"),
        (("[sweep]", '[race]\narms = ["tiny"]\n[sweep]'), "'tiny' is to race; expected the name of an arm"),
        (("[sweep]", '[race]\narms = ["small"]\n[sweep]'), "'small' is to race with rates to choose from"),
    ],
)
def test_a_plan_that_cant_be_run_is_refused_in_words(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        written(tmp_path, SWEEP.replace(*change))


def test_a_budget_makes_an_arm(tmp_path: Path) -> None:
    plan = written(tmp_path, PLAN + "[arms.static]\nbudgets = [10, 20]\n")
    assert list(plan.arms) == ["grown", "host", "static@10", "static@20"]
    assert plan.arms["static@20"].flags == ("--steps", "20")


def test_an_arm_is_held_against_another_one_of_its_budget(tmp_path: Path) -> None:
    plan, rows = written(tmp_path, RULES), run_plan.Rows(tmp_path / "rows.jsonl")
    for place, arm in enumerate(plan.arms):
        figures = {"steps": 1, "final_parameters": 1, "wall_s": 1.0, "growth": {"kept": 0, "judged": 0}}
        rows.add({"arm": arm, "seed": 1, "rate": None, "test_loss": 2.0**place, "training_macs": 1, **figures})
    lines = {line["arm"]: line for line in comparing.compared(plan, rows, run_plan.chosen_rates(plan, rows))}
    assert (lines["late@10"]["difference"], lines["late@20"]["difference"]) == (1 - 4, 2 - 8)
    assert "difference" not in lines["early@20"]
    assert "arm held against - this" in comparing.table(plan, list(lines.values()))
    with pytest.raises(SystemExit, match="arm early@10 is held against 'nobody@10'; expected one of the arms early@10"):
        written(tmp_path, RULES.replace('"early"', '"nobody"'))


def test_time_without_start_up_is_drawn_out_to_all_steps_and_has_a_share_of_its_own(tmp_path: Path) -> None:
    def boundary(step: int, seconds: float) -> dict[str, Any]:
        return {"kind": "boundary", "step": step, "time": f"2026-11-30T00:00:{seconds:06.3f}+00:00"}

    events = [boundary(10, 30.0), boundary(20, 31.0), boundary(60, 35.0), {"kind": "epoch", "step": 60}]
    assert rows_module.trained_s(events) == pytest.approx(4.0 * 60 / 40)
    assert rows_module.trained_s(events[:1]) is None
    plan, rows = written(tmp_path, FRONTIER), run_plan.Rows(tmp_path / "rows.jsonl")
    for arm, cost, loss in (("grown", 8.0, 0.4), ("static@100", 2.0, 1.0), ("static@800", 16.0, 0.4)):
        figures = {"steps": 1, "final_parameters": 1, "wall_s": 1.0, "growth": {"kept": 0, "judged": 0}}
        rows.add(
            {"arm": arm, "seed": 1, "rate": None, "test_loss": loss, "training_macs": 1, "trained_s": cost, **figures}
        )
    grown, *_ = comparing.compared(plan, rows, run_plan.chosen_rates(plan, rows))
    assert grown["share_of_frontiers_time"] == pytest.approx(0.5)
    assert grown["share_of_frontiers_time_p"] is None


@pytest.mark.parametrize("path", sorted((FOLDER / "plans").glob("*.toml")), ids=lambda path: path.stem)
def test_the_launcher_understands_every_plan(path: Path, tmp_path: Path) -> None:
    plan = planning.read_plan(path)
    assert plan.about
    for name, arm in plan.arms.items():
        rate = arm.rates[0] if arm.rates else None
        flags = parser().parse([*plan.flags(Run(name, plan.seeds[0], rate), tmp_path), "--device", "cuda"])
        settings = load_settings(TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given(flags)).value
        assert settings.steps or settings.epochs


def test_any_arm_may_be_what_the_others_are_compared_with(sweep: Any, tmp_path: Path) -> None:
    rows = run_plan.Rows(tmp_path / "rows.jsonl")
    ran(sweep, tmp_path, rows)
    asked = planning.compared_otherwise(sweep, against="small", frontier=(), seeds=(1,))
    lines = {line["arm"]: line for line in comparing.compared(asked, rows, run_plan.chosen_rates(asked, rows))}
    own = comparing.scores(sweep, {1: rows.get(Run("small", 1, lines["small"]["rate"]))})[1]
    assert "difference" not in lines["small"]
    assert (lines["grown"]["pairs"], lines["grown"]["difference"]) == (1, pytest.approx(own - lines["grown"]["score"]))
    assert lines["sweep, best by judging data"]["difference"] == own - lines["sweep, best by judging data"]["score"]
    assert planning.compared_otherwise(sweep, against=None, frontier=(), seeds=()) == sweep
    with pytest.raises(SystemExit, match="--against tiny: no such arm; expected one of grown, small, large"):
        planning.compared_otherwise(sweep, against="tiny", frontier=(), seeds=())
    with pytest.raises(SystemExit, match="compared as asked: a frontier needs score = 'loss'"):
        planning.compared_otherwise(sweep, against=None, frontier=("small",), seeds=())


def test_each_run_is_told_by_itself_with_its_share_of_another_frontier(tmp_path: Path) -> None:
    plan, rows = written(tmp_path, FRONTIER + "[arms.other]\n"), run_plan.Rows(tmp_path / "rows.jsonl")
    uses = {"main": 320, "twin": 60, "side": 20, "undone": 0}
    grafts = [{"gain": gain, "gain_se": 0.001, "fate": fate} for gain, fate in ((0.02, "kept"), (-0.003, "culled"))]
    for arm, cost, loss in (
        ("grown", 400, 0.4),
        ("static@100", 100, 1.0),
        ("static@800", 800, 0.4),
        ("other", 200, 0.4),
    ):
        figures = {"steps": 10, "final_parameters": 5, "seeds": grafts if arm == "grown" else [], "training_macs": cost}
        own = {"training_macs_by_use": uses} if arm == "grown" else {}
        rows.add({"arm": arm, "seed": 1, "rate": None, "test_loss": loss, **figures, **own})
    rates = run_plan.chosen_rates(plan, rows)
    told = by_seed.by_seed(plan, rows, rates).splitlines()
    graft = "+0.0200 ± 0.0010 (kept), -0.0030 ± 0.0010 (undone)"
    assert (
        told[2]
        == f"| 1 | grown | 0.4000 | 5 | 10 | 4.000e+02 | 3.20e+02, 6.00e+01, 2.00e+01 | {graft} | 0.50 | - | 0.40 |"
    )
    assert told[3] == "| 1 | static@100 | 1.0000 | 5 | 10 | 1.000e+02 | - | - | - | - | - |"
    assert told[5] == "| 1 | other | 0.4000 | 5 | 10 | 2.000e+02 | - | - | 0.25 | - | - |"
    six = planning.compared_otherwise(plan, against=None, frontier=("other", "static@100"), seeds=())
    assert by_seed.by_seed(six, rows, rates).splitlines()[2].endswith("| 2.00 | - | 1.60 |")
