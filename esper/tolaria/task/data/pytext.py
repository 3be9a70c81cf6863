"""Text without a download: the source of Python's own standard library, byte by byte.

Whole files go to one set, so that no set holds a neighbour of another's sequences. The text depends on the Python
version; the summary's data digest tells runs apart.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.data.splitting import JUDGE_SHARE, TEST_SHARE, set_sizes
from esper.tolaria.task.randomness import generator

DEFAULT_SAMPLES = 12_000
# Judging passes cost as training does; this many sequences tell a gain of a few thousandths of a nat.
MOST_HELD_OUT = 512
VOCABULARY = 256
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


class PyText:
    """Sequences of `context` bytes, each with the bytes that follow."""

    def __init__(self, context: int, samples: int | None = None) -> None:
        self._context = context
        self._samples = DEFAULT_SAMPLES if samples is None else samples

    def splits(self, seed: int) -> Splits:
        files = _shuffled(source_files(), seed)
        judge, test = (min(size, MOST_HELD_OUT) for size in set_sizes(self._samples)[1:])
        train = self._samples - judge - test
        shares = (("test", test, TEST_SHARE), ("judge", judge, JUDGE_SHARE), ("train", train, 1.0))
        total_bytes = sum(len(text) for text in files)
        split: dict[str, Split] = {}
        for name, wanted, share in shares:
            chosen, files = _cut(files, share * total_bytes)
            split[name] = self._sequences(name, chosen, wanted, seed)
        return Splits(
            train=split["train"],
            judge=split["judge"],
            test=split["test"],
            task=TaskType.TASK_TYPE_LANGUAGE_MODEL,
            outputs=VOCABULARY,
        )

    def _sequences(self, name: str, files: list[bytes], wanted: int, seed: int) -> Split:
        length = self._context + 1
        pieces: list[NDArray[np.uint8]] = []
        sequences: list[int] = []
        for text in files:
            whole = len(text) // length
            pieces.append(np.frombuffer(text, dtype=np.uint8, count=whole * length).reshape(whole, length))
            sequences.append(whole)
        rows = torch.from_numpy(np.concatenate(pieces))
        if len(rows) < wanted:
            raise ConfigError(
                "samples", self._samples, f"the standard library fills only {len(rows)} in the {name} set"
            )
        chosen = torch.randperm(len(rows), generator=generator(seed, "sequences", name))[:wanted]
        tokens = rows[chosen].to(torch.int64)
        documents = torch.repeat_interleave(torch.tensor(sequences))[chosen]
        return Split(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), documents)


def source_files() -> list[bytes]:
    """Contents of the library's source files, in order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts)]
    if not paths:
        raise ConfigError("data", "pytext", f"no Python source under {root}; give --data PATH instead")
    return [path.read_bytes() for path in sorted(paths)]


def _shuffled(files: list[bytes], seed: int) -> list[bytes]:
    return [files[row] for row in torch.randperm(len(files), generator=generator(seed, "files")).tolist()]


def _cut(files: list[bytes], size_bytes: float) -> tuple[list[bytes], list[bytes]]:
    """The first files that reach a size together, and the others."""
    total = 0
    for count, text in enumerate(files, start=1):
        total += len(text)
        if total >= size_bytes:
            return files[:count], files[count:]
    return files, []
