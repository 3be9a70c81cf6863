"""docs/promises.md and docs/every_promise.md name what is there: files, tests, metrics, events, targets, commands."""

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
ONE_BY_ONE = ROOT / "docs" / "every_promise.md"
PROMISES = 190
STATES = ("holds", "holds otherwise", "partly", "left out")
SYSTEMS = ("Leyline", "core and rpc", "Tolaria", "Tamiyo", "Simic", "Kasmina", "Urza", "Weatherlight")


def table(page: Path, columns: int) -> list[tuple[str, ...]]:
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert all(len(row) == columns for row in cells), f"a row of {page.name} has {columns} cells"
    return [row for row in cells if row[0] not in ("Promise", "No.", "---")]


def rows() -> list[tuple[str, str, str]]:
    return table(PAGE, 3)  # type: ignore[return-value]


def one_by_one() -> list[tuple[str, str, str, str]]:
    return table(ONE_BY_ONE, 4)  # type: ignore[return-value]


def proofs() -> Iterator[str]:
    for *_, shown in (*rows(), *one_by_one()):
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


def test_every_promise_has_its_row_its_state_and_what_shows_it() -> None:
    found = one_by_one()
    assert [int(number) for number, *_ in found] == list(range(1, PROMISES + 1))
    for number, _, said, shown in found:
        state, _, why = said.partition(": ")
        assert state in STATES, number
        assert bool(why) or state == "holds", f"{number} is {state}, and doesn't say how"
        assert "`" in shown, number


def test_up_to_the_catalogue_nothing_is_missing() -> None:
    pages = re.split(r"^## ", ONE_BY_ONE.read_text(), flags=re.MULTILINE)
    systems = [page for page in pages if page.startswith(("Leyline", "core", "Tolaria", "Tamiyo", "Kasmina", "Urza"))]
    missing = {
        number for page in systems for number in re.findall(r"^\| (\d+) \| [^|]+ \| (?:partly|left)", page, re.M)
    }
    assert len(systems) == 6
    assert not missing


def test_every_system_has_its_promises() -> None:
    assert all(f"\n## {name}" in PAGE.read_text() for name in SYSTEMS)


def test_a_drill_is_called_one_and_nothing_else_is() -> None:
    for *_, shown in (*rows(), *one_by_one()):
        for path, name, drill in re.findall(r"`(tests/[^`]+)::([^`]+)`( \(\*drill\*\))?", shown):
            assert cases_of(path)[name] == bool(drill), f"{path}::{name}"
