"""Tokens read from a file: slices are those of an array, and a file that changes is told, never a dead process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from esper.core.errors import StorageError
from esper.tolaria.task.data.token_file import TokenFile

TOKENS = np.arange(1000, dtype="<u2")


def opened(path: Path, *, offset: int = 0) -> TokenFile:
    path.write_bytes(bytes(offset) + TOKENS.tobytes())
    with path.open("rb") as file:
        return TokenFile(file, "tokens:here", TOKENS.dtype, offset=offset)


@pytest.mark.parametrize("span", [(0, 1000), (0, 1), (3, 17), (990, 2000), (5, 5), (7, 3), (-4, None), (None, None)])
@pytest.mark.parametrize("offset", [0, 6])
def test_a_slice_is_that_of_an_array(tmp_path: Path, span: tuple[int | None, int | None], offset: int) -> None:
    tokens = opened(tmp_path / "a.bin", offset=offset)
    assert len(tokens) == 1000
    assert np.array_equal(tokens[slice(*span)], TOKENS[slice(*span)])


@pytest.mark.parametrize("size", [0, 100, 1999])
def test_a_file_cut_short_while_it_is_read_is_told_with_both_sizes(tmp_path: Path, size: int) -> None:
    tokens = opened(tmp_path / "a.bin")
    os.truncate(tmp_path / "a.bin", size)
    with pytest.raises(StorageError, match=rf"data tokens:here changed .* had 2,000 bytes, now {size:,}; restore"):
        tokens[10:20]
    with pytest.raises(StorageError, match="changed"):
        tokens[900:1000]


def test_a_file_written_anew_with_as_many_bytes_is_told(tmp_path: Path) -> None:
    tokens = opened(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(bytes(2000))
    os.utime(tmp_path / "a.bin", ns=(0, 1))
    with pytest.raises(StorageError, match="written to, though its 2,000 bytes are as many"):
        tokens[:1]


def test_a_file_replaced_by_another_is_read_on_as_it_was(tmp_path: Path) -> None:
    tokens = opened(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(bytes(10))
    (tmp_path / "b.bin").replace(tmp_path / "a.bin")
    assert np.array_equal(tokens[:], TOKENS)
