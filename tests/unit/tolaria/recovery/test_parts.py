"""Parts of a checkpoint on the disk: verified before anything is read, and read without running code."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from esper.core.errors import CorruptRecord
from esper.tolaria.ranks.rows import SHAPE, in_parts, is_in_parts, share_of, told_of
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode
from esper.tolaria.recovery.parts import METADATA, PARTS, verify, whole

WEIGHT = torch.arange(12.0).view(4, 3)


def state(folder: Path) -> dict[str, Any]:
    """An executor's state of which one tensor stands in a folder beside the checkpoint."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    told = told_of(in_parts(WEIGHT[:2], WEIGHT.shape))
    return {"arm": {"model": {"w": told}, "step": 3}, PARTS: {"folder": folder.name, "files": files}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As one rank writes it that holds all rows."""
    made = tmp_path / "step-000000000004-0.parts"
    with pytest.warns(UserWarning, match="to save in a single process"):
        save({"/arm/model/w": WEIGHT}, storage_writer=FileSystemWriter(made), no_dist=True)
    return made


def test_parts_are_put_together_and_damage_is_told_before_it_is_read(folder: Path) -> None:
    written = state(folder)
    verify(written, folder.parent, lambda: None)
    found = whole(written, folder.parent)
    assert torch.equal(found["arm"]["model"]["w"], WEIGHT)
    assert found["arm"]["step"] == 3
    assert PARTS not in found
    part = next(path for path in folder.iterdir() if path.suffix == ".distcp")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(CorruptRecord, match=rf"{part.name} is damaged: its SHA-256 does not match"):
        verify(written, folder.parent, lambda: None)
    part.unlink()
    with pytest.raises(CorruptRecord, match=rf"{part.name} can't be read: No such file"):
        verify(written, folder.parent, lambda: None)


class _Command:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def test_metadata_that_names_code_is_not_read(folder: Path) -> None:
    (folder / METADATA).write_bytes(pickle.dumps(_Command()))
    with pytest.raises(CorruptRecord, match=r"its metadata names posix\.system, which none consists of"):
        whole(state(folder), folder.parent)


def test_parts_go_with_their_checkpoint_and_those_that_were_never_completed_too(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (4, 8):
        store.parts_of(step).mkdir()
        store.write(encode({"executor": {}}), step)
    store.parts_of(9).mkdir()
    assert store.parts_of(8).name == "step-000000000008-1.parts"
    store.write(encode({"executor": {}}), 12)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000012.ckpt"]


def test_rows_are_shared_out_as_chunks_are() -> None:
    for length in range(9):
        for count in range(1, 5):
            chunks = [len(chunk) for chunk in torch.empty(length, 2).chunk(count)] if length else []
            found = [last - first for first, last in (share_of(length, rank, count) for rank in range(count))]
            assert found == [*chunks, *[0] * (count - len(chunks))]
    assert is_in_parts(in_parts(WEIGHT, WEIGHT.shape))
    assert in_parts(WEIGHT, WEIGHT.shape)[SHAPE] == [4, 3]
