"""The experiment on width factors: what it keeps of finished runs, and its rule for the default."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.experiments.loading import GROWING, load

study = load("width_factor", GROWING)
SEEDS = (1, 2, 3)


def summary(host: str, arm: str, seed: int, accuracy: float, macs: int = 100) -> dict[str, Any]:
    growth = {"kept": 1, "judged": 2, "germinated": 3}
    figures = {"final_parameters": 10, "training_macs": macs, "weights_digest": "", "reproducible": True, "seeds": []}
    return {"host": host, "arm": arm, "seed": seed, "test_accuracy": accuracy, "growth": growth} | figures


def rows(gain: dict[str, float], macs: dict[str, int]) -> list[dict[str, Any]]:
    """Every host in which each other arm gains so much over +8 in its task, at so many MACs for each 100."""
    known = {}
    for host, (task, _) in study.HOSTS.items():
        others = [(arm, 0.7 + gain[task], macs[task]) for arm in study.ARMS if arm != "+8"]
        for seed in SEEDS:
            noise = 0.01 * seed
            for arm, accuracy, cost in (("never", 0.5, 50), ("+8", 0.7, 100), *others):
                known[host, arm, seed] = summary(host, arm, seed, accuracy + noise, cost)
    return [study.row_of(host, arm, SEEDS, known) for host in study.HOSTS for arm in study.ARMS]


@pytest.mark.parametrize(
    ("gain", "macs", "becomes"),
    [
        ({"digits": 0.01, "mnist1d": 0.0}, {"digits": 100, "mnist1d": 90}, True),
        ({"digits": 0.01, "mnist1d": -0.001}, {"digits": 100, "mnist1d": 90}, False),
        ({"digits": 0.01, "mnist1d": 0.02}, {"digits": 101, "mnist1d": 90}, False),
    ],
)
def test_a_factor_becomes_the_default_where_it_is_not_worse_at_no_more_macs_in_both_tasks(
    gain: dict[str, float], macs: dict[str, int], becomes: bool
) -> None:
    found = study.verdicts(rows(gain, macs))
    assert [verdict["arm"] for verdict in found] == [arm for arm in study.ARMS if arm != "+8"]
    assert [verdict["may_be_default"] for verdict in found] == [becomes] * len(found)


def test_an_arm_with_a_budget_may_cost_so_many_times_the_run_that_never_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    trained = summary("digits narrow4", "x4 in 6x", 2, 0.9, 500)
    monkeypatch.setattr(study, "train", lambda folder, *flags: told.append(flags) or trained)
    known = {("digits narrow4", "never", 2): summary("digits narrow4", "never", 2, 0.5, 70)}
    study.run(tmp_path, ("digits narrow4", "x4 in 6x", 2), known)
    study.run(tmp_path, ("digits narrow4", "x2", 2), known)
    assert told[0][-4:] == ("--span-width", "x4", "--max-training-macs", "420")
    assert "--max-training-macs" not in told[1]


def test_a_pair_differs_by_what_its_own_seed_shows() -> None:
    difference, bound = study.paired([3.0, 5.0, 7.0], [2.0, 4.0, 6.0])
    assert (difference, bound) == (1.0, 0.0)
    difference, bound = study.paired([1.0, 3.0], [0.0, 0.0])
    assert difference == 2.0
    assert bound == pytest.approx(12.706, rel=1e-3)  # t of one degree of freedom, deviation sqrt(2) over sqrt(2)
    assert study.paired([1.0], [0.5]) == (0.5, None)


def test_the_table_has_a_line_for_each_host_and_arm() -> None:
    found = rows({"digits": 0.01, "mnist1d": 0.0}, {"digits": 100, "mnist1d": 90})
    lines = study.table(found, study.verdicts(found)).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(study.HOSTS) * len(study.ARMS)
    assert (
        lines[-len(study.ARMS) + 1]
        == "x2: digits +1.00 points at 1.00x the MACs; mnist1d +0.00 points at 0.90x the MACs: may become the default"
    )


def test_finished_runs_are_found_again_and_a_line_cut_short_is_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    first = study.Rows(file)
    first.add(summary("digits narrow4", "x2", 1, 0.9))
    first.add(summary("digits narrow4", "x2", 2, 0.9))
    file.write_text(file.read_text()[:-20])
    again = study.Rows(file)
    assert list(again.known) == [("digits narrow4", "x2", 1)]
    again.add(summary("digits narrow4", "x2", 2, 0.9))
    assert len(study.Rows(file).known) == 2


def test_the_committed_rows_are_told_with_the_seeds_that_are_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["width_factor.py", "--recorded"])
    assert study.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2] for line in lines if line.startswith("| mnist1d mlp6")] == ["2", "2", "1", "1"]
