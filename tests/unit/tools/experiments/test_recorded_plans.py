"""Every plan that has committed rows is told from them, by the command that the pages name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import FOLDER, load

for name in ("plan", "texts", "rows", "frontier", "comparing", "by_seed", "launching"):
    load(name)
run_plan = load("run_plan")
ROWS = FOLDER / "rows"
RECORDED = sorted(path.stem for path in (FOLDER / "plans").glob("*.toml") if (ROWS / f"{path.stem}.jsonl").exists())


def test_most_plans_have_rows() -> None:
    assert len(RECORDED) > len(list((FOLDER / "plans").glob("*.toml"))) / 2


@pytest.mark.parametrize("plan", RECORDED)
def test_a_plan_is_told_from_its_recorded_rows(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_plan, "draw", lambda *told: [])
    monkeypatch.setattr(sys, "argv", ["run_plan.py", plan, "--recorded", "--json", "--out", str(tmp_path)])
    assert run_plan.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"] == plan
    with_runs = {line["arm"] for line in told["arms"] if line["runs"]}
    recorded = {json.loads(line)["arm"] for line in (ROWS / f"{plan}.jsonl").read_text().splitlines()}
    assert recorded <= with_runs


@pytest.mark.parametrize("plan", RECORDED)
@pytest.mark.parametrize("way", [(), ("--by-seed",)], ids=["by arm", "by seed"])
def test_a_table_is_printed_of_recorded_rows(
    plan: str, way: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_plan, "draw", lambda *told: [])
    monkeypatch.setattr(sys, "argv", ["run_plan.py", plan, "--recorded", *way, "--out", str(tmp_path)])
    assert run_plan.main() == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) > 2
    assert len({row.count("|") for row in rows}) == 1
