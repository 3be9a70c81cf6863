"""The zoo's rows as the page of the docs, and the page's rows read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
| Stacks | a run of blocks was doubled; every copy ran as often as its original and got a gradient |
| Resume | a network built anew goes on from a checkpoint bit for bit: with a graft and its twin, and grown for good |
| Export | proven: a program that plain PyTorch loads, the weights alone, or a folder that `from_pretrained` reads |

*loader*: its configuration has no number for such a width, which is refused before the graft; with
`--config-widths loader` it folds, and the network is exported with a small loader beside it.

A layer that runs several times in a forward pass (a shared tower, a block that is called again, recurrence by hand, two
views through one network) is widened where each call of it leads by the same steps to a call of the same other layer,
and the two run by turns. A residual seed stands where a module runs once in each call of what holds it, an adapter at
any linear layer; blocks are doubled where each runs as often as its neighbour and reads what that gave. Heads grow in
attentions that run once. What is left out is told with its layers and the reason.

A forward that can't be traced (packed sequences, `len(x)`, a loop over a size) is told with its line. Layers that it
calls itself have no spans; those in a module of their own, such as an `nn.Sequential`, are looked into apart.

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


def updated(text: str, rows: Sequence[Row]) -> str:
    """The page with these networks' cells and reasons anew, and everything else as it stands there.

    Raises ValueError for a network that isn't on the page; the counts above the tables aren't touched.
    """
    lines = text.splitlines(keepends=True)
    for row in rows:
        cell, reason = f"| {row.name} | ", f"* **{row.name}**, "
        places = [at for at, line in enumerate(lines) if line.startswith(cell)]
        if not places:
            raise ValueError(f"{row.name} is not on {PAGE.name}: write the whole page")
        lines[places[0]] = _line((row.name, *cells_of(row).values())) + "\n"
        at = next((at for at, line in enumerate(lines) if line.startswith(reason)), len(lines))
        kept = [line for line in lines if not line.startswith(reason)]
        lines = [*kept[:at], *(f"{line}\n" for line in _reasons_of(row)), *kept[at:]]
    return "".join(lines)


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
    lines = [line for row in rows for line in _reasons_of(row)]
    return "\n".join(["## Reasons", "", *lines, ""])


def _reasons_of(row: Row) -> list[str]:
    return [f"* **{row.name}**, {column}: {reason}" for column, reason in row.notes.items()]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
