"""What ranks hold in parts, beside a checkpoint's file: each writes its own rows by torch.distributed.checkpoint.

    step-000000000120.ckpt         all else; in the place of each tensor that is in parts, what it is as a whole
    step-000000000120-0.parts/     torch's files, one a rank, and its `.metadata`

A checkpoint is there when its file is, which is written last and holds the SHA-256 of each part file. None of their
bytes is used before that was verified, and no code is run: of torch's metadata, which is pickled, only the names that
it consists of are known.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from esper.core.errors import CorruptRecord, StorageError
from esper.core.storage.files import sync_directory
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.ranks.rows import ROWS, dtype_of, in_parts, is_in_parts, shape_of, share_of, told_of
from esper.tolaria.recovery.packed import PIECE_BYTES, State

PARTS = "parts"
SUFFIX = ".parts"
METADATA = ".metadata"
ALONE_WARNING = "torch.distributed is disabled, unavailable or uninitialized"
"""Of each rank that reads by itself, as all do."""
KNOWN = {
    "torch": frozenset({"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo"}),
    "torch.distributed.checkpoint.metadata": frozenset(
        {
            *("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
            *("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        }
    ),
    "pathlib": frozenset({"PosixPath", "PurePosixPath"}),
    "pathlib._local": frozenset({"PosixPath", "PurePosixPath"}),
}
"""What torch's metadata of tensors consists of."""

Check = Callable[[], None]


class PartFiles:
    """Writes and reads this rank's parts; all ranks call alike."""

    def __init__(self, ranks: Ranks) -> None:
        from torch.distributed.device_mesh import DeviceMesh  # takes a second to import

        self._ranks = ranks
        self._group = ranks.work_group()
        """Of this work alone: it goes on in a thread while steps are made."""
        self._mesh = DeviceMesh.from_group(self._group, "cpu")

    def write(self, state: State, folder: Path) -> State:
        """Make an executor's parts durable; returns what belongs into the checkpoint's file.

        Raises StorageError, and RankLost.
        """
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        tensors: dict[str, Any] = {}
        for path, value in _found(state):
            tensors[path] = self._whole(value[ROWS].detach().cpu().contiguous(), shape_of(value))
        try:
            with self._ranks.collective():
                save(tensors, storage_writer=FileSystemWriter(folder), process_group=self._group)
                files = self._digests(folder)
        except (OSError, RuntimeError, CheckpointException) as error:
            raise StorageError(f"{folder} can't be written: {_first_line(error)}") from error
        return {**_filled(state, lambda path, value: told_of(value)), PARTS: {"folder": folder.name, "files": files}}

    def read(self, state: State, beside: Path) -> State:
        """An executor's state with this rank's rows, as `in_parts` gives them."""
        if PARTS not in state:
            return state
        wanted = {path: (value, _blank(value, self._rows(value))) for path, value in _found(state)}
        given = {path: self._whole(rows, shape_of(value)) for path, (value, rows) in wanted.items()}
        _load(given, beside / state[PARTS]["folder"])
        return _filled(state, lambda path, value: in_parts(wanted[path][1], shape_of(value)))

    def _whole(self, rows: Tensor, shape: torch.Size) -> Any:
        from torch.distributed.tensor import DTensor, Shard

        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(rows, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def _rows(self, value: State) -> int:
        first, last = share_of(shape_of(value)[0], self._ranks.rank, self._ranks.count)
        return last - first

    def _digests(self, folder: Path) -> dict[str, str]:
        """Of all part files, for the first rank; each reads its own."""
        own = [path for path in sorted(folder.glob(f"__{self._ranks.rank}_*")) if path.is_file()]
        own += [folder / METADATA] if self._ranks.is_first else []
        sync_directory(folder)
        found: list[Any] = [None] * self._ranks.count
        dist.all_gather_object(found, {path.name: _digest(path, _nothing) for path in own}, group=self._group)
        return {name: digest for part in found for name, digest in part.items()}


def next_folder(folder: Path, name: str) -> Path:
    """Where a checkpoint of that name may put its parts: an earlier one's stay until its file is replaced."""
    number = 0
    while (path := folder / f"{name}-{number}{SUFFIX}").exists():
        number += 1
    return path


def verify(state: State, beside: Path, check: Check) -> None:
    """Raises CorruptRecord for a part file that isn't what was written; `check` is asked between pieces."""
    if (parts := state.get(PARTS)) is None:
        return
    for name, digest in parts["files"].items():
        path = beside / parts["folder"] / name
        try:
            is_whole = _digest(path, check) == digest
        except OSError as error:
            raise CorruptRecord(f"{path} can't be read: {error.strerror}") from error
        if not is_whole:
            raise CorruptRecord(f"{path} is damaged: its SHA-256 does not match")


def whole(state: State, beside: Path) -> State:
    """An executor's state with whole tensors, for a process that has no use for parts."""
    if PARTS not in state:
        return state
    tensors = {path: _blank(value, shape_of(value)[0]) for path, value in _found(state)}
    _load(tensors, beside / state[PARTS]["folder"])
    return _filled(state, lambda path, value: tensors[path])


def _blank(value: State, rows: int) -> Tensor:
    return torch.zeros((rows, *shape_of(value)[1:]), dtype=dtype_of(value))


def _load(tensors: dict[str, Any], folder: Path) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        """Torch's own would run whatever code its metadata names."""

        def read_metadata(self, *args: Any, **options: Any) -> Any:
            metadata.storage_meta.load_id = self.load_id
            return metadata

    try:
        with (folder / METADATA).open("rb") as file:
            metadata = _Known(file).load()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=ALONE_WARNING, category=UserWarning)
            load(tensors, storage_reader=Reader(folder), no_dist=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, CheckpointException) as error:
        raise CorruptRecord(f"{folder} can't be read: {_first_line(error)}") from error


class _Known(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"its metadata names {module}.{name}, which none consists of")
        return super().find_class(module, name)


def _found(value: Any, path: str = "") -> Iterator[tuple[str, State]]:
    """What is in parts in a state, by its path."""
    if is_in_parts(value):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _found(item, f"{path}/{key}")


def _filled(state: State, make: Callable[[str, State], Any]) -> State:
    """A state with something else in the place of what is in parts."""

    def fill(value: Any, path: str) -> Any:
        if is_in_parts(value):
            return make(path, value)
        return {key: fill(item, f"{path}/{key}") for key, item in value.items()} if isinstance(value, dict) else value

    return {key: fill(item, f"/{key}") for key, item in state.items() if key != PARTS}


def _digest(path: Path, check: Check) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            check()
            digest.update(piece)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    """What one rank met, of an error of torch's that lists all."""
    failures = getattr(error, "failures", None) or {0: (error, None)}
    cause = next(iter(failures.values()))[0]
    return str(cause).strip().partition(os.linesep)[0] or type(cause).__name__


def _nothing() -> None:
    return
