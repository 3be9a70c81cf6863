"""Checkpoints: one file each, whole or absent, verified before a byte of it is used.

What stands in a file is `packed`'s, what ranks write beside it `parts`'s; the first one of a run is read at once. The
generation counter stands beside them, so that no two openings of a run ever share one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from shutil import rmtree
from typing import Any

from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError, StorageError, UnwritableStorage
from esper.core.storage.files import open_regular, read_regular, sync_directory, why_not_made, write_atomically
from esper.tolaria.recovery.packed import Bytes, Held, State, Stored, pack, unpack
from esper.tolaria.recovery.parts import SUFFIX, next_folder, verify

# What pickle and torch raise for an object that they can't write, and we for one that they can't read.
UNWRITABLE = (PicklingError, TypeError, AttributeError, RuntimeError, CorruptRecord)
_REMOVE = "remove it, and the count goes on from the checkpoint's"
_OVERWRITE = "--overwrite starts the run anew"
_ANEW = f"put back what is missing or damaged, or {_OVERWRITE}"
_NAME = re.compile(r"step-(\d{12})\.ckpt")


def encode(state: State) -> Bytes:
    """A state as the bytes of a file."""
    return pack(state)


def decode(content: Bytes, source: str) -> State:
    """Verify the bytes of a file and return its state, on the CPU."""
    return unpack(Held(content), source, lambda: None)


def encode_proven(state: State) -> Bytes:
    """A state as bytes that were read back. Raises ConfigError that names the value which can't be."""
    try:
        content = encode(state)
        decode(content, "what was written")
    except UNWRITABLE as error:
        path, kind = _unreadable(state)
        remedy = (
            "can't be read back from a checkpoint, which runs no code: hold it as a tensor, a plain value, or a list"
        )
        raise ConfigError(path, kind, f"{remedy} or dict of these") from error
    return content


def _unreadable(value: Any, path: str = "checkpoint") -> tuple[str, str]:
    """Path and type of the first value that doesn't come back, or of the whole."""
    if isinstance(value, Mapping):
        parts = [(f"{path}.{key}", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    else:
        parts = []
    for name, part in parts:
        try:
            decode(encode({"": part}), name)
        except UNWRITABLE:
            return _unreadable(part, name)
    return path, type(value).__name__


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A checkpoint that was read, and the newer ones that were passed over with their damage."""

    state: State
    path: Path
    damaged: tuple[str, ...]


class CheckpointStore:
    """The checkpoints of one run, newest kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self.kept = keep
        """How many stay: at least one."""

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._folder.absolute()

    @property
    def final_path(self) -> Path:
        """State of the finished run."""
        return self._folder / "final.ckpt"

    def parts_of(self, step: int | None) -> Path:
        """A folder for the parts of a checkpoint, or of the finished run, that is about to be written."""
        self._make_folder()
        return next_folder(self._folder, self.final_path.stem if step is None else _named(step)).absolute()

    def write(self, content: Bytes, step: int) -> Path:
        """Make an encoded state durable and drop what is too old."""
        self._make_folder()
        path = self._folder / f"{_named(step)}.ckpt"
        write_atomically(path, content)
        for old in self.paths()[: -self.kept]:
            old.unlink(missing_ok=True)
        self._sweep()
        sync_directory(self._folder)
        return path

    def write_final(self, content: Bytes) -> Path:
        """Make the finished run's state durable."""
        self._make_folder()
        write_atomically(self.final_path, content)
        return self.final_path

    def final(self) -> State | None:
        """State of the finished run, parts apart; None before its end. Raises StorageError."""
        if not self.final_path.exists():
            return None
        try:
            return read(self.final_path)
        except StorageError as error:
            remedy = f"put it back, or remove {self.final_path}, and --resume goes on from the newest checkpoint"
            raise type(error)(f"{error}; {remedy}") from error.__cause__

    def unfinish(self) -> None:
        """Forget that the run was finished, because it goes on."""
        self.final_path.unlink(missing_ok=True)
        self._sweep()
        sync_directory(self._folder)

    def clear(self) -> None:
        """Forget an earlier run in the same folder."""
        for path in (*self.paths(), self.final_path, self._folder / "generation"):
            path.unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Drop parts whose checkpoint is gone, or was never completed."""
        there = {path.stem for path in (*self.paths(), self.final_path) if path.exists()}
        for folder in self._folder.glob(f"*{SUFFIX}"):
            if folder.stem.rpartition("-")[0] not in there:
                rmtree(folder, ignore_errors=True)

    def _make_folder(self) -> None:
        """Raises UnwritableStorage where something else stands in its place."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            remedy = "move it away, then give --resume if the run had begun"
            raise UnwritableStorage(f"{self._folder} {why_not_made(error)}: {remedy}") from error

    def paths(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(path for path in self._folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name))

    def steps(self) -> list[int]:
        """Their steps, oldest first."""
        return [_step_of(path) for path in self.paths()]

    def forget_after(self, step: int) -> None:
        """Drop later ones: they are of a course that was given up."""
        for path in self.paths():
            if _step_of(path) > step:
                path.unlink()
        self._sweep()

    def newest(
        self, to_step: int | None = None, check: Callable[[], None] = lambda: None, *, is_passing: bool = False
    ) -> Found:
        """The newest whole checkpoint, at most at `to_step`; `check` is asked between pieces, and may end it.

        What is passing is soon copied on: its tensors share memory, which is had faster.
        """
        found, damaged = self.search(to_step, check, is_passing=is_passing)
        if found is None:
            remedy = "; ".join([*damaged, _ANEW]) if damaged else self._none_up_to(to_step)
            raise DependencyViolationError("tolaria", "checkpoint", str(self._folder), remedy)
        return found

    def search(
        self, to_step: int | None = None, check: Callable[[], None] = lambda: None, *, is_passing: bool = False
    ) -> tuple[Found | None, tuple[str, ...]]:
        """The same, or None, and the damage of those that were passed over."""
        damaged: list[str] = []
        for path in reversed(self.paths()):
            if to_step is not None and _step_of(path) > to_step:
                continue
            try:
                state = read(path, check, is_passing=is_passing)
                return Found(state=state, path=path, damaged=tuple(damaged)), tuple(damaged)
            except StorageError as error:
                damaged.append(str(error))
        return None, tuple(damaged)

    def _none_up_to(self, to_step: int | None) -> str:
        kept = self.steps()
        if to_step is None or not kept:
            return f"none was written yet; {_OVERWRITE}"
        return f"none up to step {to_step} is kept, the oldest is of step {kept[0]}; --keep-checkpoints keeps more"

    def next_generation(self, at_least: int) -> int:
        """Claim a generation that no opening of this run had before."""
        self._make_folder()
        path = self._folder / "generation"
        generation = max(_used(path) + 1, at_least)
        write_atomically(path, f"{generation}\n".encode())
        return generation


def _named(step: int) -> str:
    return f"step-{step:012d}"


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _used(path: Path) -> int:
    """The newest generation that was claimed."""
    if not path.exists():
        return 0
    try:
        content = read_regular(path)
        return int(content)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}; {_REMOVE}") from error
    except ValueError as error:
        raise CorruptRecord(f"{path} is damaged: {content[:20]!r} is no number; {_REMOVE}") from error


def read(path: Path, check: Callable[[], None] = lambda: None, *, is_passing: bool = False) -> State:
    """Verify a file and its parts and return its state; `check` is asked between pieces. Raises StorageError."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            state = unpack(Stored(file), str(path), check, is_passing=is_passing)
        verify(state.get("executor", {}), path.parent, check)
        return state
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
