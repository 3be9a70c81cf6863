"""Checkpoints: whole or refused, newest first, never two generations alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import CorruptRecord, DependencyViolationError, UnwritableStorage
from esper.tolaria.recovery.checkpoint import CheckpointStore, decode, encode, read

STATE = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "list": [1, 2.5, "three", None, b"four"],
    "nested": {"a": {"b": 1}},
}
CONTENT = encode(STATE)


def test_what_was_written_is_read_back() -> None:
    state = decode(CONTENT, "test")
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {name: value for name, value in STATE.items() if name != "weights"}


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= change
    with pytest.raises(CorruptRecord):
        decode(bytes(damaged), "test")


@given(st.integers(0, len(CONTENT) - 1))
def test_a_file_that_was_cut_off_is_noticed(length: int) -> None:
    with pytest.raises(CorruptRecord):
        decode(CONTENT[:length], "test")


def test_code_in_a_checkpoint_is_refused_even_with_a_right_digest() -> None:
    with pytest.raises(CorruptRecord, match="can't be read"):
        decode(encode({"path": Path("anything")}), "test")


def test_only_the_newest_few_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 40, 300):
        store.write(encode({"step": step}), step)
    assert [read(path)["step"] for path in store.paths()] == [40, 300]
    assert store.newest().state == {"step": 300}
    assert store.newest(to_step=299).state == {"step": 40}


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.write(encode({"step": 1}), 1)
    path = store.write(encode({"step": 2}), 2)
    path.write_bytes(path.read_bytes()[:-3])
    found = store.newest()
    assert found.state == {"step": 1}
    assert "step-000000000002.ckpt" in found.damaged[0]


def test_where_none_is_whole_the_line_says_what_to_do(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.write(encode({"step": 2}), 2).write_bytes(CONTENT[:-3])
    with pytest.raises(DependencyViolationError, match=r"000002\.ckpt .*; put back what is .*, or --overwrite starts"):
        store.newest()
    found, (damage,) = store.search()
    assert found is None
    assert "step-000000000002.ckpt" in damage


def test_a_damaged_end_says_that_a_run_can_go_on_without_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.write(encode({"step": 2}), 2)
    store.write_final(CONTENT).write_bytes(CONTENT[:-3])
    with pytest.raises(CorruptRecord, match=r"final\.ckpt .*; put it back, or remove .*final\.ckpt, and --resume"):
        store.final()
    store.final_path.unlink()
    assert store.final() is None
    assert store.newest().state == {"step": 2}


def test_without_a_whole_checkpoint_the_reader_says_why(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    with pytest.raises(DependencyViolationError, match="none was written yet"):
        store.newest()
    store.write(b"garbage", 1)
    with pytest.raises(DependencyViolationError, match="not a checkpoint"):
        store.newest()


def test_a_file_that_is_being_written_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-000000000009.ckpt.abcd").write_bytes(CONTENT)
    (tmp_path / "step-9.ckpt").write_bytes(CONTENT)
    assert CheckpointStore(tmp_path, keep=3).paths() == []


def test_every_generation_is_claimed_once_also_by_another_process(tmp_path: Path) -> None:
    claimed = [CheckpointStore(tmp_path, keep=3).next_generation(least) for least in (1, 1, 2, 9, 4)]
    assert claimed == [1, 2, 3, 9, 10]


def test_a_new_run_forgets_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.write(CONTENT, 4)
    store.write_final(CONTENT)
    (tmp_path / "notes.txt").write_text("mine")
    store.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"three\n"])
def test_a_damaged_generation_is_told_and_its_remedy_works(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "generation"
    path.write_bytes(content)
    store = CheckpointStore(tmp_path, keep=3)
    with pytest.raises(CorruptRecord, match=r"generation is damaged: .* remove it"):
        store.next_generation(3)
    path.unlink()
    assert store.next_generation(3) == 3


def test_a_file_in_the_folders_place_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("")
    store = CheckpointStore(folder, keep=1)
    writes = (lambda: store.write(CONTENT, 1), lambda: store.write_final(CONTENT), lambda: store.next_generation(1))
    for write in writes:
        with pytest.raises(UnwritableStorage, match="checkpoints is a file, no folder: move it away, then give"):
            write()


def test_none_that_is_old_enough_is_told_with_what_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (10, 20):
        store.write(CONTENT, step)
    with pytest.raises(DependencyViolationError, match="none up to step 15 is kept, the oldest is of step 20"):
        store.newest(15)
