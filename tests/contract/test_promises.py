"""docs/promises.md names what is there: every file, test, metric, event, make target and command of its tables."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from esper.cli.main import parser
from esper.cli.usage import UsageError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "promises.md"
SYSTEMS = ("Leyline", "core and rpc", "Tolaria", "Tamiyo", "Kasmina", "Urza", "Weatherlight")


def rows() -> list[tuple[str, str, str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert all(len(row) == 3 for row in cells), "a row has three cells"
    return [row for row in cells if row[0] not in ("Promise", "---")]  # type: ignore[misc]


def proofs() -> Iterator[str]:
    for _, _, shown in rows():
        yield from re.findall(r"`([^`]+)`", shown)


@cache
def cases_of(path: str) -> dict[str, bool]:
    """Tests of a file, and whether each is a drill."""
    tree = ast.parse((ROOT / path).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    is_slow = any("mark.slow" in ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))
    return {
        node.name: is_slow or any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list) for node in found
    }


@cache
def declared() -> str:
    """Where metrics and events are declared."""
    return "\n".join(path.read_text() for path in (ROOT / "esper").rglob("*.py") if "leyline" not in path.parts)


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def is_command(words: list[str]) -> bool:
    """Whether `esper` knows them."""
    try:
        parser().parse_strictly(words)
    except UsageError:
        return False
    return True


def is_there(proof: str) -> bool:
    if "::" in proof:
        path, _, name = proof.partition("::")
        return (ROOT / path).is_file() and name in cases_of(path)
    if proof.startswith("make "):
        return proof.removeprefix("make ") in targets()
    if proof.startswith("esper "):
        return is_command(shlex.split(proof)[1:])
    if "/" in proof:
        return (ROOT / proof).exists()
    return f'"{proof}"' in declared()


def test_what_shows_each_promise_is_there() -> None:
    assert [proof for proof in proofs() if not is_there(proof)] == []


def test_what_is_not_there_is_found() -> None:
    absent = (
        "tests/contract/test_promises.py::test_of_nothing",
        "make nothing",
        "esper nothing",
        "no/file",
        "no.metric",
    )
    assert not any(map(is_there, absent))


def test_every_row_says_where_and_is_shown() -> None:
    for promise, where, shown in rows():
        assert promise
        assert re.search(r"\]\(\.\./([^)]+)\)", where), promise
        assert "`" in shown, promise
        for path in re.findall(r"\]\(\.\./([^)]+)\)", where + shown):
            assert (ROOT / path).exists(), path


def test_every_system_has_its_promises() -> None:
    assert all(f"\n## {name}" in PAGE.read_text() for name in SYSTEMS)


def test_a_drill_is_called_one_and_nothing_else_is() -> None:
    for _, _, shown in rows():
        for path, name, drill in re.findall(r"`(tests/[^`]+)::([^`]+)`( \(\*drill\*\))?", shown):
            assert cases_of(path)[name] == bool(drill), f"{path}::{name}"
