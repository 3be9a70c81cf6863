"""The zoo's rows as the page of the docs, and the page's rows read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.zoo.row import Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "what_grows.md"
COLUMNS = ("clone", "slots", "graft", "trains", "folds", "heads", "module", "stacks", "resume", "export")
TITLES = ("Network", "Copy", "Slots", "Graft", "Trains", "Folds", "Heads", "Module", "Stacks", "Resume", "Export")
FORMATS = {
    "folds": r"yes|loader|no|–",
    "heads": r"yes|loader|no|–",
    "slots": r"\d+/\d+ \+ \d+ \+ \d+ \+ \d+|no",
    "graft": r"0|\de-\d\d|–",
    "export": r"program|weights|folder|no|–",
}
ANSWER = r"yes|no|–"

HEAD = """# What grows and what does not

{counted} networks, small and with random weights, on the CPU, each through the trainer's own preparation, steps,
checkpoints and export, with a span, heads, a residual seed and a stack that the executor grafts. `tools/zoo` makes this
page; networks of `transformers` are those of version {version}. {fed} of these are fed as their users feed them,
with mappings of masks and labels, and learn by the loss that they return; the others take one tensor and give one.

{grown} of all fold a span or heads, or double a run of blocks; {slotless} have no place for a seed and say so in one
line.

| Column | Says |
| --- | --- |
| Copy | a copy for the twin computes and learns as the network does, and neither reaches the other |
| Slots | spans that fold / spans found + attentions that take heads + residual slots + runs of blocks |
| Graft | largest change of any output when a span, heads and a residual seed are put in |
| Trains | the loss falls within {steps} steps with the first of these |
| Folds | a span's seed became part of the layers that it stands beside |
| Heads | a seed of heads became part of its attention |
| Module | a seed stayed as a module of its own |
| Stacks | a run of blocks was doubled; every copy ran once and got a gradient |
| Resume | a network built anew goes on from a checkpoint bit for bit: with a graft and its twin, and grown for good |
| Export | proven: a program that plain PyTorch loads, the weights alone, or a folder that `from_pretrained` reads |

*loader*: its configuration has no number for such a width, which is refused before the graft; with
`--config-widths loader` it folds, and the network is exported with a small loader beside it.

A slot that stands for one place in every block of a network counts once. *–* means that there was nothing to try; why
something is *no* stands below the tables.

Seeds that attend (`attention.self`) are none of these columns. They leave out what a network's own attention masks,
and are refused where they can't know it ([your_own.md](your_own.md#padding)).
"""


def written(rows: Iterable[Row], *, version: str, steps: int) -> str:
    """The page."""
    rows = list(rows)
    head = HEAD.format(
        counted=len(rows),
        fed=sum(row.is_fed for row in rows),
        grown=sum(row.is_grown for row in rows),
        slotless=sum(row.slots == "no" for row in rows),
        version=version,
        steps=steps,
    )
    families = dict.fromkeys(row.family for row in rows)
    tables = [_table(family, [row for row in rows if row.family == family]) for family in families]
    return "\n".join([head, *tables, _reasons(rows)])


def read(text: str) -> dict[str, dict[str, str]]:
    """The cells of every network on a page, by column."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(TITLES) and cells[0] != TITLES[0] and not set(cells[0]) <= set("- "):
            found[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return found


def misfits(cells: Mapping[str, str]) -> list[str]:
    """Columns of a row whose text isn't of its column's form."""
    return [column for column, text in cells.items() if not re.fullmatch(FORMATS.get(column, ANSWER), text)]


def cells_of(row: Row) -> dict[str, str]:
    """A row as it stands on the page."""
    return {column: str(getattr(row, column)) for column in COLUMNS}


def _table(family: str, rows: list[Row]) -> str:
    lines = [f"## {family[0].upper()}{family[1:]}", "", _line(TITLES), _line("---" for _ in TITLES)]
    lines += [_line((row.name, *cells_of(row).values())) for row in rows]
    return "\n".join([*lines, ""])


def _reasons(rows: list[Row]) -> str:
    lines = [f"* **{row.name}**, {column}: {reason}" for row in rows for column, reason in row.notes.items()]
    return "\n".join(["## Reasons", "", *lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
