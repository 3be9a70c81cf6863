"""Grafts whose two arms train to the end: signals are compared with the end, and a small case runs through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import JUDGING, load

texts = load("texts")
ends = load("stacks_to_the_end", JUDGING)


def row(verdict: str, gain: float, forecast: float | None, grown_loss: float) -> dict[str, object]:
    signals = {"gain": gain, "gain_at_equal_flops": -gain, "forecast_gain": forecast}
    return {"verdict": verdict, **signals, "grown_loss": grown_loss, "twin_loss": 1.0}


def test_a_signal_agrees_where_its_sign_is_that_of_the_end() -> None:
    rows = [row("keep", 0.02, 0.1, 0.9), row("cull", 0.001, -0.1, 1.1), row("keep", 0.01, None, 1.2)]
    found = ends.agreement(rows, "twin_loss")
    assert found["grown ahead"] == 1
    assert (found["verdict"]["agrees"], found["verdict"]["of"]) == (2, 3)
    assert (found["gain"]["agrees"], found["gain at equal FLOPs"]["agrees"]) == (1, 2)
    assert (found["forecast"]["agrees"], found["forecast"]["of"]) == (2, 2)
    assert found["forecast"]["rank_correlation"] == pytest.approx(1.0)


def test_each_kind_of_verdict_has_what_it_was_worth() -> None:
    rows = [row("keep", 0.02, None, 0.9), row("keep", 0.02, None, 1.2), row("keep", 0.02, None, 1.4)]
    found = ends.outcomes([*rows, row("cull", 0.0, None, 1.1)], "twin_loss")
    assert found["kept, and ahead"] == {"cases": 1, "mean_gain": pytest.approx(0.1), "largest": pytest.approx(0.1)}
    assert found["kept, but behind"] == {"cases": 2, "mean_gain": pytest.approx(-0.3), "largest": pytest.approx(-0.4)}
    assert found["undone, and behind"]["cases"] == 1
    assert found["undone, but ahead"] == {"cases": 0, "mean_gain": None, "largest": None}


def test_recorded_rows_are_told_and_a_name_without_rows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stacks_to_the_end.py", "--recorded", "stacks_to_the_end_better_start"])
    assert ends.main() == 0
    assert "twin_loss_booked: grown ahead in 4 of 12" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["stacks_to_the_end.py", "--recorded", "nothing"])
    with pytest.raises(SystemExit, match="expected one of the recorded stacks_to_the_end, stacks_to_the_end_better"):
        ends.main()


def test_ties_share_their_rank() -> None:
    assert ends.ranked([3.0, 1.0, 3.0]) == {1.0: 0.0, 3.0: 1.5}


def test_there_are_at_least_twenty_grafts_early_and_late() -> None:
    assert len(ends.CASES) >= 20
    assert {case.depth for case in ends.CASES} == {2, 4}


@pytest.mark.slow
def test_a_small_case_trains_both_arms_to_the_end(tmp_path: Path) -> None:
    texts.write_text(tmp_path / "text", kind="python", size=400_000)
    settings = ["width=8", "heads=2", "batch_size=4", "context=16", "min_samples=100"]
    command = [sys.executable, str(JUDGING / "stacks_to_the_end.py"), "--out", str(tmp_path), "--case", "2@0.17:1"]
    done = subprocess.run([*command, "--set", *settings], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["verdict"] in ("keep", "cull")
    plain, booked = found["twin_steps"]
    assert 3000 < plain < booked
    assert found["grown_loss"] < 5.5
    assert found["twin_loss"] < 5.5
