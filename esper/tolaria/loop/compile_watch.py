"""Tells what the compiler does to a run: how many graphs it made, and loudly where it helps less than one thinks."""

from __future__ import annotations

from dataclasses import asdict

from esper.kasmina.executor.passes.compilations import Compilations, break_reasons
from esper.tolaria.loop.session import Session

# As many graphs of one code as torch would make at most; equal blocks need a few: by sizes of batches, and evaluation.
GRAPHS_OF_EQUAL_BLOCKS = 8


class CompileWatch:
    """Looks at the compiler's counts; silent where no blocks are compiled."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told = Compilations()
        self._has_warned_of_graphs = False

    def look(self) -> None:
        """Tell what has changed since the last look."""
        now = self._session.run.executor.compilations
        if now is None or now == self._told:
            return
        before, self._told = self._told, now
        if now.fallbacks > before.fallbacks:
            what = "code of compiled blocks was given up and runs as plain Python"
            self._warn(f"{what}, {now.fallbacks} times so far; TORCH_LOGS=recompiles,graph_breaks says why")
        if now.graph_breaks > before.graph_breaks:
            what = f"compiled blocks are cut into several graphs, {now.graph_breaks} breaks so far"
            self._warn(what, "; ".join(break_reasons()))
        if now.graphs > GRAPHS_OF_EQUAL_BLOCKS and not self._has_warned_of_graphs:
            self._has_warned_of_graphs = True
            why = "a number that differs by block and is read in forward, a key-value cache, or many sizes of batches"
            self._warn(f"{now.graphs} graphs were compiled: the blocks don't share them; look for {why}")
        self._session.notice("tolaria.compiled", "INFO", in_words(now), facts=asdict(now))

    def _warn(self, message: str, cause: str = "") -> None:
        self._session.notice("tolaria.compiled_badly", "WARNING", message, cause)


def in_words(counts: Compilations) -> str:
    """Counts as a line."""
    numbers = asdict(counts).items()
    return "compiled blocks: " + ", ".join(_counted(number, name.replace("_", " ")) for name, number in numbers)


def _counted(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"
