"""What drills are made of: rules whose time runs faster, a count that sees what is lost, logs that are damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from esper.cli.main import main
from tools.harness.drills.prometheus import RULES, hastened
from tools.harness.drills.wal import restored, soaked
from tools.harness.fire.ledger import ACKNOWLEDGED, Ledger, acknowledged, effects, handled, verdict


def test_every_duration_of_the_rules_is_divided_and_nothing_else() -> None:
    rule = "expr: increase(a_total[5m]) > 0 or (a_total > 0 unless a_total offset 5m)\nfor: 15s # 5m"
    assert hastened(rule, 10.0) == (
        "expr: increase(a_total[30000ms]) > 0 or (a_total > 0 unless a_total offset 30000ms)\nfor: 1500ms # 5m"
    )
    shipped = RULES.read_text()
    assert hastened(shipped, 1.0).count("ms") > shipped.count("ms")
    thresholds = [word for word in shipped.split() if word.isdigit()]
    assert [word for word in hastened(shipped, 10.0).split() if word.isdigit()] == thresholds


def test_without_prometheus_a_drill_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert main(["drill", "emergency"]) == os.EX_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("isn't installed (Debian: apt-get install prometheus)")
    assert main(["drill", "fire", "--bus", "redis", "--seconds", "1"]) == os.EX_CONFIG
    assert "apt-get install redis-server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("latency", "--speed", "0"), "between 1 and 100, got 0"),
        (("alarms", "--timeout", "nan"), "got nan"),
        (("fire", "--bus", "kafka"), "invalid choice: 'kafka'"),
        (("wal-restore", "--seconds", "5"), "unknown argument '--seconds'"),
        (("latencyy",), "did you mean 'latency'?"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", *words]) == os.EX_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_redelivery_has_no_second_effect(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path, name) for name in "ab"]
    ledgers[0].handle(["m1", "m2"])
    ledgers[1].handle(["m2", "m3"])
    (tmp_path / f"{ACKNOWLEDGED}.a").write_text("m1\nm2\nm")
    found = verdict(acknowledged(tmp_path), handled(tmp_path), effects(tmp_path))
    assert found.failures == []
    assert (found.acknowledged, found.handled, found.effects) == (2, 3, 3)
    assert (found.redelivered, found.unacknowledged) == (1, 1)


def test_the_count_sees_what_is_lost_and_what_had_two_effects() -> None:
    lost = verdict({"m1", "m2"}, {"m1": 1}, 1)
    assert lost.failures == ["1 acknowledged messages were never handled"]
    twice = verdict({"m1"}, {"m1": 2}, 2)
    assert "2 effects of 1 messages" in twice.failures[0]


def test_a_log_is_put_back_step_by_step() -> None:
    assert [step.name for step in restored() if not step.is_passed] == []


def test_a_log_keeps_its_promises_in_every_kind_of_damage() -> None:
    found = soaked(0.1, seed=1)
    assert {name: each.failures for name, each in found.items()} == {name: [] for name in found}
    assert all(each.rounds and each.kept for each in found.values())
