"""The check against the oldest torch asks for the version that is promised, and for every source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tools.benches import ROOT, load_script

check = load_script("check_oldest_torch")


def test_the_lower_bound_of_the_dependency_is_the_target_of_the_build() -> None:
    major, minor, _ = (int(part) for part in check.oldest_torch().split("."))
    assert int(check.target(), 16) >> 48 == major << 8 | minor


def test_every_operator_source_is_compiled() -> None:
    compiled = {Path(command[-1]) for command in check.commands(Path("include"), Path("cuda"))}
    operators = [*ROOT.glob("csrc/register.cpp"), *ROOT.glob("csrc/cpu/*"), *ROOT.glob("csrc/cuda/*")]
    assert compiled == {path for path in operators if path.suffix in (".cpp", ".cu")}


def test_what_has_compiled_is_compiled_again_when_a_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$1" >> {log}\n')
    compiler.chmod(0o755)
    for folder in ("csrc", ".cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / "csrc" / "a.h").write_text("int a;")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "oldest_torch", lambda: "2.11.0")
    monkeypatch.setattr(check, "headers", lambda version: tmp_path)
    monkeypatch.setattr(check, "commands", lambda include, cuda: [[str(compiler), str(tmp_path / "a.cpp")]])
    for text, compiled in (("int a;", 1), ("int a;", 1), ("int b;", 2)):
        (tmp_path / "csrc" / "a.h").write_text(text)
        assert check.main([]) == 0
        assert log.read_text().count("a.cpp") == compiled
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    (tmp_path / "csrc" / "a.h").write_text("int;")
    for _ in range(2):
        assert check.main([]) == 1
