"""The check against the oldest torch asks for the version that is promised, and for every source."""

from __future__ import annotations

from pathlib import Path

from tests.unit.tools.benches import ROOT, load_script

check = load_script("check_oldest_torch")


def test_the_lower_bound_of_the_dependency_is_the_target_of_the_build() -> None:
    major, minor, _ = (int(part) for part in check.oldest_torch().split("."))
    assert int(check.target(), 16) >> 48 == major << 8 | minor


def test_every_operator_source_is_compiled() -> None:
    compiled = {Path(command[-1]) for command in check.commands(Path("include"), Path("cuda"))}
    operators = [*ROOT.glob("csrc/register.cpp"), *ROOT.glob("csrc/cpu/*"), *ROOT.glob("csrc/cuda/*")]
    assert compiled == {path for path in operators if path.suffix in (".cpp", ".cu")}
