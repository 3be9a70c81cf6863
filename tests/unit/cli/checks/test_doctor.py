from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from esper.cli.checks import doctor
from esper.cli.checks.doctor import Finding, Level
from esper.cli.main import main
from esper.core.clock import ManualClock
from esper.core.security.keys import new_secret


def only(findings: object) -> Finding:
    found = list(findings)  # type: ignore[call-overload]
    assert len(found) == 1
    assert isinstance(found[0], Finding)
    return found[0]


def test_every_check_reports_and_the_exit_code_follows_the_worst(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (doctor.python, doctor.sqlite))
    assert main(["doctor", "--json", "--run-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [finding["subject"] for finding in found] == ["python", "esper", "sqlite", "run directory"]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding(Level.PROBLEM, "a", "b")]),))
    assert main(["doctor", "--run-dir", str(tmp_path)]) == 1
    assert "problem  a" in capsys.readouterr().out


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    assert only(doctor.packages()).level is Level.PROBLEM


def test_kernels_are_loaded_not_guessed() -> None:
    subjects = {finding.subject: finding for finding in doctor.kernels()}
    kernels = subjects["kernels"]
    assert kernels.level is Level.OK or "build" in kernels.detail


def test_a_clock_behind_the_installation_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.clock()).level is Level.OK
    monkeypatch.setattr(doctor, "SYSTEM_CLOCK", ManualClock(now_ns=0))
    assert only(doctor.clock()).level is Level.PROBLEM


def test_no_key_is_a_note_and_a_weak_one_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_KEYRING", raising=False)
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    assert only(doctor.keys()).level is Level.NOTE
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", "weak")
    assert only(doctor.keys()).level is Level.PROBLEM
    secret = new_secret()
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", secret)
    assert only(doctor.keys()).level is Level.OK
    assert secret not in only(doctor.keys()).detail


def test_fork_support_of_grpc_is_a_problem_when_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    assert only(doctor.fork_support()).level is Level.PROBLEM
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    assert only(doctor.fork_support()).level is Level.OK


def test_a_runtime_directory_too_deep_for_a_socket_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    findings = {finding.subject: finding for finding in doctor.sockets()}
    assert findings["loopback port"].level is Level.OK
    assert findings["unix socket"].level is Level.PROBLEM
    assert os.listdir(deep) == []


def test_a_directory_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    found = only(doctor.writable("run directory", tmp_path / "a" / "b"))
    assert found.level is Level.OK
    assert str(tmp_path) in found.detail
    found = only(doctor.writable("run directory", Path("/proc/none")))
    assert found.level is Level.PROBLEM
